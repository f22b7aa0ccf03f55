"""Objectives that pull an image and its caption together: structured joint embedding and InfoNCE.

Scores are computed in float32 at least, under autocast too: both objectives compare large numbers that are
close.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-6  # below this length a vector is not scaled up to unit length


class Directions(NamedTuple):
    """One objective, both ways; scalars."""

    image_to_text: Tensor
    """Each image looks for its text."""
    text_to_image: Tensor
    """Each text looks for its image."""


def structured_joint_embedding_loss(
    images: Tensor, texts: Tensor, labels: Tensor | None = None, *, margin: float = 1.0
) -> Tensor:
    """Ranking hinge of inner products, the sum of both directions.

    Reed et al., CVPR 2016: the objective of the text encoders of GAN-INT-CLS (ICML 2016).

    Args:
        images: ``(B, D)``; row ``i`` belongs to row ``i`` of ``texts``.
        texts: ``(B, D)``.
        labels: ``(B,)`` class ids: pairs of the same class are not mismatched. None: all other pairs are.
        margin: by how much a matching pair has to win.
    """
    hinge = ranking_hinge(_inner_products(images, texts), labels, margin=margin)
    return hinge.image_to_text + hinge.text_to_image


def info_nce(images: Tensor, texts: Tensor, temperature: float = 0.1, labels: Tensor | None = None) -> Tensor:
    """InfoNCE (NT-Xent) of cosine similarities, the sum of both directions.

    DAMSM's sentence loss (AttnGAN, CVPR 2018) has temperature 0.1 (its gamma 3 is 10) and class labels;
    XMC-GAN (CVPR 2021) has 0.1 and no labels. A zero vector has cosine 0 with everything.

    Args:
        images: ``(B, D)``; row ``i`` belongs to row ``i`` of ``texts``.
        texts: ``(B, D)``.
        temperature: what cosines are divided by.
        labels: ``(B,)`` class ids: another pair of the same class is no negative. None: all other pairs are.
    """
    images, texts = (F.normalize(_wide(x), dim=-1, eps=_EPSILON) for x in (images, texts))
    entropy = matching_cross_entropy(_inner_products(images, texts) / temperature, labels)
    return entropy.image_to_text + entropy.text_to_image


def ranking_hinge(scores: Tensor, labels: Tensor | None = None, *, margin: float = 1.0) -> Directions:
    """How far mismatched pairs come within a margin of the matching one, summed and divided by ``B * B``.

    The first direction sums ``max(0, margin + s[i, j] - s[i, i])`` over mismatched pairs, the second
    ``max(0, margin + s[j, i] - s[i, i])``.

    Args:
        scores: ``(B, B)``; row ``i`` is image ``i``, column ``j`` text ``j``, partners share a number.
        labels: as for ``structured_joint_embedding_loss``.
        margin: likewise.
    """
    scores = _wide(scores)
    same, matching = _same_class(scores, labels), scores.diagonal()

    def hinge(matching: Tensor) -> Tensor:
        return (margin + scores - matching).relu().masked_fill(same, 0.0).sum() / scores.numel()

    return Directions(hinge(matching[:, None]), hinge(matching[None, :]))


def matching_cross_entropy(scores: Tensor, labels: Tensor | None = None) -> Directions:
    """Cross-entropy of finding the right partner, each direction the mean over the batch.

    Args:
        scores: ``(B, B)`` logits; row ``i`` is image ``i``, column ``j`` text ``j``, partners share a number.
        labels: as for ``info_nce``.
    """
    scores = _wide(scores)
    others = _same_class(scores, labels).fill_diagonal_(False)
    scores = scores.masked_fill(others, -torch.inf)
    target = torch.arange(len(scores), device=scores.device)
    return Directions(F.cross_entropy(scores, target), F.cross_entropy(scores.t(), target))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inner_products(images: Tensor, texts: Tensor) -> Tensor:
    assert images.shape == texts.shape and images.ndim == 2, (images.shape, texts.shape)
    with torch.autocast(images.device.type, enabled=False):
        return _wide(images) @ _wide(texts).t()  # (B, B)


def _same_class(scores: Tensor, labels: Tensor | None) -> Tensor:
    """``(B, B)``, bool: True on the diagonal and where both have the same class."""
    if labels is None:
        return torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    assert labels.shape == scores.shape[:1], (labels.shape, scores.shape)
    return labels[:, None] == labels[None, :]
