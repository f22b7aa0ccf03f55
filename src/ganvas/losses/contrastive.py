"""Contrastive losses of XMC-GAN: Zhang et al. (CVPR 2021), section 4.2.

NT-Xent between images and sentences, between two sets of images, and between the regions of images and the
words of captions. Where a run has several ranks, all pairs of all ranks are each other's negatives: features
are gathered with their gradient. Every rank then has the loss of the whole batch, and the mean of the ranks'
weight gradients is its gradient. Scores are computed in float32 at least, under autocast too.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ganvas.losses.damsm import sentence_scores
from ganvas.losses.joint_embedding import matching_cross_entropy

_EPSILON = 1e-8  # below this length a vector is not scaled up
_MOST = 2**26  # similarities that are held at once


class Contrast(NamedTuple):
    """What a batch says of its pairs; scalars."""

    loss: Tensor
    """Cross-entropy of finding the partner, the sum of both directions."""
    accuracy: Tensor
    """How often the partner scores best, the mean of both directions."""
    entropy: Tensor
    """Of the softmax over the batch, likewise."""


def contrast(logits: Tensor) -> Contrast:
    """NT-Xent of scores ``(B, B)``; partners share a number. A batch of one has a loss of 0."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    both = matching_cross_entropy(logits)
    with torch.no_grad():
        own = torch.arange(len(logits), device=logits.device)
        rows, columns = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
        right = (rows.argmax(dim=1) == own).float().mean() + (columns.argmax(dim=0) == own).float().mean()
        entropy = torch.stack([-(x.exp() * x).sum() / len(logits) for x in (rows, columns)]).mean()
    return Contrast(both.image_to_text + both.text_to_image, right / 2, entropy)


def vector_contrast(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Contrast:
    """NT-Xent of cosines: of images and sentences, or of generated images and real ones.

    Args:
        first: ``(B, D)`` of this rank.
        second: ``(B, D)``, their partners.
        temperature: tau.
    """
    return contrast(sentence_scores(gathered(first), gathered(second)) / temperature)


def word_contrast(
    regions: Tensor, words: Tensor, mask: Tensor, *, rho1: float = 5.0, rho2: float = 5.0, scale: float = 50.0
) -> Contrast:
    """NT-Xent of ``word_region_scores``: each rank compares all images with its own captions.

    Args:
        regions: ``(B, D, R)`` or ``(B, D, H, W)`` of this rank.
        words: ``(B, T, D)`` of this rank; T may differ between ranks.
        mask: ``(B, T)``, True on real words; at least one in each row.
        rho1: how much a word prefers the regions that are like it.
        rho2: how much the best words of a caption count more than the others.
        scale: what scores are multiplied with, 1 / tau.
    """
    scores = word_region_scores(gathered(regions.flatten(2)), words, mask, rho1=rho1, rho2=rho2)
    return contrast(scale * gathered(scores.t()).t())


def word_region_scores(
    regions: Tensor, words: Tensor, mask: Tensor, *, rho1: float = 5.0, rho2: float = 5.0
) -> Tensor:
    """S_word ``(B, C)`` of B images and C captions.

    Word i looks at region j with ``alpha_ij = softmax_j(rho1 cos(w_i, r_j))`` and finds
    ``c_i = sum_j alpha_ij r_j``, regions as unit vectors. ``S = log(sum_i exp(rho2 cos(w_i, c_i))) / rho2``.

    Lengths of c follow from inner products of regions where these are fewer than the widths of words, so that
    the largest tensors are ``(B, C, T, min(R, D))``. Where those would grow beyond a bound, captions come in
    parts, which are computed again for the gradient.

    Args:
        regions: ``(B, D, R)`` or ``(B, D, H, W)``.
        words: ``(C, T, D)``.
        mask: ``(C, T)``, True on real words; at least one in each row.
        rho1: see above.
        rho2: see above.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions = _unit(regions.flatten(2), dim=1)
        words = _unit(words, dim=2)
        part = max(1, _MOST // max(1, len(regions) * regions.shape[2] * words.shape[1]))
        if part >= len(words):
            return _scores(regions, words, mask, rho1, rho2)
        parts = zip(torch.split(words, part), torch.split(mask, part), strict=True)
        some = [checkpoint(_scores, regions, *own, rho1, rho2, use_reentrant=False) for own in parts]
        return torch.cat(some, dim=1)


def _scores(regions: Tensor, words: Tensor, mask: Tensor, rho1: float, rho2: float) -> Tensor:
    """``(B, C)`` for unit regions ``(B, D, R)``, unit words ``(C, T, D)`` and ``(C, T)``."""
    cosines = words.flatten(0, 1) @ regions  # (B, C * T, R)
    attention = (rho1 * cosines).softmax(dim=-1)
    if regions.shape[2] < regions.shape[1]:
        squared = (attention @ (regions.transpose(1, 2) @ regions) * attention).sum(dim=-1)
    else:
        squared = (attention @ regions.transpose(1, 2)).square().sum(dim=-1)
    # w_i . c_i = sum_j alpha_ij w_i . r_j
    found = (attention * cosines).sum(dim=-1) * squared.clamp(min=_EPSILON**2).rsqrt()  # (B, C * T)
    scaled = (rho2 * found.view(-1, *mask.shape)).masked_fill(~mask, -torch.inf)
    return scaled.logsumexp(dim=-1) / rho2


def gathered(rows: Tensor) -> Tensor:
    """The rows ``(B, ...)`` of all ranks, one after the other; gradients flow back to each rank's own."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return cast(Tensor, _Gathered.apply(rows))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        every = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(every, rows)
        context.num = len(rows)
        return torch.cat(every)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        first = dist.get_rank() * context.num
        return whole[first : first + context.num]


def _unit(x: Tensor, dim: int) -> Tensor:
    """Unit vectors; zero stays zero."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(x, dim=dim, eps=_EPSILON)
