"""Counting the samples of tar shards once, so that training can stream them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ganvas.data.archives import Sample, Tar, samples
from ganvas.data.captions import clean
from ganvas.data.pixels import Fit
from ganvas.data.shards import (
    filesystem,
    is_address,
    list_shards,
    open_shard,
    relative_names,
    shard_bytes,
    with_retries,
)
from ganvas.data.store import Record
from ganvas.data.store_writer import StoreWriter
from ganvas.data.stream_index import (
    FORMAT,
    Reading,
    StreamInfo,
    check_reading,
    holds_stream,
    read_info,
    reading_of,
    usable,
)
from ganvas.data.webdataset import Parts, Unusable
from ganvas.errors import GanvasError, RunStopped
from ganvas.progress import progress

NUM_CAPTIONS = 10_000
"""Captions that are kept beside the shards, at most."""
NUM_PREVIEWS = 64
"""Images that are."""
_MAX_STATS_BYTES = 16 << 20
_AT_ONCE = 16  # shards


def index_as_asked(
    place: str | None,
    out: str | os.PathLike[str],
    options: Mapping[str, str],
    *,
    size: int,
    fit: Fit | None = None,
    like: str | None = None,
    force: bool = False,
) -> StreamInfo:
    """What ``ganvas data prepare webdataset --option stream=yes`` does; see ``index_shards``.

    Raises:
        GanvasError: no place, an option that there is not, or the preparation of a paper.
    """
    if options["stream"] != "yes":
        raise GanvasError(f"data set 'webdataset': option stream={options['stream']}: give yes or no")
    if place is None:
        raise GanvasError("data set 'webdataset': say where it lies: ganvas data prepare webdataset SHARDS")
    if like is not None:
        raise GanvasError(f"--like {like}: shards are streamed as they are; prepare them without stream=yes")
    return index_shards(place, out, reading_of(options, size=size, fit=fit), force=force)


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
    check_reading(reading)
    path = Path(out)
    _refuse_other_things(path)
    root, names = relative_names([_absolute(shard) for shard in list_shards(place)])
    if not force and holds_stream(path):
        done = read_info(path / "stream.json")
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
