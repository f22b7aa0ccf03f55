"""The contrastive loss of Siamese training: images that show the same thing are near, others are apart.

Yin et al., SD-GAN (CVPR 2019), section 3.1; without alpha it is that of Hadsell, Chopra and LeCun (CVPR
2006). Computed in float32 at least, under autocast too.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-12  # below the root, whose slope at 0 is infinite


def pair_distance(first: Tensor, second: Tensor) -> Tensor:
    """d, the Euclidean distance of two codes ``(..., F)`` and ``(..., F)``; ``(...)``."""
    with torch.autocast(first.device.type, enabled=False):
        first, second = _wide(first), _wide(second)
        return ((first - second).square().sum(dim=-1) + _EPSILON).sqrt()


def all_distances(first: Tensor, second: Tensor) -> Tensor:
    """The distances of each code from those of all other images; ``(B * (B - 1),)``.

    Args:
        first: ``(B, F)``.
        second: ``(B, F)``; row i is no partner of row i of ``first``.
    """
    square = pair_distance(first[:, None], second)  # (B, B)
    num = len(square)
    # Without its first entry the flat square has the other diagonal ones at the end of rows of B + 1.
    return square.flatten()[1:].view(num - 1, num + 1)[:, :-1].flatten() if num > 1 else square.new_empty(0)


def contrastive_pair_losses(
    distance: Tensor, same: Tensor | float, *, alpha: float = 0.1, epsilon: float = 1.0, num: int = 1
) -> Tensor:
    """``(y max(d, alpha)^2 + (1 - y) max(epsilon - d, 0)^2) / (2 N)`` of each pair; ``(P,)``.

    Two images of one thing are drawn together, but no nearer than ``alpha``: their noise differs, and so may
    they. Images of two things are driven apart until they are ``epsilon`` away.

    Args:
        distance: d, ``(P,)``.
        same: y, 1 where both images show the same thing, else 0; one for all or ``(P,)``.
        alpha: the least distance that is worth to lessen.
        epsilon: the distance that suffices.
        num: N: 1 if the paper's sum over N is taken at its word, the length of the code if it is not.
    """
    with torch.autocast(distance.device.type, enabled=False):
        distance = _wide(distance)
        together, apart = distance.clamp(min=alpha).square(), (epsilon - distance).clamp(min=0).square()
        return (same * together + (1 - same) * apart) / (2 * num)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
