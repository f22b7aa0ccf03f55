"""Retrieval by DAMSM on real images that it was not trained on: does an image find its caption among a
hundred, and a caption its image?

It says how well the encoders were trained, before a generator learns from them. R-precision of generated
images by the same encoders is ``ganvas.scores.retrieval.r_precision`` with ``encoder=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.layers.region_encoder import Regions
from ganvas.losses.damsm import sentence_scores, word_scores
from ganvas.progress import progress
from ganvas.scores.dual_encoders import digest
from ganvas.scores.pictures import Pictures, real
from ganvas.scores.retrieval import other_rows
from ganvas.scores.score import Score
from ganvas.systems.damsm import DamsmEncoders
from ganvas.text.encoder import Text

_CHUNK = 64

By: TypeAlias = Literal["sentence", "words"]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DamsmRetrievalProtocol:
    """Everything that fixes the numbers, beside encoders and data."""

    split: str = "test"
    """Whose images."""
    num_images: int = 1000
    """At most so many of them, one caption each."""
    candidates: int = 100
    """The right one and those of other images."""
    candidate_seed: int = 0
    """Of the choice of images, of the others and of ties."""
    by: tuple[By, ...] = ("sentence", "words")
    """What is compared: the whole image with the sentence, or regions with words."""


@torch.inference_mode()
def damsm_retrieval(
    encoders: DamsmEncoders, store: Store, protocol: DamsmRetrievalProtocol | None = None
) -> list[Score]:
    """How often the right one ranks first, 0 to 1, in both directions.

    Args:
        encoders: of a trained DAMSM.
        store: prepared data.
        protocol: which images, how many candidates.

    Returns:
        For each kind of comparison "image to text" and "text to image".

    Raises:
        GanvasError: the split has fewer images than candidates, or is not there.
    """
    p = protocol or DamsmRetrievalProtocol()
    num = min(p.num_images, len(store.rows(p.split)))
    if p.candidates < 2 or num < p.candidates:
        raise GanvasError(
            f"retrieval among {p.candidates}: needs at least 2 candidates and as many images of split"
            f" '{p.split}', and there are {num}"
        )
    pictures = real(store, split=p.split, num=num, seed=p.candidate_seed)
    texts, own = np.unique(np.array(pictures.captions), return_inverse=True)  # equal captions tie exactly
    images, captions = _encoded_images(encoders, pictures), _encoded_captions(encoders, texts.tolist())
    about = {**asdict(p), **pictures.about, "encoder": digest(encoders)}
    found = []
    for by in p.by:
        scores = _scores(encoders, images, captions, by)[:, own]  # (N, N): image i, the caption of image j
        for direction, table in (("image to text", scores), ("text to image", scores.T)):
            hits = _first_ranked(table, pictures.rows, p)
            error = float(hits.std() / np.sqrt(len(hits)))
            found.append(
                Score(
                    name=f"damsm retrieval by {by}, {direction}",
                    value=float(hits.mean()),
                    better="higher",
                    protocol={**about, "by": by},
                    facts={"images": pictures.kind, "chance": 1 / p.candidates, "standard_error": error},
                )
            )
    return found


def _first_ranked(scores: Floats, rows: npt.NDArray[np.int64], p: DamsmRetrievalProtocol) -> Floats:
    """``(N,)``: 1 where row ``i`` of ``(N, N)`` is largest at ``i`` among the candidates; ties fall at
    random.
    """
    rng = np.random.default_rng(p.candidate_seed)
    draw = other_rows(np.arange(len(rows)), rows, rows, p.candidates - 1)
    hits = np.zeros(len(rows), np.float32)
    for i, row in enumerate(scores):
        ranked = row[np.append(i, draw(i, rng))]
        best = ranked.max()
        if ranked[0] == best:
            hits[i] = rng.random() * (ranked == best).sum() < 1
    return hits


def _encoded_images(encoders: DamsmEncoders, pictures: Pictures) -> list[Regions]:
    device = next(encoders.parameters()).device
    encoded = []
    with progress("images", len(pictures)) as report:
        for batch in pictures.batches():
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).to(device)
            encoded.append(encoders.image_regions(pixels.float() / 127.5 - 1))
            report(sum(len(part.code) for part in encoded))
    return encoded


def _encoded_captions(encoders: DamsmEncoders, captions: Sequence[str]) -> list[Text]:
    return [encoders.embed(captions[first : first + _CHUNK]) for first in range(0, len(captions), _CHUNK)]


def _scores(encoders: DamsmEncoders, images: list[Regions], captions: list[Text], by: By) -> Floats:
    """``(N, T)`` scores of images and captions."""
    gammas = encoders.settings

    def block(image: Regions, text: Text) -> Tensor:
        if by == "sentence":
            return sentence_scores(image.code, text.sentence)
        return word_scores(image.regions, text.words, text.mask, gamma1=gammas.gamma1, gamma2=gammas.gamma2)

    rows = []
    with progress(f"scores by {by}", len(images), unit="blocks") as report:
        for done, image in enumerate(images, start=1):
            rows.append(torch.cat([block(image, text) for text in captions], dim=1).float().cpu())
            report(done)
    table: Floats = torch.cat(rows).numpy()
    return table
