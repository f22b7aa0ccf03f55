"""Prepare a data set once: render or decode every image in parallel, and write the store."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ganvas.data.captions import clean
from ganvas.data.pixels import Fit
from ganvas.data.presets import CAPTIONS, find_preset
from ganvas.data.source import LeftOut, PhotoSource, Rejected, Request, Source, open_source
from ganvas.data.store import Record, Store, StoreInfo, holds_store
from ganvas.data.store_writer import Busy, StoreWriter
from ganvas.errors import GanvasError, RunStopped, did_you_mean

CHUNK = 32
"""Images that a worker does at a time."""

Item = Record | LeftOut
Loaded = tuple[Item, "npt.NDArray[np.uint8] | str | None"]
"""A record with its pixels, or with why there are none; None where an earlier run was done with it."""


def prepare(
    name: str,
    out: str | os.PathLike[str],
    *,
    place: str | os.PathLike[str] | None = None,
    size: int = 64,
    fit: Fit | None = None,
    like: str | None = None,
    workers: int | None = None,
    options: Mapping[str, str] | None = None,
    allow_rejects: bool = False,
    progress: bool = True,
    force: bool = False,
) -> StoreInfo:
    """Prepare the data set ``name`` at ``out``, or return at once where that is done already.

    Work that was interrupted or killed is taken up where it stopped, by the same call.

    The workers of a data set of image files are threads. Those of the emoji set are processes that import the
    running program anew: a script calls this below ``if __name__ == "__main__":``, or with ``workers=1``.

    Args:
        name: such as ``coco``, see ``ganvas.data.source.SOURCES``.
        out: the folder to make.
        place: where the data set lies: a folder, a file or an address. The embedded set has none.
        size: side of the images, pixels. With ``like``, that of the images that a model sees; the stored ones
            have the paper's margin for random crops.
        fit: how images are brought to size; by default as the data set finds right.
        like: prepare as a paper does, see ``ganvas.data.presets``; excludes ``fit``.
        workers: how many images are loaded at once; by default one for each core. 1 does everything in the
            calling thread.
        options: options of the data set, such as ``{"language": "zh"}``.
        allow_rejects: go on where more than half of the images cannot be used.
        progress: show a bar with the time left (on a terminal), and say at the end what was made.
        force: replace another prepared data set at ``out``, and prepare again what is there already.

    Returns:
        What the store holds.

    Raises:
        GanvasError: an unknown data set or option, a size that makes no sense, a folder that holds something
            else, or more than half of the images cannot be used.
        RunStopped: the disk is full, or a worker died.
    """
    source, size = _open(name, place, size, fit, like, options or {})
    _check(source, size, workers)
    console = Console(stderr=True, quiet=not progress)
    path = Path(out)
    if not force and (done := _prepared(path, source, size)):
        _say(console, f"{path}: already prepared ({sum(done.splits.values()):,} images)")
        return done
    writer = _writer(path, source, size, force)
    if isinstance(writer, StoreInfo):
        return writer
    with writer:
        if writer.earlier:
            _say(console, f"{path}: going on after {len(writer.earlier):,} images")
        try:
            reasons = _fill(writer, source, size, workers or _cores(), console)
            if not allow_rejects:
                _refuse_mostly_unusable(source, reasons.images, len(writer))
            info = writer.finish(source.write_extras)
        except OSError as error:
            raise RunStopped(f"{path}: cannot write the data set ({error.strerror or error})") from None
        except KeyboardInterrupt:
            _say(console, f"{path}: interrupted; the same command goes on from here")
            raise
    filled = ", ".join(f"{split} {count:,}" for split, count in info.splits.items() if count)
    _say(console, f"{path}: {info.name} at {info.size} px, {filled}{_in_words(reasons)}")
    return info


def read_options(texts: Iterable[str], name: str = "--option") -> dict[str, str]:
    """Options from ``key=value`` each; ``name`` is what the command line calls them.

    Raises:
        GanvasError: one is no such pair.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise GanvasError(f"{name} '{text}': write key=value, such as text=caption")
        options[key] = value
    return options


def read_resize(name: str | None) -> Fit | None:
    """What ``--resize`` asks for; None where it is left out.

    Raises:
        GanvasError: no such way.
    """
    if name is None:
        return None
    if name not in _RESIZES:
        raise GanvasError(f"--resize '{name}': {did_you_mean(name, _RESIZES)}")
    return _RESIZES[name]


_RESIZES = {
    "shorter": Fit(resize="shorter"),
    "square": Fit(resize="square"),
    "bbox": Fit(resize="shorter", box=True),
    "whole": Fit(resize="whole"),
}


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _open(
    name: str,
    place: str | os.PathLike[str] | None,
    size: int,
    fit: Fit | None,
    like: str | None,
    options: Mapping[str, str],
) -> tuple[Source, int]:
    """The data set, and the side of the images that are stored of it."""
    where = None if place is None else os.fspath(place)
    if like is None:
        source = open_source(name, Request(place=where, options=options, fit=fit))
    else:
        preset = find_preset(like)
        if fit is not None:
            raise GanvasError(f"--like {like} says how images are brought to size; leave --resize out")
        source = open_source(name, Request(place=where, options=options, fit=preset.fit_of(name)))
        size = preset.stored_size(size)
        source.options["like"] = like
    if source.fit is not None:
        source.options |= _as_options(source.fit)
    return source, size


def _as_options(fit: Fit) -> dict[str, str]:
    """What the store says of how its images were brought to size."""
    crop = {"crop": "box"} if fit.box else {}
    exact = {"decoding": "exact"} if fit.exact else {}
    return {"resize": fit.resize, **crop, "scaling": fit.scaling, **exact}


def _writer(path: Path, source: Source, size: int, force: bool) -> StoreWriter | StoreInfo:
    """The writer of the store; what another process has made meanwhile, if that is the same."""
    about = {"name": source.name, "source": source.about, "licence": source.licence}
    whole = source.fit is not None and source.fit.resize == "whole"
    while True:
        try:
            return StoreWriter(path, size=size, options=source.options, whole=whole, resume=True, **about)
        except Busy:
            time.sleep(_PATIENCE)
        if not force and (done := _prepared(path, source, size)):
            return done


_PATIENCE = 0.5  # seconds between looks at what another process is making


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


def _fill(writer: StoreWriter, source: Source, size: int, workers: int, console: Console) -> Reasons:
    """Add every image that can be used, and note what is left out."""
    records = source.records()
    reasons = Reasons(Counter(), Counter())
    kept = CAPTIONS.get(source.name) if "like" in source.options else None
    items = _usable(records, kept)
    with _bar(console) as bar:
        task = bar.add_task(
            f"preparing {source.name}", total=len(records) if isinstance(records, Sized) else None
        )
        for item, pixels in _load_all(source, items, size, workers, writer.earlier):
            reason = item.reason if isinstance(item, LeftOut) else pixels
            if isinstance(item, LeftOut):
                writer.reject(item.id, item.reason)
            elif pixels is None:
                writer.take_over(item)
                reason = writer.earlier[item.id]
            elif isinstance(pixels, str):
                writer.reject_image(item.id, pixels)
            else:
                writer.add(item, pixels)
            within = isinstance(item, LeftOut) and item.within
            if isinstance(reason, str):
                (reasons.parts if within else reasons.images)[_kind(reason)] += 1
            if not within:
                bar.advance(task)
    return reasons


class Reasons(NamedTuple):
    """How often things were left out for which reason."""

    images: Counter[str]
    parts: Counter[str]
    """Captions and other parts of images that may have been kept."""


def _kind(reason: str) -> str:
    """A reason without what it says of the single case."""
    return re.split(r"[:(]", reason, maxsplit=1)[0].strip()


def _in_words(reasons: Reasons) -> str:
    """How many things were left out, and why most of them were."""
    both = reasons.images + reasons.parts
    if not both:
        return ""
    most = "; ".join(f"{count:,} {reason}" for reason, count in both.most_common(3))
    return f", {both.total():,} left out ({most}{'; ...' if len(both) > 3 else ''}; see rejected.csv)"


def _refuse_mostly_unusable(source: Source, reasons: Counter[str], num_stored: int) -> None:
    total = reasons.total() + num_stored
    if 2 * reasons.total() > total:
        raise GanvasError(
            f"data set '{source.name}': {reasons.total():,} of {total:,} images cannot be used, most often"
            f" because: {reasons.most_common(1)[0][0]}; nothing was written"
            " (--allow-rejects prepares the others)"
        )


def _usable(records: Iterable[Record | LeftOut], most_captions: int | None) -> Iterator[Item]:
    """Records with clean captions and ids of their own; what is wrong with the others.

    Args:
        records: as the data set has them.
        most_captions: how many captions of an image are kept.
    """
    seen: set[str] = set()
    for record in records:
        if isinstance(record, LeftOut):
            yield record
            continue
        if record.id in seen:
            yield LeftOut(record.id, "a second image with this id")
            continue
        seen.add(record.id)
        captions, wrong = clean(record.captions)
        if captions:
            yield from (LeftOut(record.id, reason, within=True) for reason in wrong)
            yield replace(record, captions=tuple(captions[:most_captions]))
        else:
            yield LeftOut(record.id, "; ".join(["no usable caption", *wrong]) if wrong else "no caption")


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _load_all(
    source: Source, items: Iterable[Item], size: int, workers: int, done: Mapping[str, object]
) -> Iterator[Loaded]:
    """Load every image, in the order of the items, with a bounded number of chunks under way."""
    chunks = _chunks(items)
    if workers == 1:
        for chunk in chunks:
            yield from _load(source, chunk, size, done)
        return
    with _pool(source, size, workers) as (pool, work):
        under_way: deque[Future[list[Loaded]]] = deque()
        try:
            for chunk in chunks:
                under_way.append(pool.submit(work, chunk, {i.id: None for i in chunk if i.id in done}))
                if len(under_way) >= 4 * workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except BrokenProcessPool:
            raise RunStopped(
                "a worker process died (out of memory, or a script without 'if __name__ == \"__main__\":');"
                " try again with workers=1"
            ) from None


Work = Callable[[list[Item], Mapping[str, object]], list[Loaded]]


@contextmanager
def _pool(source: Source, size: int, workers: int) -> Iterator[tuple[Executor, Work]]:
    """Threads for image files, whose decoders let other threads run; processes for what is drawn."""
    if isinstance(source, PhotoSource):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)  # each worker scales one image; more would stand in each other's way
        threads = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        try:
            yield threads, lambda chunk, done: _load(source, chunk, size, done)
        finally:
            threads.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
        return
    # not "fork": a program that has run torch has threads, and a copy of it may hang
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(source, size)
    )
    try:
        yield processes, _work
    finally:
        processes.shutdown(cancel_futures=True)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _load(source: Source, items: Iterable[Item], size: int, done: Mapping[str, object]) -> list[Loaded]:
    return [
        (item, None if isinstance(item, LeftOut) or item.id in done else _pixels(source, item, size))
        for item in items
    ]


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


def _work(items: list[Item], done: Mapping[str, object]) -> list[Loaded]:
    assert _worker is not None
    source, size = _worker
    return _load(source, items, size, done)
