"""Prepare a data set once: render or decode every image in parallel, and write the store."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ganvas.data.pixels import Fit
from ganvas.data.source import LeftOut, Rejected, Request, Source, open_source
from ganvas.data.store import Record, Store, StoreInfo, StoreWriter, holds_store
from ganvas.errors import GanvasError, RunStopped

CHUNK = 32
"""Images that a worker does at a time."""

Loaded = tuple[Record, "npt.NDArray[np.uint8] | str"]
"""A record with its pixels, or with the reason why there are none."""


def prepare(
    name: str,
    out: str | os.PathLike[str],
    *,
    size: int = 64,
    workers: int | None = None,
    place: str | None = None,
    fit: Fit | None = None,
    options: Mapping[str, str] | None = None,
    progress: bool = True,
    force: bool = False,
) -> StoreInfo:
    """Prepare the data set ``name`` at ``out``, or return at once where that is done already.

    Workers are processes that import the running program anew: a script calls this below
    ``if __name__ == "__main__":``, or with ``workers=1``.

    Args:
        name: such as ``emoji``.
        out: the folder to make.
        size: side of the images, pixels.
        place: where the data set lies: a folder, a file or an address. The embedded set has none.
        fit: how images are brought to size; by default as the data set finds right.
        workers: processes that load images; by default one for each core. 1 does everything in this process.
        options: options of the data set, such as ``{"language": "zh"}``.
        progress: show a bar with the time left (on a terminal), and say at the end what was made.
        force: replace another prepared data set at ``out``, and prepare again what is there already.

    Returns:
        What the store holds.

    Raises:
        GanvasError: an unknown data set or option, a size that makes no sense, a folder that holds something
            else, or more than half of the images cannot be used.
        RunStopped: the disk is full, or a worker died.
    """
    source = open_source(name, Request(place=place, options=options or {}, fit=fit))
    _check(source, size, workers)
    console = Console(stderr=True, quiet=not progress)
    path = Path(out)
    if not force and (done := _prepared(path, source, size)):
        console.print(
            f"{path}: already prepared ({sum(done.splits.values()):,} images)",
            highlight=False,
            soft_wrap=True,
        )
        return done
    about = {"name": source.name, "source": source.about, "licence": source.licence}
    with StoreWriter(path, size=size, options=source.options, **about) as writer:
        try:
            _fill(writer, source, size, workers or _cores(), console)
            info = writer.finish()
        except OSError as error:
            raise RunStopped(f"{path}: cannot write the data set ({error.strerror or error})") from None
        rejected = f", {writer.num_rejected:,} left out (see rejected.csv)" if writer.num_rejected else ""
    filled = ", ".join(f"{split} {count:,}" for split, count in info.splits.items() if count)
    console.print(f"{path}: {info.name} at {size} px, {filled}{rejected}", highlight=False, soft_wrap=True)
    return info


def _check(source: Source, size: int, workers: int | None) -> None:
    smallest, largest = source.sizes
    if not smallest <= size <= largest:
        raise GanvasError(
            f"data set '{source.name}': size {size} is not between {smallest} and {largest} pixels"
        )
    if workers is not None and workers < 1:
        raise GanvasError(f"workers {workers}: give 1 or more")


def _prepared(path: Path, source: Source, size: int) -> StoreInfo | None:
    """What is prepared at ``path`` if it is what is wanted; None if nothing is there, or only debris."""
    if not holds_store(path):
        return None
    try:
        info = Store(path).info
    except GanvasError:
        return None
    here = (info.name, info.size, info.options, info.source)
    if here == (source.name, size, source.options, source.about):
        return info
    raise GanvasError(
        f"{path}: holds another data set ('{info.name}' at {info.size} px, options {info.options},"
        f" {info.source}); choose another folder, or replace it with --force"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _fill(writer: StoreWriter, source: Source, size: int, workers: int, console: Console) -> None:
    """Add every image that can be used, note the others, and refuse a data set that is mostly unusable."""
    records = source.records()
    reasons: Counter[str] = Counter()
    total = 0
    with _bar(console) as bar:
        task = bar.add_task(
            f"preparing {source.name}", total=len(records) if isinstance(records, Sized) else None
        )
        for record, pixels in _load_all(source, _usable(records, writer), size, workers):
            total += 1
            if isinstance(pixels, str):
                reasons[pixels] += 1
                writer.reject(record.id, pixels)
            else:
                writer.add(record, pixels)
            bar.advance(task)
    if 2 * writer.num_rejected > total:
        most = reasons.most_common(1)[0] if reasons else ("a second image with this id", writer.num_rejected)
        raise GanvasError(
            f"data set '{source.name}': {writer.num_rejected:,} of {total:,} images cannot be used,"
            f" most often because: {most[0]}; nothing was written"
        )


def _usable(records: Iterable[Record | LeftOut], writer: StoreWriter) -> Iterator[Record]:
    """The records of which something can be made; the others are noted."""
    for record in records:
        if isinstance(record, LeftOut):
            writer.reject(record.id, record.reason)
        else:
            yield record


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _load_all(source: Source, records: Iterable[Record], size: int, workers: int) -> Iterator[Loaded]:
    """Load every image, in the records' order, with a bounded number of chunks under way."""
    chunks = _chunks(records)
    if workers == 1:
        for chunk in chunks:
            yield from _load(source, chunk, size)
        return
    # not "fork": a program that has run torch has threads, and a copy of it may hang
    context = multiprocessing.get_context("spawn")
    under_way: deque[Future[list[Loaded]]] = deque()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(source, size)
    )
    try:
        for chunk in chunks:
            under_way.append(pool.submit(_work, chunk))
            if len(under_way) >= 4 * workers:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    except BrokenProcessPool:
        raise RunStopped(
            "a worker process died (out of memory, or a script without 'if __name__ == \"__main__\":');"
            " try again with workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _load(source: Source, records: Iterable[Record], size: int) -> list[Loaded]:
    return [(record, _pixels(source, record, size)) for record in records]


def _pixels(source: Source, record: Record, size: int) -> npt.NDArray[np.uint8] | str:
    try:
        return source.load(record, size)
    except Rejected as reason:
        return str(reason)


_worker: tuple[Source, int] | None = None
"""What this process loads images from, and at which size, where it is a worker."""


def _start_worker(source: Source, size: int) -> None:
    global _worker
    _worker = (source, size)


def _work(records: list[Record]) -> list[Loaded]:
    assert _worker is not None
    source, size = _worker
    return _load(source, records, size)
