"""R-precision: is an image's own caption the nearest among a hundred?

The independent protocol: a dual encoder that the scored system never saw ranks the caption that an image was
generated from among 99 captions of other images of the split. Random features score 1 %, ties are broken at
random. For the embedded emoji set such an encoder ships with Ganvas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.progress import progress
from ganvas.systems.retriever import Retriever

_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol:
    """Everything that fixes the number."""

    split: str = "test"
    candidates: int = 100
    """One true caption and the rest of other images."""
    folds: int = 10
    """Parts of the images over which the spread is taken."""
    seed: int = 0
    """Of the noise, the mismatched captions and the ties."""
    retriever: str = "emoji"
    """The dual encoder: the one that ships for a data set, or a folder."""


@dataclass(frozen=True, kw_only=True)
class RetrievalScore:
    """R-precision with its protocol."""

    value: float
    """Share of images whose own caption ranks first, 0 to 1: mean over folds."""
    spread: float
    """Standard deviation over folds."""
    num_images: int
    images: str
    """``generated``, ``real``, or ``real, shuffled``."""
    protocol: RetrievalProtocol
    data: str
    """Fingerprint of the data set."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ± {100 * self.spread:.1f}"


def load_retriever(name: str) -> Retriever:
    """The dual encoder that ships for the data set ``name``, or the one in the folder ``name``.

    Raises:
        GanvasError: there is neither.
    """
    shipped = files("ganvas.scores") / "retrievers" / name
    if "/" not in name and shipped.is_dir():
        with as_file(shipped) as folder:
            return _opened(folder)
    if not Path(name).is_dir():
        raise GanvasError(
            f"no dual encoder ships for data set '{name}'; train one with the system 'retriever' and give its"
            " run folder"
        )
    return _opened(Path(name))


def _opened(folder: Path) -> Retriever:
    system = load(folder, device="cpu").system
    if not isinstance(system, Retriever):
        raise GanvasError(f"{folder}: holds no dual encoder (system 'retriever')")
    return system


def score_model(model: Model, store: Store, protocol: RetrievalProtocol) -> RetrievalScore:
    """R-precision of one generated image for the first caption of every image of the split, each with its
    noise.
    """
    rows = store.rows(protocol.split)
    captions = [store.captions[row][0] for row in rows]
    batches = model.generate_arrays(captions, seed=protocol.seed, same_noise=False)
    return _score(batches, captions, "generated", store, protocol)


def score_real(store: Store, protocol: RetrievalProtocol, *, shuffled: bool = False) -> RetrievalScore:
    """R-precision of the real images: what a perfect generator could expect.

    With ``shuffled``, every image stands for the caption of another one: what chance gives.
    """
    rows = store.rows(protocol.split)
    captions = [store.captions[row][0] for row in rows]
    if shuffled:
        rows = np.random.default_rng(protocol.seed).permutation(rows)
    batches = (store.images.squares(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK))
    return _score(batches, captions, "real, shuffled" if shuffled else "real", store, protocol)


@torch.inference_mode()
def _score(
    batches: Iterable[npt.NDArray[np.uint8]],
    captions: list[str],
    kind: str,
    store: Store,
    protocol: RetrievalProtocol,
) -> RetrievalScore:
    retriever = load_retriever(protocol.retriever)
    features, done = [], 0
    with progress(f"{kind} images", len(captions)) as report:
        for batch in batches:
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1
            features.append(retriever.image_features(pixels))
            done += len(batch)
            report(done)
    texts = [retriever.caption_features(captions[i : i + _CHUNK]) for i in range(0, len(captions), _CHUNK)]
    hits = first_ranked(torch.cat(features), torch.cat(texts), protocol.candidates, protocol.seed)
    folds = np.array([fold.mean() for fold in np.array_split(hits.numpy(), protocol.folds)])
    return RetrievalScore(
        value=float(hits.double().mean()),
        spread=float(folds.std()),
        num_images=len(captions),
        images=kind,
        protocol=protocol,
        data=store.info.fingerprint,
    )


def first_ranked(images: Tensor, texts: Tensor, candidates: int, seed: int) -> Tensor:
    """Which images rank their own text first among random others.

    Args:
        images: ``(N, D)`` features.
        texts: ``(N, D)``; row ``i`` belongs to image ``i``.
        candidates: texts ranked for each image, its own included; at most N.
        seed: of the choice of the others, without repetition, and of ties.

    Returns:
        ``(N,)`` float, 1 where the own text won; a tie is broken at random.

    Raises:
        GanvasError: fewer texts than candidates.
    """
    num = len(images)
    if num < candidates:
        raise GanvasError(
            f"R-precision among {candidates} captions needs as many images, and there are {num}"
        )
    rng = np.random.default_rng(seed)
    hits = torch.empty(num)
    for i in range(num):
        others = rng.choice(num - 1, candidates - 1, replace=False)
        others = others + (others >= i)
        scores = texts[np.concatenate([[i], others])] @ images[i]  # (candidates,)
        ties = int((scores == scores.max()).sum())
        hits[i] = float(cast(bool, scores[0] == scores.max()) and rng.random() * ties < 1)
    return hits
