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
) -> Directions:
    """Ranking hinge of inner products, in both directions.

    With ``s[i, j]`` the inner product of image ``i`` and text ``j``, the first direction is the sum over
    mismatched pairs of ``max(0, margin + s[i, j] - s[i, i])``, divided by ``B * B``; the second has
    ``s[j, i]``.
    Reed et al., CVPR 2016 (objective of the text encoders of GAN-INT-CLS, ICML 2016).

    Args:
        images: ``(B, D)``; row ``i`` belongs to row ``i`` of ``texts``.
        texts: ``(B, D)``.
        labels: ``(B,)`` class ids: pairs of the same class are not mismatched. None: all other pairs are.
        margin: by how much a matching pair has to win.
    """
    scores = _inner_products(images, texts)
    same = _same_class(scores, labels)
    matching = scores.diagonal()

    def hinge(matching: Tensor) -> Tensor:
        return (margin + scores - matching).relu().masked_fill(same, 0.0).sum() / scores.numel()

    return Directions(hinge(matching[:, None]), hinge(matching[None, :]))


def info_nce_loss(
    images: Tensor, texts: Tensor, labels: Tensor | None = None, *, temperature: float = 0.1
) -> Directions:
    """InfoNCE (NT-Xent) of cosine similarities, in both directions; systems add the two.

    DAMSM's sentence loss (AttnGAN, CVPR 2018) has temperature 0.1 (its gamma 3 is 10) and class labels;
    XMC-GAN (CVPR 2021) has 0.1 and no labels. A zero vector has cosine 0 with everything.

    Args:
        images: ``(B, D)``; row ``i`` belongs to row ``i`` of ``texts``.
        texts: ``(B, D)``.
        labels: as for ``matching_cross_entropy``.
        temperature: what cosines are divided by.
    """
    images, texts = (F.normalize(_wide(x), dim=-1, eps=_EPSILON) for x in (images, texts))
    return matching_cross_entropy(_inner_products(images, texts) / temperature, labels)


def matching_cross_entropy(scores: Tensor, labels: Tensor | None = None) -> Directions:
    """Cross-entropy of finding the right partner, in both directions, each the mean over the batch.

    Args:
        scores: ``(B, B)`` logits; row ``i`` is image ``i``, column ``j`` text ``j``, partners share a number.
        labels: ``(B,)`` class ids: another pair of the same class is no negative. None: all other pairs are.
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
