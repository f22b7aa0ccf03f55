"""Look at a prepared data set: a contact sheet of images with captions, and what it holds in numbers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ganvas.data.store import Store, StoreInfo
from ganvas.data.stream_index import ShardStream, holds_stream
from ganvas.errors import GanvasError

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’-]\w+)*")
_COLUMNS = 8
_TILE = 144
_MOST_IMAGES = 500


def words(caption: str) -> list[str]:
    """The words of a caption in lower case; the characters of Chinese and Japanese, which write no spaces."""
    return _WORD.findall(caption.lower())


class Found(NamedTuple):
    """A prepared data set to look at."""

    store: Store
    remarks: tuple[str, ...] = ()
    """What else there is to say about it."""


def look_into(folder: Path) -> Found:
    """The prepared data set in a folder; where shards are streamed, the few images that are shown of them.

    Raises:
        GanvasError: there is none, or it is damaged.
    """
    if not holds_stream(folder):
        return Found(Store(folder))
    stream = ShardStream(folder)
    total = f"{len(stream):,} samples in {len(stream.counts):,} shards under {stream.info.root}"
    return Found(stream.preview, (f"A stream of {total}. What follows is a sample of it.",))


def show(
    store: Store,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    count: int = 40,
    seed: int = 0,
) -> Path:
    """Write a contact sheet: images drawn at random, one of its captions below each.

    Args:
        store: the prepared data set.
        out: the PNG file to write.
        split: ``train``, ``val`` or ``test``; all of them by default.
        count: how many images, 1 to 500; all there are, if there are fewer.
        seed: chooses images and captions.

    Returns:
        ``out``.

    Raises:
        GanvasError: no such split, a count out of range, or a file that cannot be written.
    """
    from ganvas.sheets import Tile, save_png, sheet

    if not 1 <= count <= _MOST_IMAGES:
        raise GanvasError(f"count {count}: a sheet shows 1 to {_MOST_IMAGES} images")
    rows = np.arange(len(store)) if split is None else store.rows(split)
    random = np.random.default_rng(seed)
    chosen = random.permutation(rows)[:count]
    tiles = [
        Tile(store.images.square(row), store.captions[row][random.integers(len(store.captions[row]))])
        for row in chosen
    ]
    title = f"{store.info.name}: {len(tiles):,} of {len(rows):,} images, {split or 'all splits'}"
    lines = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    return save_png(sheet(lines, title=title, tile_size=max(_TILE, store.info.size), caption_lines=4), out)


def inspect(store: Store) -> Group:
    """What a data set holds: splits, classes, captions, words, attributes, licence. Print it with rich.

    Args:
        store: the prepared data set.
    """
    lengths = [len(words(caption)) for row in store.captions for caption in row]
    frequency = Counter(word for row in store.captions for caption in row for word in words(caption))
    info = store.info
    facts = {
        "folder": str(store.path),
        "images": f"{len(store):,} of {_size(info)} ({_mebibytes(store.images.nbytes)})",
        "splits": ", ".join(f"{name} {number:,}" for name, number in info.splits.items()),
        "classes": f"{info.num_classes:,}" + _examples(store.labels),
        "captions": f"{info.num_captions:,} ({info.num_captions / max(1, len(store)):.1f} an image)",
        "words": f"{len(frequency):,} different ones; a caption has {_spread(lengths)}",
        "most frequent": ", ".join(f"{word} {number:,}" for word, number in frequency.most_common(12)),
        "seen once": f"{sum(number == 1 for number in frequency.values()):,} words",
        "options": ", ".join(f"{name}={value}" for name, value in info.options.items()) or "none",
        "source": info.source,
        "licence": info.licence,
        "fingerprint": info.fingerprint,
    }
    summary = Table.grid(padding=(0, 2))
    summary.add_column(style="bold")
    summary.add_column(overflow="fold")
    for name, value in facts.items():
        summary.add_row(Text(name), Text(value))
    parts: list[Text | Table] = [Text(info.name, style="bold underline"), summary]
    if any(store.attributes):
        parts += [Text(""), _attributes(store.attributes)]
    return Group(*parts)


def _attributes(rows: Sequence[dict[str, str]]) -> Table:
    """One line an attribute: on how many images it is, how many values it has, and the most frequent."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("attribute", "images", "values", "most frequent"):
        table.add_column(title, justify="right" if title in ("images", "values") else "left", overflow="fold")
    for name in sorted({name for row in rows for name in row}):
        values = Counter(row[name] for row in rows if name in row)
        most = ", ".join(f"{value} {number:,}" for value, number in values.most_common(5))
        cells = (name, f"{values.total():,}", f"{len(values):,}", most)
        table.add_row(*map(Text, cells))
    return table


def _examples(labels: Iterable[str | None]) -> str:
    known = Counter(label for label in labels if label is not None)
    return f", such as {', '.join(label for label, _ in known.most_common(4))}" if known else ""


def _spread(lengths: Sequence[int]) -> str:
    least, middle, most_have, most = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
    return f"{least} to {most} words (median {middle}, 95 % have at most {most_have})"


def _size(info: StoreInfo) -> str:
    return f"{info.size} px on the shorter side" if info.whole else f"{info.size} x {info.size} px"


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
