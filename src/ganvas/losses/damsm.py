"""DAMSM's scores: how well an image's regions show a caption's words, and the whole image its sentence.

Xu et al., AttnGAN (CVPR 2018), section 3.2, equations 7 to 13. Every image is compared with every caption of
the batch in a few batched products. Scores are computed in float32 at least, under autocast too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ganvas.losses.joint_embedding import Directions, matching_cross_entropy

_EPSILON = 1e-8  # below this product of lengths a cosine is not scaled up
_MOST = (
    2**26
)  # similarities that are held at once; a batch of 48 with 18 words and 289 regions has 12 million


class DamsmLosses(NamedTuple):
    """L_DAMSM is the sum of its four parts."""

    words: Directions
    """L^w: the regions of an image and the words of a caption."""
    sentence: Directions
    """L^s: the whole image and the whole caption."""


def damsm_losses(
    words: Tensor, sentences: Tensor, labels: Tensor | None = None, *, gamma3: float = 10.0
) -> DamsmLosses:
    """Equations 11 to 13: the cross-entropies of finding the right partner in the batch.

    A batch of one has a loss of 0.

    Args:
        words: ``(B, B)`` scores of ``word_scores``; row ``i`` is image ``i``, column ``j`` caption ``j``.
        sentences: ``(B, B)``, likewise, of ``sentence_scores``.
        labels: ``(B,)`` class ids: another pair of the same class is no negative. None: all other pairs are.
        gamma3: what scores are multiplied with.
    """
    return DamsmLosses(
        matching_cross_entropy(gamma3 * words, labels),
        matching_cross_entropy(gamma3 * sentences, labels),
    )


def sentence_scores(codes: Tensor, sentences: Tensor) -> Tensor:
    """Cosines ``(B, C)`` of B images and C captions; 0 with a zero vector.

    Args:
        codes: ``(B, D)`` of whole images.
        sentences: ``(C, D)``.
    """
    with torch.autocast(codes.device.type, enabled=False):
        codes, sentences = _wide(codes), _wide(sentences)
        lengths = _length(codes)[:, None] * _length(sentences)
        return codes @ sentences.t() / lengths.clamp(min=_EPSILON)


def word_scores(
    regions: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    root: bool = False,
) -> Tensor:
    """R(Q, D) ``(B, C)`` of B images and C captions: equations 7 to 10.

    A caption's words look at an image's regions (``region_attention``). R sums, over words, how near in
    direction each word is to what it looks at: ``log sum_i exp(gamma2 R(c_i, e_i))``.

    The largest tensors are similarities and two softmaxes of them, ``(B, C, T, R)``, and contexts ``(B, C, T,
    D)``. Where they would grow beyond a bound, captions come in parts, which are computed again for the
    gradient.

    Args:
        regions: v, ``(B, D, R)`` or ``(B, D, H, W)``.
        words: e, ``(C, T, D)``.
        mask: ``(C, T)``, True on real words; at least one in each row.
        gamma1: how much a word prefers the regions that prefer it.
        gamma2: how much the best words count more than others.
        root: take the root of the sum, ``(...)^(1 / gamma2)``, as the paper writes it; the released code goes
            without.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, words = _wide(regions.flatten(2)), _wide(words)
        part = max(1, _MOST // max(1, len(regions) * regions.shape[2] * words.shape[1]))
        if part >= len(words):
            scores = _scores(regions, words, mask, gamma1, gamma2)
        else:
            parts = zip(torch.split(words, part), torch.split(mask, part), strict=True)
            scores = torch.cat(
                [checkpoint(_scores, regions, *some, gamma1, gamma2, use_reentrant=False) for some in parts],
                dim=1,
            )
        return scores / gamma2 if root else scores


def region_attention(similarity: Tensor, mask: Tensor, gamma1: float) -> Tensor:
    """How much each word looks at each region: alpha of equations 8 and 9, summing to 1 over regions.

    Args:
        similarity: ``(..., T, R)``: s, inner products of words and regions.
        mask: ``(..., T)``, True on real words. What the others look at means nothing.
        gamma1: as for ``word_scores``.
    """
    per_region = similarity.masked_fill(~mask[..., None], -torch.inf).softmax(dim=-2)
    return (gamma1 * per_region).softmax(dim=-1)


def matching_attention(regions: Tensor, words: Tensor, mask: Tensor, *, gamma1: float = 4.0) -> Tensor:
    """What each word of an image's own caption looks at: alpha, ``(B, T, ...)`` with the shape of the
    image's regions; 0 on padding.

    Args:
        regions: ``(B, D, R)`` or ``(B, D, H, W)``.
        words: ``(B, T, D)``.
        mask: ``(B, T)``, True on real words; at least one in each row.
        gamma1: as for ``word_scores``.
    """
    with torch.autocast(regions.device.type, enabled=False):
        attention = region_attention(_wide(words) @ _wide(regions.flatten(2)), mask, gamma1)
    return (attention * mask[..., None]).view(*mask.shape, *regions.shape[2:])


def _scores(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """``(B, C)`` for ``(B, D, R)``, ``(C, T, D)``, ``(C, T)``."""
    similarity = (words.flatten(0, 1) @ regions).view(len(regions), *mask.shape, -1)  # (B, C, T, R)
    attention = region_attention(similarity, mask, gamma1)
    context = attention.flatten(1, 2) @ regions.transpose(1, 2)  # (B, C * T, D)
    lengths = _length(context).view(-1, *mask.shape) * _length(words)  # (B, C, T)
    # c_i . e_i = sum_j alpha_ij v_j . e_i = sum_j alpha_ij s_ij
    cosine = (attention * similarity).sum(dim=-1) / lengths.clamp(min=_EPSILON)
    scores: Tensor = (gamma2 * cosine).masked_fill(~mask, -torch.inf).logsumexp(dim=-1)
    return scores


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return length


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
