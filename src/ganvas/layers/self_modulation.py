"""Self-modulation: batch normalisation whose scale and shift follow a condition, for a whole map or by place.

Zhang et al., XMC-GAN (CVPR 2021), section 4.1: ``h' = gamma(.) (h - mu) / sigma + beta(.)`` with linear gamma
and beta; in the attentional form every place has its own, from the words that it looks at.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalCondition(NamedTuple):
    """A condition with a part for each place: ``cat(c_j, g)`` at place j."""

    words: Tensor
    """``(B, T, D)``: unit vectors, of which contexts are weighted sums."""
    weights: Tensor
    """``(B, T, h, w)``: summing to 1 over words. ``c_j = sum_t weights_tj words_t``."""
    whole: Tensor
    """``(B, N)``: g, the part that all places share."""


class SelfModulation(nn.Module):
    """``(1 + gamma(g)) BN(h) + beta(g)``, the same at all places; normalisation has no scale of its own.

    Args:
        channels: C of the features.
        whole_dim: N.
    """

    def __init__(self, channels: int, whole_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma = nn.Linear(whole_dim, channels)
        self.beta = nn.Linear(whole_dim, channels)

    def forward(self, features: Tensor, condition: LocalCondition | Tensor) -> Tensor:
        """``(B, C, H, W)`` and a condition, of which the shared part is used, to the same shape."""
        whole = condition.whole if isinstance(condition, LocalCondition) else condition
        scale, shift = 1 + self.gamma(whole)[..., None, None], self.beta(whole)[..., None, None]
        return torch.addcmul(shift, self.norm(features), scale)


class AttentionalSelfModulation(nn.Module):
    """The same with gamma and beta of ``cat(c_j, g)`` for each place j.

    Both are linear, and contexts are weighted sums of words: so gamma and beta are applied to the T words,
    the sums are taken afterwards, and what is smaller than the features is enlarged last. The official code
    applies them to every place of an enlarged condition; the results agree to rounding.

    Args:
        channels: C of the features.
        word_dim: D.
        whole_dim: N.
    """

    def __init__(self, channels: int, word_dim: int, whole_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma = nn.Linear(word_dim + whole_dim, channels)
        self.beta = nn.Linear(word_dim + whole_dim, channels)

    def forward(self, features: Tensor, condition: LocalCondition) -> Tensor:
        """``(B, C, H, W)`` and a condition of at most its size to the same shape."""
        words, weights, whole = condition
        weight = torch.cat([self.gamma.weight, self.beta.weight])  # (2C, D + N)
        bias = torch.cat([1 + self.gamma.bias, self.beta.bias])
        of_words, of_whole = weight.tensor_split([words.shape[2]], dim=1)
        shared = F.linear(whole, of_whole, bias)[:, None]  # (B, 1, 2C)
        values = (
            F.linear(words, of_words) + shared
        )  # as weights sum to 1, each word may carry the shared part
        places = torch.bmm(weights.flatten(2).transpose(1, 2), values.to(weights.dtype))  # (B, h * w, 2C)
        maps = places.transpose(1, 2).view(len(places), -1, *weights.shape[2:])
        if maps.shape[2:] != features.shape[2:]:
            maps = F.interpolate(maps, size=features.shape[2:], mode="nearest")
        scale, shift = maps.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(features), scale)


class RegionAttention(nn.Module):
    """Which words each place looks at: ``softmax_t(rho0 cos(w_t, h_j))``, places mapped to the words' width.

    Args:
        channels: C of the features.
        word_dim: D.
        rho0: how much the nearest words are preferred.
    """

    def __init__(self, channels: int, word_dim: int, rho0: float = 15.0) -> None:
        super().__init__()
        self.rho0 = rho0
        self.query = nn.Conv2d(channels, word_dim, 1)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Words as unit vectors ``(B, T, D)`` and weights ``(B, T, H, W)``.

        Args:
            features: ``(B, C, H, W)``.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, True on real words; at least one in each row.
        """
        regions = cast(Tensor, self.query(features)).flatten(2)  # (B, D, H * W)
        unit, weights = attend(regions, words, mask, self.rho0)
        return unit, weights.view(*weights.shape[:2], *features.shape[2:])


def attend(regions: Tensor, words: Tensor, mask: Tensor, rho0: float) -> tuple[Tensor, Tensor]:
    """Words as unit vectors ``(B, T, D)`` and the weights ``(B, T, R)`` that regions give them.

    In float32 at least; a zero vector has cosine 0.

    Args:
        regions: ``(B, D, R)``.
        words: ``(B, T, D)``.
        mask: ``(B, T)``.
        rho0: what cosines are multiplied with.
    """
    with torch.autocast(regions.device.type, enabled=False):
        wide = torch.promote_types(regions.dtype, torch.float32)
        regions, unit = F.normalize(regions.to(wide), dim=1), F.normalize(words.to(wide), dim=2)
        cosines = rho0 * torch.bmm(unit, regions)  # (B, T, R)
        return unit, cosines.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
