"""The prepared store: captioned images as every part of Ganvas reads them.

A store is a folder:

- ``dataset.json``: what it is (name, size, splits, counts, source, licence, fingerprint);
- ``captions.parquet``: one row an image: ``id``, ``split``, ``class``, ``captions``, ``attributes``;
- ``images.npy``: uint8, ``(N, S, S, 3)``, memory-mapped, in the rows' order;
- ``rejected.csv``: every image or caption that was left out, and why.

It is written aside and renamed into place, so a store that exists is whole.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ganvas.errors import GanvasError, did_you_mean

FORMAT = 1
SPLITS = ("train", "val", "test")
_HEADER_BYTES = 128  # what a .npy header of this kind takes, whatever the number of rows

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("class", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Record:
    """One captioned image, before its pixels are known."""

    id: str
    """Unique in its store."""
    split: str
    """``train``, ``val`` or ``test``."""
    captions: tuple[str, ...]
    """At least one, each with at least one visible character."""
    label: str | None = None
    """The name of its class, where the set has classes."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Facts about the image, such as ``style`` or ``skin_tone``; scores use them."""
    image: str | bytes = ""
    """Where its pixels are, for the source that made the record, or the encoded image. It is not stored."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height of what it shows, pixels of the original, where known. It is not stored."""


@dataclass(frozen=True)
class StoreInfo:
    """What ``dataset.json`` holds."""

    name: str
    size: int
    """Side of the stored images, pixels."""
    splits: dict[str, int]
    """Images of each split."""
    num_captions: int
    num_classes: int
    """0 where the set has no classes."""
    source: str
    licence: str
    fingerprint: str
    """SHA-256 over rows and pixels: two stores with the same fingerprint hold the same data."""
    options: dict[str, str] = field(default_factory=dict)
    """The options it was prepared with."""
    format: int = FORMAT


class Store:
    """A prepared store, opened for reading. Images stay on disk (memory-mapped) until they are asked for.

    Attributes:
        info: name, size, splits, licence, fingerprint.
        images: uint8 ``(N, S, S, 3)``, memory-mapped.
        ids, splits, labels: one string a row (a label may be None).
        captions: one list of strings a row.
        attributes: one dict a row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the store at ``path``.

        Raises:
            GanvasError: ``path`` is no prepared store, or its files disagree.
        """
        self.path = Path(path)
        meta = self.path / "dataset.json"
        if not meta.is_file():
            raise GanvasError(
                f"{self.path}: no prepared data set here (dataset.json is missing);"
                f" make one with 'ganvas data prepare NAME --out {self.path}'"
            )
        try:
            self.info = _read_info(meta)
            table = pq.read_table(self.path / "captions.parquet", schema=_SCHEMA)
            self.images: npt.NDArray[np.uint8] = np.load(
                self.path / "images.npy", mmap_mode="r", allow_pickle=False
            )
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            raise _damaged(self.path, str(error)) from None
        size, rows = self.info.size, table.num_rows
        if self.images.shape != (rows, size, size, 3) or self.images.dtype != np.uint8:
            raise GanvasError(
                f"{self.path}: images.npy holds {self.images.dtype} {self.images.shape}, but the other files"
                f" promise uint8 {(rows, size, size, 3)}; prepare it again"
            )
        self.ids: list[str] = table["id"].to_pylist()
        self.splits: list[str] = table["split"].to_pylist()
        if self.info.splits != _count(self.splits):
            raise _damaged(self.path, "the splits' counts in dataset.json are not those of captions.parquet")
        self.labels: list[str | None] = table["class"].to_pylist()
        self.captions: list[list[str]] = table["captions"].to_pylist()
        if not all(self.captions):
            raise _damaged(self.path, "captions.parquet has an image without a caption")
        self.attributes: list[dict[str, str]] = [dict(row or ()) for row in table["attributes"].to_pylist()]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The row numbers of ``split``, ascending.

        Raises:
            GanvasError: the store has no image in that split.
        """
        if not self.info.splits.get(split):
            filled = [name for name, count in self.info.splits.items() if count]
            raise GanvasError(f"{self.path}: no split '{split}' here; {did_you_mean(split, filled)}")
        return np.flatnonzero(np.asarray(self.splits) == split)


class StoreWriter:
    """Writes a prepared store, image by image; nothing appears at ``path`` before ``finish``.

    Use it as a context manager: leaving it through an exception removes what was written.

    Args:
        path: the folder to make. It may exist only as a prepared store (which is then replaced) or empty.
        name: the set's name.
        size: side of the images, pixels.
        source: where the data come from, for people.
        licence: SPDX name, or words.
        options: the options the store is prepared with.

    Raises:
        GanvasError: ``path`` holds something else, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        size: int,
        source: str,
        licence: str,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._about = {"name": name, "source": source, "licence": licence, "options": dict(options or {})}
        self._size = size
        self._records: list[Record] = []
        self._seen: set[str] = set()
        self._rejected: list[tuple[str, str]] = []
        self._digest = hashlib.sha256()
        if self.path.exists() and not holds_store(self.path):
            if not self.path.is_dir():
                raise GanvasError(f"{self.path}: is a file; give a folder for the prepared data set")
            if any(self.path.iterdir()):
                raise GanvasError(
                    f"{self.path}: is not empty and holds no prepared data set; choose another folder"
                )
        # the whole path: "." cannot be renamed (and unlike resolve, this follows no link)
        self._place = Path(os.path.abspath(self.path))  # noqa: PTH100
        self._part = self._place.with_name(f".{self._place.name}.partial-{os.getpid()}")
        try:
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
            self._pixels = (self._part / "images.npy").open("wb")
            self._pixels.write(bytes(_HEADER_BYTES))
        except OSError as error:
            raise GanvasError(f"{self.path}: cannot write here ({error.strerror})") from None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what could not be written is thrown away below
            self._pixels.close()
        shutil.rmtree(self._part, ignore_errors=True)

    def add(self, record: Record, image: npt.NDArray[np.uint8]) -> None:
        """Append one image, uint8 ``(S, S, 3)``, with its captions."""
        shape = (self._size, self._size, 3)
        assert image.shape == shape and image.dtype == np.uint8, f"{record.id}: {image.dtype} {image.shape}"
        assert record.split in SPLITS and record.captions, record
        if record.id in self._seen:
            self.reject(record.id, "a second image with this id")
            return
        self._seen.add(record.id)
        self._records.append(record)
        pixels = np.ascontiguousarray(image).data
        self._pixels.write(pixels)
        facts = (record.id, record.split, record.label, record.captions, sorted(record.attributes.items()))
        self._digest.update(repr(facts).encode())
        self._digest.update(pixels)

    def reject(self, identity: str, reason: str) -> None:
        """Note an image or caption that is left out."""
        self._rejected.append((identity, reason))

    @property
    def num_rejected(self) -> int:
        """How many were left out so far."""
        return len(self._rejected)

    def finish(self) -> StoreInfo:
        """Write the tables, move the store into place, and return what it holds."""
        if not self._records:
            raise GanvasError(f"{self.path}: nothing to prepare: no image with a caption was found")
        self._write_header()
        columns = {
            "id": [r.id for r in self._records],
            "split": [r.split for r in self._records],
            "class": [r.label for r in self._records],
            "captions": [list(r.captions) for r in self._records],
            "attributes": [list(r.attributes.items()) for r in self._records],
        }
        pq.write_table(pa.table(columns, schema=_SCHEMA), self._part / "captions.parquet")
        with (self._part / "rejected.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "reason"), *self._rejected])
        info = StoreInfo(
            size=self._size,
            splits=_count([r.split for r in self._records]),
            num_captions=sum(len(r.captions) for r in self._records),
            num_classes=len({r.label for r in self._records if r.label is not None}),
            fingerprint=self._digest.hexdigest(),
            **self._about,  # type: ignore[arg-type]
        )
        text = json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n"
        (self._part / "dataset.json").write_text(text, encoding="utf-8")
        old = self._part.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._place.exists():
            self._place.rename(old)
        try:
            self._part.rename(self._place)
        except OSError:
            if old.exists():
                old.rename(self._place)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return info

    def _write_header(self) -> None:
        """Fill the room kept at the front of ``images.npy``, now that the number of images is known."""
        header = io.BytesIO()
        shape = (len(self._records), self._size, self._size, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        assert len(header.getvalue()) == _HEADER_BYTES
        self._pixels.seek(0)
        self._pixels.write(header.getvalue())
        self._pixels.close()


def holds_store(path: Path) -> bool:
    """Whether ``path`` is a folder with a prepared store's files, whole or damaged."""
    return all((path / name).is_file() for name in ("dataset.json", "captions.parquet", "images.npy"))


def _read_info(meta: Path) -> StoreInfo:
    """What ``dataset.json`` holds; every way in which it can be wrong is a ValueError of one line."""
    from pydantic import TypeAdapter, ValidationError

    try:
        info = TypeAdapter(StoreInfo).validate_json(meta.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"dataset.json{f', {place}' if place else ''}: {first['msg']}") from None
    if info.format != FORMAT:
        raise ValueError(f"dataset.json: format {info.format}, but this Ganvas reads format {FORMAT}")
    return info


def _count(splits: Sequence[str]) -> dict[str, int]:
    return {name: splits.count(name) for name in SPLITS}


def _damaged(path: Path, reason: str) -> GanvasError:
    return GanvasError(
        f"{path}: this prepared data set is damaged ({' '.join(reason.split())}); prepare it again"
    )


def caption_table(captions: Sequence[Sequence[str]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """All captions in one list, and where each row's begin: row ``i`` owns ``[starts[i], starts[i + 1])``."""
    flat = [caption for row in captions for caption in row]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in captions])]).astype(np.int64)
    return flat, starts
