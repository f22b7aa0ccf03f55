"""R-precision: is an image's own caption the nearest among a hundred?

Images and captions become vectors; the caption that an image was generated from is ranked by its cosine among
mismatched ones. Two protocols are in use, and one function serves both:

- independent (XMC-GAN, Zhang et al., CVPR 2021): a dual encoder that the scored system never saw. For the
  embedded emoji set one ships with Ganvas, for others ``ganvas train retriever`` makes one;
- DAMSM (AttnGAN, Xu et al., CVPR 2018): the encoders that the scored system was trained with, 30,000 images,
  99 mismatched captions, 10 folds. It flatters such systems: generated images can score above real ones.

Random features score 1 %, for ties are broken at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.progress import progress
from ganvas.scores.dual_encoders import DualEncoder, digest, load_retriever
from ganvas.scores.pictures import Pictures
from ganvas.scores.score import Score

_CHUNK = 128

Floats = npt.NDArray[np.float32]
Hits = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Draw = Callable[[int, np.random.Generator], Ints]
"""The mismatched captions of image ``i``: numbers of captions."""


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol:
    """Everything that fixes the number, beside the images."""

    candidates: int = 100
    """One true caption and the mismatched ones."""
    mismatched: Literal["scored", "paper", "dm-gan"] = "scored"
    """Where the mismatched ones come from: the captions of the other scored images, none twice; all captions
    of other images of the split, none twice (AttnGAN's paper); or, for each, an image of another class and
    one of its captions, with repetitions (DM-GAN's code). That code also shuffles the images before it cuts
    them into folds, and leaves the last one out of each."""
    folds: int = 10
    """Parts of the images over which the spread is taken."""
    candidate_seed: int = 0
    """Of the mismatched captions and the ties."""
    retriever: str = "emoji"
    """The dual encoder: the one that ships for a data set, a folder, or ``clip:`` and a folder or a name."""

    def __post_init__(self) -> None:
        for name, least in (("candidates", 2), ("folds", 1), ("candidate_seed", 0)):
            if getattr(self, name) < least:
                raise GanvasError(f"R-precision: {name}={getattr(self, name)}: should be at least {least}")


def r_precision(
    pictures: Pictures,
    store: Store,
    protocol: RetrievalProtocol,
    *,
    encoder: DualEncoder | None = None,
    name: str = "r-precision",
) -> Score:
    """How often the caption of an image ranks first.

    Args:
        pictures: the images, with their captions.
        store: the prepared data that the captions are of.
        protocol: candidates, folds, seed, dual encoder.
        encoder: takes the place of ``protocol.retriever``, such as the encoders of DAMSM.
        name: of the score.

    Returns:
        A share, 0 to 1: mean and standard deviation over folds.

    Raises:
        GanvasError: too few images or captions for the protocol, or no such dual encoder.
    """
    _check_number(pictures, protocol)
    if encoder is None:
        encoder, called = load_retriever(protocol.retriever)
        protocol = replace(protocol, retriever=called)
    texts, own, draw = _captions(pictures, store, protocol)
    hits = first_ranked(
        _image_features(encoder, pictures),
        _caption_features(encoder, texts),
        own,
        draw,
        protocol.candidate_seed,
    )
    folds = [float(fold.mean()) for fold in _folds(hits, protocol)]
    return Score(
        name=name,
        value=float(np.mean(folds) if protocol.mismatched == "dm-gan" else hits.mean()),
        spread=float(np.std(folds)),
        better="higher",
        protocol={**pictures.about, **asdict(protocol), "encoder": digest(encoder)},
        facts={"images": pictures.kind, "folds": folds, "chance": 1 / protocol.candidates},
    )


def _check_number(pictures: Pictures, protocol: RetrievalProtocol) -> None:
    num = len(pictures)
    if protocol.mismatched == "scored" and num < protocol.candidates:
        raise GanvasError(
            f"R-precision among {protocol.candidates} captions needs as many images, and there are {num}"
        )
    least = protocol.folds * (2 if protocol.mismatched == "dm-gan" else 1)
    if num < least:
        raise GanvasError(
            f"R-precision in {protocol.folds} folds needs at least {least} images, not {num}; set folds=1"
        )


def _folds(hits: Hits, protocol: RetrievalProtocol) -> list[Hits]:
    if protocol.mismatched != "dm-gan":
        return np.array_split(hits, protocol.folds)
    shuffled = np.random.default_rng([protocol.candidate_seed, 1]).permutation(hits)
    size = len(hits) // protocol.folds
    return [shuffled[fold * size : (fold + 1) * size - 1] for fold in range(protocol.folds)]


def _captions(pictures: Pictures, store: Store, protocol: RetrievalProtocol) -> tuple[list[str], Ints, Draw]:
    """The different captions, the number ``(N,)`` of each image's own one, and how others are drawn."""
    count, rows = protocol.candidates - 1, pictures.rows
    if protocol.mismatched == "scored":
        texts, own = _numbered(pictures.captions)
        return texts, own, other_rows(own, rows, rows, count)
    split = store.rows(pictures.about["split"])
    captions = [caption for row in split.tolist() for caption in store.captions[row]]
    texts, numbers = _numbered([*pictures.captions, *captions])
    own, pool = numbers[: len(rows)], numbers[len(rows) :]
    counts = np.array([len(store.captions[row]) for row in split])
    if protocol.mismatched == "paper":
        return texts, own, other_rows(pool, np.repeat(split, counts), rows, count)
    labels = [store.labels[row] for row in split]
    if None in labels:  # every image is a class of its own, as DM-GAN has it on COCO
        labels = [str(row) for row in split]
    places = np.searchsorted(split, rows)
    return texts, own, other_classes(pool, counts, cast(list[str], labels), places, count)


def _numbered(captions: Sequence[str]) -> tuple[list[str], Ints]:
    """The different captions, and the number of each: equal captions then tie to the last bit."""
    numbers: dict[str, int] = {}
    each = [numbers.setdefault(caption, len(numbers)) for caption in captions]
    return list(numbers), np.array(each, np.int64)


def other_rows(pool: Ints, pool_rows: Ints, rows: Ints, count: int) -> Draw:
    """Captions of other images, none drawn twice.

    Args:
        pool: ``(P,)`` numbers of the captions to draw from.
        pool_rows: ``(P,)``: the row that each belongs to.
        rows: ``(N,)``: the rows of the images.
        count: captions for each image.

    Raises:
        GanvasError: fewer captions than that.
    """
    order = np.argsort(pool_rows, kind="stable")
    first = np.searchsorted(pool_rows, rows, "left", order)
    after = np.searchsorted(pool_rows, rows, "right", order)
    least = len(pool) - int((after - first).max())
    if least < count:
        raise GanvasError(
            f"R-precision among {count + 1} captions needs {count} of other images, and there are {least}"
        )

    def draw(i: int, rng: np.random.Generator) -> Ints:
        own = order[first[i] : after[i]]  # ascending
        places = rng.choice(len(pool) - len(own), count, replace=False)
        for place in own.tolist():
            places = places + (places >= place)
        return pool[places]

    return draw


def other_classes(pool: Ints, counts: Ints, labels: Sequence[str], places: Ints, count: int) -> Draw:
    """For each caption an image of another class, then one of its captions; both may repeat.

    Args:
        pool: ``(P,)`` numbers of the captions of M images, those of the first image first.
        counts: ``(M,)`` captions of each.
        labels: M classes.
        places: ``(N,)``: which of the M each image is.
        count: captions for each image.

    Raises:
        GanvasError: there is one class only.
    """
    starts = np.cumsum(counts) - counts
    codes = np.unique(np.array(labels), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes, codes[places], "left", order)
    after = np.searchsorted(codes, codes[places], "right", order)
    if codes.max() == 0:
        raise GanvasError(
            f"R-precision as in DM-GAN: all images are of class '{labels[0]}'; mismatched captions are those"
            " of other classes"
        )

    def draw(i: int, rng: np.random.Generator) -> Ints:
        own = after[i] - first[i]
        sorted_places = rng.integers(0, len(labels) - own, count)
        images = order[sorted_places + own * (sorted_places >= first[i])]
        numbers: Ints = pool[starts[images] + rng.integers(0, counts[images])]
        return numbers

    return draw


def first_ranked(images: Floats, texts: Floats, own: Ints, draw: Draw, seed: int) -> Hits:
    """Which images rank their own caption first.

    Args:
        images: ``(N, D)`` features; images are independent, so memory does not grow with pairs.
        texts: ``(T, D)`` features of the different captions.
        own: ``(N,)``: the row of ``texts`` that belongs to each image.
        draw: rows of the mismatched ones.
        seed: of the draws and of ties.

    Returns:
        ``(N,)``, 1 where the own caption won; a tie is broken at random.
    """
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(images))
    for i, image in enumerate(images):
        ranked = np.concatenate([own[i : i + 1], draw(i, rng)])
        # einsum sums every row in one order, which a matrix product does not: equal rows tie exactly
        scores = np.einsum("cd,d->c", texts[ranked], image)  # (candidates,)
        best = scores.max()
        if scores[0] == best:
            hits[i] = rng.random() * (scores == best).sum() < 1
    return hits


@torch.inference_mode()
def _image_features(encoder: DualEncoder, pictures: Pictures) -> Floats:
    """Unit vectors ``(N, D)``."""
    device = _device(encoder)
    features, done = [], 0
    with progress(f"{pictures.kind} images", len(pictures)) as report:
        for batch in pictures.batches():
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).to(device)
            features.append(
                F.normalize(encoder.image_features(pixels.float() / 127.5 - 1).float(), dim=1).cpu()
            )
            done += len(batch)
            report(done)
    return cast(Floats, torch.cat(features).numpy())


@torch.inference_mode()
def _caption_features(encoder: DualEncoder, captions: Sequence[str]) -> Floats:
    """Unit vectors ``(T, D)``."""
    features = []
    with progress("captions", len(captions), unit="captions") as report:
        for first in range(0, len(captions), _CHUNK):
            chunk = encoder.caption_features(captions[first : first + _CHUNK])
            features.append(F.normalize(chunk.float(), dim=1).cpu())
            report(first + len(chunk))
    return cast(Floats, torch.cat(features).numpy())


def _device(encoder: DualEncoder) -> torch.device:
    return next((value.device for value in encoder.state_dict().values()), torch.device("cpu"))
