"""What a data set offers to be prepared: its records, and the pixels of each.

A reader of another data set is one class in a module of its own, and one line in ``SOURCES``.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from ganvas.data.pixels import Fit, decode
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean


class Rejected(Exception):
    """An image or caption that cannot be used; its text is the reason, as ``rejected.csv`` shows it."""


@dataclass(frozen=True)
class LeftOut:
    """Something that a data set names and that no record can be made of."""

    id: str
    """Of the image, or the name of its file."""
    reason: str
    """As ``rejected.csv`` shows it."""
    within: bool = False
    """It is a part of an image, such as one of its captions, and the image itself may be kept."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a data set."""

    place: str | None = None
    """Where it lies: a folder, a file or an address, as the user gave it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of this data set."""
    fit: Fit | None = None
    """How its images are brought to size; None is what the data set finds right."""


class Source(ABC):
    """A data set before it is prepared.

    It travels to worker processes by pickle, once for each: large tables stay out of its attributes, and
    what one image needs travels in its record.

    Attributes:
        name: the data set's name.
        about: what the data are, with versions or ``listing_digest``: a store with another text is prepared
            anew. No absolute path: the same data in another place are the same data.
        licence: SPDX name, or words.
        options: every option with its value, defaults included.
        sizes: the smallest and the largest side that makes sense, pixels.
        fit: how images are brought to size; None where they are drawn at any size.
    """

    name: str
    about: str
    licence: str
    options: dict[str, str]
    sizes: tuple[int, int]
    fit: Fit | None = None

    @abstractmethod
    def records(self) -> Iterable[Record | LeftOut]:
        """Every captioned image, in an order that is the same on every machine.

        Captions are as the data set has them (an image may have none): cleaning them is not the reader's
        work. Each call begins anew.

        Raises:
            GanvasError: the data set as a whole cannot be read.
        """

    @abstractmethod
    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        """The pixels of one image, uint8 ``(H, W, 3)``: square, unless ``fit`` keeps the longer side.

        Raises:
            Rejected: this image cannot be used; the others can.
        """

    def write_extras(self, folder: Path, ids: Sequence[str]) -> None:  # noqa: B027  # most have none
        """Write further files of the store, such as ``objects.parquet``.

        Args:
            folder: where they go.
            ids: the images that the store holds, in its order.
        """


class PhotoSource(Source):
    """A data set of image files: it says where each lies, and is brought to size in one way for all.

    Attributes:
        root: the folder that ``Record.image`` is relative to.
    """

    sizes = (16, 1024)
    fit: Fit
    root: Path

    def encoded(self, record: Record) -> bytes:
        """The bytes of the image file.

        Raises:
            Rejected: there is no such file, or it cannot be read.
        """
        assert isinstance(record.image, str), record.id
        path = self.root / record.image
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise Rejected(f"no image file ({record.image})") from None
        except OSError as error:
            raise Rejected(f"cannot be read ({record.image}: {error.strerror})") from None

    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        """The image at its size."""
        encoded = record.image if isinstance(record.image, bytes) else self.encoded(record)
        try:
            return decode(encoded, size, self.fit, record.box)
        except ValueError as error:
            raise Rejected(str(error)) from None


def chosen_options(name: str, given: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The options of a data set: its defaults, and what the user gave instead.

    Raises:
        GanvasError: an option that the data set does not have.
    """
    for option in given:
        if option not in defaults:
            raise GanvasError(
                f"data set '{name}': no option '{option}'; "
                + (did_you_mean(option, defaults) if defaults else "it has none")
            )
    return {**defaults, **given}


def source_folder(request: Request, name: str, looked_for: str) -> Path:
    """The folder that the user gave as the place of a data set.

    Args:
        request: what the user gave.
        name: of the data set.
        looked_for: what such a folder holds, for the error.

    Raises:
        GanvasError: none was given, or it is no folder.
    """
    if request.place is None:
        raise GanvasError(f"data set '{name}': say where it lies: ganvas data prepare {name} FOLDER")
    folder = Path(request.place).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        raise GanvasError(f"{folder}: {what}; data set '{name}' needs a folder with {looked_for}")
    return folder


def listing_digest(root: Path, names: Iterable[str], contents: Iterable[Path] = ()) -> str:
    """Twelve characters that change when files are added, removed or change in size.

    Args:
        root: what ``names`` are relative to.
        names: files of which name and size count (a missing one counts by its name).
        contents: files of which every byte counts.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        try:
            size = os.stat(root / name).st_size  # noqa: PTH116  # half the time of Path.stat, for 10^5 files
        except OSError:
            size = -1
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    for path in contents:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()[:12]


def _reader(place: str) -> Callable[[Request], Source]:
    """A reader that is imported when it is first asked for; ``place`` is ``module:class``."""
    module, name = place.split(":")

    def read(request: Request) -> Source:
        return cast(Source, getattr(import_module(f"ganvas.data.{module}"), name)(request))

    return read


SOURCES: dict[str, Callable[[Request], Source]] = {
    "emoji": _reader("emoji:EmojiSource"),
    "folder": _reader("folder:FolderSource"),
    "cub": _reader("cub:CubSource"),
    "oxford102": _reader("oxford102:Oxford102Source"),
    "coco": _reader("coco:CocoSource"),
    "narratives": _reader("narratives:NarrativesSource"),
    "webdataset": _reader("webdataset:WebDatasetSource"),
    "huggingface": _reader("huggingface:HuggingFaceSource"),
}
"""Every data set that can be prepared, by name."""


def find_source(name: str) -> Callable[[Request], Source]:
    """The reader of the data set called ``name``.

    Raises:
        GanvasError: no such data set.
    """
    if name not in SOURCES:
        raise GanvasError(f"no data set '{name}'; {did_you_mean(name, SOURCES)}")
    return SOURCES[name]


def open_source(name: str, request: Request) -> Source:
    """The data set called ``name``.

    Raises:
        GanvasError: no such data set, not where it is said to lie, or no such option.
    """
    return find_source(name)(request)
