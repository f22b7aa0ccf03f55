"""Word attention: each place of a feature map looks at the words of its caption.

Xu et al., AttnGAN (CVPR 2018), section 3.1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn


class Attended(NamedTuple):
    """What words give to a feature map."""

    context: Tensor
    """``(B, C, H, W)``: c, the words that each place looks at, as weighted."""
    weights: Tensor
    """``(B, T, H, W)``: beta, summing to 1 over words, or over the places for each word; 0 on padding."""


class WordAttention(nn.Module):
    """``c_j = sum_t beta_jt U e_t`` with ``beta_j = softmax_t(h_j^T U e_t)``.

    Args:
        word_dim: D, width of words.
        channels: C, width of the feature map.
        mask_compat: mask as the official code does: place q of caption b uses the mask of caption
            ``(b Q + q) mod B``, for Q places and B captions, so that captions take each other's padding for
            words. For weights that were trained so.
        over: what the softmax goes over: the words, for each place, or the places, for each word.
    """

    def __init__(
        self,
        word_dim: int,
        channels: int,
        *,
        mask_compat: bool = False,
        over: Literal["words", "places"] = "words",
    ) -> None:
        super().__init__()
        self.mask_compat, self.over = mask_compat, over
        self.project = nn.Linear(word_dim, channels, bias=False)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> Attended:
        """Attend.

        Args:
            features: ``(B, C, H, W)``; no copy is made of those with channels last.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, True on real words; at least one in each row.
        """
        keys = cast(Tensor, self.project(words))  # (B, T, C)
        queries = features.flatten(2).transpose(1, 2)  # (B, Q, C)
        if self.over == "places":
            scores = torch.bmm(keys, queries.transpose(1, 2))
            weights = scores.softmax(dim=2) * mask[:, :, None]  # (B, T, Q)
        else:
            scores = torch.baddbmm(self._penalty(mask, queries), queries, keys.transpose(1, 2))  # (B, Q, T)
            # On a CPU a softmax is slow over few numbers side by side, and fast with places side by side.
            weights = scores.transpose(1, 2).contiguous().softmax(dim=1)  # (B, T, Q)
        context = torch.bmm(weights.transpose(1, 2).to(keys.dtype), keys)  # (B, Q, C)
        maps = weights.view(*weights.shape[:2], *features.shape[2:])
        return Attended(context.transpose(1, 2).view(features.shape), maps)

    def _penalty(self, mask: Tensor, queries: Tensor) -> Tensor:
        """``(B, 1 or Q, T)``: minus infinity on the words that a place must not see, else 0."""
        penalty = queries.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        if not self.mask_compat:
            return penalty[:, None]
        rows = torch.arange(len(mask) * queries.shape[1], device=mask.device) % len(mask)
        return penalty[rows].view(len(mask), queries.shape[1], -1)
