"""Word attention: each place of a feature map looks at the words of its caption.

Xu et al., AttnGAN (CVPR 2018), section 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Attended(NamedTuple):
    """What words give to a feature map."""

    context: Tensor
    """``(B, C, H, W)``: c, the words that each place looks at, as weighted."""
    weights: Tensor
    """``(B, H * W, T)``: beta, summing to 1 over words."""


class WordAttention(nn.Module):
    """``c_j = sum_t beta_jt U e_t`` with ``beta_j = softmax_t(h_j^T U e_t)``.

    Args:
        word_dim: D, width of words.
        channels: C, width of the feature map.
        mask_compat: mask as the official code does: place q of caption b uses the mask of caption
            ``(b Q + q) mod B``, for Q places and B captions, so that captions take each other's padding for
            words. For weights that were trained so.
    """

    def __init__(self, word_dim: int, channels: int, *, mask_compat: bool = False) -> None:
        super().__init__()
        self.mask_compat = mask_compat
        self.project = nn.Conv1d(word_dim, channels, 1, bias=False)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> Attended:
        """Attend.

        Args:
            features: ``(B, C, H, W)``.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, True on real words; at least one in each row.
        """
        keys = self.project(words.transpose(1, 2))  # (B, C, T)
        queries = features.flatten(2).transpose(1, 2)  # (B, Q, C)
        scores = (queries @ keys).masked_fill(self._hidden(mask, queries.shape[1]), -torch.inf)
        weights = scores.softmax(dim=-1)
        context = weights.to(keys.dtype) @ keys.transpose(1, 2)  # (B, Q, C)
        return Attended(context.transpose(1, 2).reshape(features.shape), weights)

    def _hidden(self, mask: Tensor, places: int) -> Tensor:
        """``(B, 1 or Q, T)``: True on the words that a place must not see."""
        if not self.mask_compat:
            return ~mask[:, None]
        rows = torch.arange(len(mask) * places, device=mask.device) % len(mask)
        return ~mask[rows].view(len(mask), places, -1)
