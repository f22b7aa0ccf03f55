"""The prepared store: captioned images as every part of Ganvas reads them.

A store is a folder:

- ``dataset.json``: what it is (name, size, splits, counts, source, licence, fingerprint);
- ``captions.parquet``: one row an image: ``id``, ``split``, ``class``, ``captions``, ``attributes``, and
  ``height`` and ``width`` where images are stored whole;
- ``images.npy``: uint8, ``(N, S, S, 3)``, memory-mapped, in the rows' order; where images are stored whole
  (the shorter side is S), all their pixels in a row;
- ``rejected.csv``: every image or caption that was left out, and why;
- what only some data sets have: ``vocabulary.json`` and ``sentences.npy`` (AttnGAN's and StackGAN's files),
  ``objects.parquet`` (COCO's instances), ``traces.parquet`` (Localized Narratives).

``ganvas.data.store_writer`` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ganvas.data.stored_images import StoredImages
from ganvas.errors import GanvasError, did_you_mean

FORMAT = 1
SPLITS = ("train", "val", "test")
_MAX_VOCABULARY_BYTES = 100_000_000

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("class", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)
WHOLE_SCHEMA = SCHEMA.append(pa.field("height", pa.int32())).append(pa.field("width", pa.int32()))


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
    """Side of the stored images, pixels; of those stored whole, the shorter side."""
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
    whole: bool = False
    """Images keep their longer side, so each has a shape of its own."""
    format: int = FORMAT


class Store:
    """A prepared store, opened for reading. Images stay on disk (memory-mapped) until they are asked for.

    Attributes:
        info: name, size, splits, licence, fingerprint.
        images: their pixels.
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
            whole = self.info.whole
            table = pq.read_table(
                self.path / "captions.parquet", schema=WHOLE_SCHEMA if whole else SCHEMA, partitioning=None
            )
            shapes = np.stack([table["height"], table["width"]], axis=1).astype(np.int64) if whole else None
            self.images = StoredImages(self.path / "images.npy", shapes)
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            raise _damaged(self.path, str(error)) from None
        self._check_images(table.num_rows)
        self.ids: list[str] = table["id"].to_pylist()
        self.splits: list[str] = table["split"].to_pylist()
        if self.info.splits != count_splits(self.splits):
            raise _damaged(self.path, "the splits' counts in dataset.json are not those of captions.parquet")
        self.labels: list[str | None] = table["class"].to_pylist()
        self.captions: list[list[str]] = table["captions"].to_pylist()
        if not all(self.captions):
            raise _damaged(self.path, "captions.parquet has an image without a caption")
        self.attributes: list[dict[str, str]] = [dict(row or ()) for row in table["attributes"].to_pylist()]

    def _check_images(self, rows: int) -> None:
        """Are the images those that the other files speak of?"""
        size, images = self.info.size, self.images
        expected = (rows,) if self.info.whole else (rows, size, size, 3)
        if images.shape != expected or (images.shapes.min(axis=1) != size).any():
            raise GanvasError(
                f"{self.path}: images.npy holds images {images.shape}, but the other files promise"
                f" {expected} of size {size}; prepare it again"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Word to number, where the data set came with a vocabulary (AttnGAN's ``captions.pickle``).

        Number 0 is the end mark and padding.

        Raises:
            GanvasError: it is damaged.
        """
        path = self.path / "vocabulary.json"
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _MAX_VOCABULARY_BYTES:
                raise ValueError("is too large")
            words = json.loads(path.read_bytes())
            if not isinstance(words, dict) or not all(type(number) is int for number in words.values()):
                raise ValueError("is no table of words and numbers")
            if sorted(words.values()) != list(range(len(words))):
                raise ValueError("its numbers do not count from 0")
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(self.path, f"vocabulary.json {error}") from None
        return words

    @cached_property
    def sentences(self) -> npt.NDArray[np.float32] | None:
        """Sentence vectors ``(captions, D)`` that the data set came with, in the order of all captions.

        Raises:
            GanvasError: they are damaged.
        """
        path = self.path / "sentences.npy"
        if not path.is_file():
            return None
        try:
            vectors: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
            if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != self.info.num_captions:
                raise ValueError(f"holds {vectors.dtype} {vectors.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(self.path, f"sentences.npy {error}") from None
        return vectors

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The row numbers of ``split``, ascending.

        Raises:
            GanvasError: the store has no image in that split.
        """
        if not self.info.splits.get(split):
            filled = [name for name, count in self.info.splits.items() if count]
            raise GanvasError(f"{self.path}: no split '{split}' here; {did_you_mean(split, filled)}")
        return np.flatnonzero(np.asarray(self.splits) == split)


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


def count_splits(splits: Sequence[str]) -> dict[str, int]:
    """Images of each split."""
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
