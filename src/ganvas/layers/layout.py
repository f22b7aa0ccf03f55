"""What layout refinement needs beside a generator: real images on its scale, and weights of residuals.

Tan et al., "ALR-GAN", IEEE TMM 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganvas.layers.blocks import down_block, joining_block


class RealEncoder(nn.Sequential):
    """E_i: a real image ``(B, 3, 2S, 2S)`` to H* ``(B, C, S, S)``, of the kind that stage i reads.

    It ends as a stage does, with normalisation and a gated linear unit.

    Args:
        width: C, of the generator's features.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            down_block(3, width, normalised=False),
            joining_block(width, width),
            joining_block(width, width),
        )


class AdaptiveWeights(nn.Module):
    """phi: residuals, laid on the features of the real image, to a positive weight for each entry.

    Two convolutions, half as wide inside, and a softplus; the paper says convolutions and activations.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width // 2, 3, padding=1)
        self.outer = nn.Conv2d(width // 2, width, 3, padding=1)

    def forward(self, residuals: Tensor) -> Tensor:
        """``(B, D, H, W)``, ``R * H*``, to the same shape, in float32."""
        hidden = F.leaky_relu(self.inner(residuals), 0.2)
        return F.softplus(self.outer(hidden).float())


@contextmanager
def held_statistics(module: nn.Module) -> Iterator[None]:
    """In it, batch normalisation goes by the batch, and its running statistics stay what they are.

    For real images that pass through a generator, whose statistics are those of what it generates.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
