"""What a stream of tar shards holds: a small folder that stands for data which stay where they are.

- ``stream.json``: where the shards lie, how many samples and bytes each has, and how they are read;
- ``captions.txt``: captions from all over the shards, for vocabularies and statistics;
- ``preview/``: a prepared data set of a few of the images, for sample sheets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganvas.data.archives import Sample, Tar, samples
from ganvas.data.captions import clean
from ganvas.data.pixels import Fit, decode
from ganvas.data.shards import (
    check_inside,
    is_address,
    open_shard,
)
from ganvas.data.source import chosen_options
from ganvas.data.store import Store
from ganvas.data.webdataset import Parts, Unusable
from ganvas.errors import GanvasError

FORMAT = 1
_MAX_INDEX_BYTES = 256 << 20
_MOST = {"lanes": 256, "buffer": 1_000_000, "megabytes": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How shards are read; each of these has a say in the order of the samples, or in their pixels."""

    size: int = 64
    """Side of the images, pixels; training may crop from it."""
    fit: Fit = field(default_factory=Fit)
    """How images are brought to size."""
    text: str = ""
    """The key of the captions in ``.json``; empty: ``.txt``, or ``caption``."""
    lanes: int = 4
    """Shards that a rank reads at once."""
    buffer: int = 2048
    """Samples that are shuffled together; rounded to whole batches."""
    megabytes: int = 1024
    """Of encoded images in memory at most; where samples are large, fewer are shuffled together."""


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What ``stream.json`` holds."""

    root: str
    """The folder or address that all shards lie under."""
    shards: list[tuple[str, int, int]]
    """Name under ``root``, samples, and bytes (0 where a server does not tell)."""
    reading: Reading
    fingerprint: str
    """SHA-256 over all but ``root``: streams with the same fingerprint give the same batches."""
    name: str = "webdataset"
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.reading.size


class ShardStream:
    """Indexed shards, opened for reading.

    Attributes:
        info: shards, counts, fingerprint.
        counts: ``(N,)``, samples of each shard.
        bytes: ``(N,)``, of each shard.
        captions: some, from all over the shards.
        preview: a few images, prepared.

    Args:
        path: a folder that ``ganvas.data.indexing.index_shards`` made.

    Raises:
        GanvasError: it is none, or it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.info = read_info(self.path / "stream.json")
        self.counts: npt.NDArray[np.int64] = np.array([count for _, count, _ in self.info.shards], np.int64)
        self.bytes: npt.NDArray[np.int64] = np.array([size for _, _, size in self.info.shards], np.int64)
        try:
            self.captions = (self.path / "captions.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GanvasError(f"{self.path}: captions.txt cannot be read ({error}); index it again") from None
        self.preview = Store(self.path / "preview")
        self._parts = Parts(self.info.reading.text)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def read(self, shard: int, first: int = 0) -> Iterator[tuple[str, Sample]]:
        """The samples of one shard with their names, from number ``first`` on.

        Raises:
            GanvasError: the shard cannot be read, or holds fewer than it did.
        """
        name, count, _ = self.info.shards[shard]
        address = f"{self.info.root}/{name}" if self.info.root else name
        number = first
        with closing(open_shard(address)) as file:
            found = samples(Tar(file, address), self._parts.wanted, self._parts.complete, skip=first)
            for number, sample in enumerate(found, first + 1):
                yield f"{name}/{sample.key}", sample
                if number == count:
                    return
        raise GanvasError(
            f"{address}: holds {number:,} samples, but {self.path} was made when it held {count:,}; index it"
            " again"
        )

    def decode(self, sample: Sample) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """Pixels ``(S, S, 3)`` and captions of a sample.

        Raises:
            Unusable: it has none that can be used.
        """
        return usable(sample, self._parts, self.info.reading)


def usable(sample: Sample, parts: Parts, reading: Reading) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pixels ``(S, S, 3)`` and captions of a sample.

    Raises:
        Unusable: it has none that can be used.
    """
    captions, reasons = clean(parts.captions(sample))
    if not captions:
        raise Unusable(reasons[0])
    try:
        return decode(parts.image(sample), reading.size, reading.fit), captions
    except ValueError as error:
        raise Unusable(str(error)) from None


def holds_stream(path: Path) -> bool:
    """Whether ``path`` is a folder that stands for indexed shards."""
    return (path / "stream.json").is_file()


def reading_of(options: Mapping[str, str], *, size: int, fit: Fit | None = None) -> Reading:
    """How shards are read, from the options of ``ganvas data prepare webdataset --option stream=yes``.

    Args:
        options: ``text``, ``lanes``, ``buffer`` and ``megabytes``, as in ``Reading``.
        size: side of the images, pixels.
        fit: how they are brought to size.

    Raises:
        GanvasError: an option that there is not, or a value out of range.
    """
    defaults = {key: str(getattr(Reading(), key)) for key in ("text", "lanes", "buffer", "megabytes")}
    chosen = chosen_options("webdataset", {k: v for k, v in options.items() if k != "stream"}, defaults)
    numbers = {key: chosen[key] for key in ("lanes", "buffer", "megabytes")}
    for key, text in numbers.items():
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise GanvasError(f"data set 'webdataset': option {key}={text}: give a whole number")
    reading = Reading(
        size=size, fit=fit or Fit(), text=chosen["text"], **{key: int(text) for key, text in numbers.items()}
    )
    check_reading(reading)
    return reading


def check_reading(reading: Reading) -> None:
    """Refuse what shards cannot be read with.

    Raises:
        GanvasError: a value is out of range.
    """
    if not 16 <= reading.size <= 1024:
        raise GanvasError(f"size {reading.size}: is not between 16 and 1024 pixels")
    if reading.fit.resize == "whole" or reading.fit.box:
        raise GanvasError("a stream needs square images: choose to resize 'shorter' or 'square'")
    for name, most in _MOST.items():
        if not 1 <= getattr(reading, name) <= most:
            raise GanvasError(f"{name} {getattr(reading, name)}: is not between 1 and {most:,}")


def read_info(path: Path) -> StreamInfo:
    """What a ``stream.json`` holds.

    Raises:
        GanvasError: it is damaged, or leads out of its folder.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"more than {_MAX_INDEX_BYTES:,} bytes")
        info = TypeAdapter(StreamInfo).validate_json(path.read_bytes())
        if info.format != FORMAT:
            raise ValueError(f"format {info.format}, but this Ganvas reads format {FORMAT}")
        if not all(count >= 0 and size >= 0 for _, count, size in info.shards):
            raise ValueError("negative counts")
        check_reading(info.reading)
        is_address(info.root)
        for name, _, _ in info.shards:
            check_inside(name, str(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise GanvasError(
            f"{path}: cannot be read ({where}: {first['msg']}); index the shards again"
        ) from None
    except GanvasError:
        raise
    except (OSError, ValueError) as error:
        raise GanvasError(f"{path}: cannot be read ({error}); index the shards again") from None
    return info
