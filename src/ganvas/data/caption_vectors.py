"""The vectors of captions that StackGAN and AttnGAN bring along, for the captions that a store holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ganvas.data.captions import clean
from ganvas.data.pickles import load_pickle
from ganvas.data.source import Rejected

VECTORS = "char-CNN-RNN-embeddings.pickle"
"""In ``train`` and ``test``: for each image of ``filenames.pickle`` an array, with a row for each caption."""

_MAX_BYTES = 1 << 32  # protocol 0 writes a byte as four; the 8,855 images of CUB have 360 MB
_log = logging.getLogger(__name__)


def write_sentences(
    place: Path,
    names: Mapping[str, Sequence[str]] | None,
    captions: Callable[[str], tuple[str, ...]],
    folder: Path,
) -> None:
    """Write ``sentences.npy``, float32 ``(captions, D)``: the vectors of the captions that the store holds.

    Row k is that of the k-th caption of the whole store. Where there is not a vector for each, nothing is
    written, and the log says why.

    Args:
        place: where ``train`` and ``test`` lie, each with a pickle of ``(captions, D)`` for each image.
        names: the images of each split.
        captions: the captions of an image before they were cleaned.
        folder: that of the store.

    Raises:
        GanvasError: a pickle is damaged, or asks for more than data.
    """
    if names is None or not any((place / split / VECTORS).is_file() for split in names):
        return
    target = folder / "sentences.npy"
    try:
        _write_sentences(place, names, captions, folder, target)
    except Rejected as reason:
        target.unlink(missing_ok=True)
        _log.warning("no sentences.npy: %s", reason)


def _write_sentences(
    place: Path,
    names: Mapping[str, Sequence[str]],
    captions: Callable[[str], tuple[str, ...]],
    folder: Path,
    target: Path,
) -> None:
    table = pq.read_table(folder / "captions.parquet", columns=["id", "captions"])
    ids: list[str] = table["id"].to_pylist()
    kept = dict(zip(ids, table["captions"].to_pylist(), strict=True))
    starts = dict(zip(ids, np.cumsum([0, *map(len, kept.values())]).tolist(), strict=False))
    if stranger := kept.keys() - {name for images in names.values() for name in images}:
        raise Rejected(f"{len(stranger):,} images are in no filenames.pickle, such as {min(stranger)}")
    rows: np.memmap[Any, Any] | None = None
    total = sum(map(len, kept.values()))
    for split, images in names.items():
        if not kept.keys() & set(images):
            continue
        for image, vectors in zip(images, _read_vectors(place / split / VECTORS, len(images)), strict=True):
            if image not in kept:
                continue
            rows = rows if rows is not None else _new_rows(target, (total, vectors.shape[1]))
            if vectors.shape[1] != rows.shape[1]:
                raise Rejected(
                    f"{image} has vectors of {vectors.shape[1]} numbers, others of {rows.shape[1]}"
                )
            chosen = _kept_numbers(image, captions(image), kept[image], len(vectors))
            rows[starts[image] : starts[image] + len(chosen)] = vectors[chosen]
    if rows is not None:
        rows.flush()


def _new_rows(target: Path, shape: tuple[int, int]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)


def _read_vectors(path: Path, count: int) -> list[np.ndarray[Any, Any]]:
    if not path.is_file():
        raise Rejected(f"no file {path}")
    content = load_pickle(path, _MAX_BYTES)
    if isinstance(content, np.ndarray) and content.ndim == 3:
        content = list(content)
    if not (isinstance(content, list) and len(content) == count and all(map(_is_matrix, content))):
        raise Rejected(f"{path.parent.name}/{path.name} is not {count:,} arrays of two axes")
    return content


def _is_matrix(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f" and value.size > 0


def _kept_numbers(image: str, captions: Sequence[str], kept: Sequence[str], num_vectors: int) -> list[int]:
    """Which of an image's captions the store kept."""
    if len(captions) != num_vectors:
        raise Rejected(f"{image} has {len(captions)} captions, but {num_vectors} vectors")
    usable = [(number, text) for number, caption in enumerate(captions) for text in clean([caption])[0]]
    numbers, texts = [n for n, _ in usable][: len(kept)], [text for _, text in usable][: len(kept)]
    if texts != list(kept):
        raise Rejected(f"the captions of {image} are not those of its vectors")
    return numbers
