"""What a stream of tar shards holds: a small folder that stands for data which stay where they are.

- ``stream.json``: where the shards lie, how many samples and bytes each has, and how they are read;
- ``captions.txt``: captions from all over the shards, for vocabularies and statistics;
- ``preview/``: a prepared data set of a few of the images, for sample sheets.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganvas.data.archives import Sample, Tar, samples
from ganvas.data.captions import clean
from ganvas.data.pixels import Fit, decode
from ganvas.data.shards import (
    check_inside,
    filesystem,
    is_address,
    list_shards,
    open_shard,
    relative_names,
    shard_bytes,
    with_retries,
)
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.data.webdataset import Parts, Unusable
from ganvas.errors import GanvasError, RunStopped
from ganvas.progress import progress

FORMAT = 1
NUM_CAPTIONS = 10_000
"""Captions that are kept beside the shards, at most."""
NUM_PREVIEWS = 64
"""Images that are."""
_MAX_INDEX_BYTES = 256 << 20
_MAX_STATS_BYTES = 16 << 20
_AT_ONCE = 16  # shards


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
        path: a folder that ``index_shards`` made.

    Raises:
        GanvasError: it is none, or it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.info = _read_info(self.path / "stream.json")
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


def index_shards(
    place: str, out: str | os.PathLike[str], reading: Reading | None = None, *, force: bool = False
) -> StreamInfo:
    """Count the samples of shards, and write the folder that training streams them by.

    Counts come from the ``NNNNN_stats.json`` that ``img2dataset`` writes beside each shard, or else from a
    pass over it. Shards that were counted are remembered, so a call that was interrupted goes on.

    Args:
        place: see ``list_shards``.
        out: the folder to make.
        reading: how the shards are read.
        force: count again what is indexed already.

    Raises:
        GanvasError: there are no shards or no usable samples, a shard is damaged, or ``out`` holds something
            else.
        RunStopped: the network failed, or the folder cannot be written.
    """
    reading = reading or Reading()
    _check(reading)
    path = Path(out)
    _refuse_other_things(path)
    root, names = relative_names([_absolute(shard) for shard in list_shards(place)])
    if not force and holds_stream(path):
        done = _read_info(path / "stream.json")
        if (done.root, [name for name, _, _ in done.shards], done.reading) == (root, names, reading):
            return done
    try:
        path.mkdir(parents=True, exist_ok=True)
        counted = _count(path / "counted.jsonl", root, names, reading.text)
        shards = [(name, *counted[name]) for name in names]
        digest = hashlib.sha256(json.dumps([FORMAT, asdict(reading), shards]).encode()).hexdigest()
        info = StreamInfo(root=root, shards=shards, reading=reading, fingerprint=digest)
        if not sum(count for _, count, _ in shards):
            raise GanvasError(f"{place}: no sample has an image and a caption")
        _write_previews(path, root, info)
        part = path / "stream.json.partial"
        part.write_text(json.dumps(asdict(info), ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path / "stream.json")
        (path / "counted.jsonl").unlink()
    except OSError as error:
        raise RunStopped(f"{path}: cannot be written ({error.strerror or error})") from None
    return info


def _refuse_other_things(path: Path) -> None:
    ours = holds_stream(path) or (path / "counted.jsonl").is_file()
    if path.exists() and not ours and (not path.is_dir() or any(path.iterdir())):
        raise GanvasError(f"{path}: is not empty and holds no stream; choose another folder")


def _absolute(shard: str) -> str:
    return shard if is_address(shard) else os.path.abspath(shard)  # noqa: PTH100  # follows no link


def _check(reading: Reading) -> None:
    if not 16 <= reading.size <= 1024:
        raise GanvasError(f"size {reading.size}: is not between 16 and 1024 pixels")
    if reading.fit.resize == "whole" or reading.fit.box:
        raise GanvasError("a stream needs square images: choose to resize 'shorter' or 'square'")
    for name in ("lanes", "buffer", "megabytes"):
        if getattr(reading, name) < 1:
            raise GanvasError(f"{name} {getattr(reading, name)}: give 1 or more")


def _count(journal: Path, root: str, names: list[str], text: str) -> dict[str, tuple[int, int]]:
    """Samples and bytes of every shard; what is counted is noted at once."""
    head = {"root": root, "text": text}
    counted = _counted_before(journal, head)
    left = [name for name in names if name not in counted]
    lines = [json.dumps(head), *(json.dumps([name, *counted[name]]) for name in counted)]
    journal.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="count")
    try:
        with (
            journal.open("a", encoding="utf-8") as file,
            progress("shards", len(names), unit="shards") as report,
        ):
            work = {pool.submit(_count_one, root, name, text): name for name in left}
            for future in as_completed(work):
                name = work[future]
                counted[name] = future.result()
                file.write(json.dumps([name, *counted[name]]) + "\n")
                file.flush()
                report(len(counted))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return counted


def _counted_before(journal: Path, head: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """What an earlier call noted, up to a line that was cut off."""
    found: dict[str, tuple[int, int]] = {}
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]) != head:
            return {}
        for line in lines[1:]:
            name, count, size = json.loads(line)
            found[str(name)] = (int(count), int(size))
    except (OSError, ValueError, TypeError):
        pass
    return found


def _count_one(root: str, name: str, text: str) -> tuple[int, int]:
    address = f"{root}/{name}" if root else name
    size = shard_bytes(address)
    known = _successes(address)
    if known is not None:
        return known, size
    with closing(open_shard(address)) as file:
        found = samples(Tar(file, address), lambda _: False, Parts(text).complete)
        return sum(1 for _ in found), size


def _successes(address: str) -> int | None:
    """What img2dataset says of a shard; None where it says nothing."""
    place = f"{address.removesuffix('.tar')}_stats.json"
    try:
        if is_address(address):
            files, path = filesystem(place)
            data = with_retries(place, lambda: files.cat_file(path, end=_MAX_STATS_BYTES))
        else:
            with Path(place).open("rb") as file:
                data = file.read(_MAX_STATS_BYTES)
        count = json.loads(data)["successes"]
    except RunStopped:
        raise
    except (GanvasError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return count if isinstance(count, int) and count >= 0 else None


def _write_previews(path: Path, root: str, info: StreamInfo) -> None:
    """A few images and more captions, from shards at even distances."""
    filled = [name for name, count, _ in info.shards if count]
    chosen = [filled[i] for i in np.unique(np.linspace(0, len(filled) - 1, NUM_PREVIEWS).astype(int))]
    parts, reading = Parts(info.reading.text), info.reading
    each = -(-NUM_CAPTIONS // len(chosen))
    images = -(-NUM_PREVIEWS // len(chosen))
    captions: list[str] = []
    shutil.rmtree(path / "preview", ignore_errors=True)
    with StoreWriter(
        path / "preview",
        name="preview",
        size=reading.size,
        source="the beginnings of shards",
        licence="that of its images",
    ) as writer:
        for name in chosen:
            address = f"{root}/{name}" if root else name
            with closing(open_shard(address)) as file:
                shown = 0
                for sample in _some(samples(Tar(file, address), parts.wanted, parts.complete), each):
                    texts, _ = _texts(sample, parts)
                    captions += texts[:1]
                    if (
                        texts
                        and shown < images
                        and _add(writer, f"{name}/{sample.key}", sample, parts, reading)
                    ):
                        shown += 1
        if not captions:
            raise GanvasError(f"{root}: no caption among the first samples of {len(chosen):,} shards")
        writer.finish()
    (path / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")


def _some(items: Iterable[Sample], most: int) -> Iterator[Sample]:
    for _, item in zip(range(most), items, strict=False):
        yield item


def _texts(sample: Sample, parts: Parts) -> tuple[list[str], list[str]]:
    try:
        return clean(parts.captions(sample))
    except Unusable as reason:
        return [], [str(reason)]


def _add(writer: StoreWriter, name: str, sample: Sample, parts: Parts, reading: Reading) -> bool:
    try:
        pixels, captions = usable(sample, parts, reading)
    except Unusable:
        return False
    writer.add(Record(id=name, split="train", captions=tuple(captions)), pixels)
    return True


def _read_info(path: Path) -> StreamInfo:
    from pydantic import TypeAdapter, ValidationError

    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"more than {_MAX_INDEX_BYTES:,} bytes")
        info = TypeAdapter(StreamInfo).validate_json(path.read_bytes())
        if info.format != FORMAT:
            raise ValueError(f"format {info.format}, but this Ganvas reads format {FORMAT}")
        if not all(count >= 0 and size >= 0 for _, count, size in info.shards):
            raise ValueError("negative counts")
        _check(info.reading)
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
