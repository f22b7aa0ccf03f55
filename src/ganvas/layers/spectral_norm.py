"""Spectral normalisation: weights divided by an estimate of their largest singular value.

Miyato et al. (ICLR 2018), with one step of power iteration for each pass, as in XMC-GAN's discriminator. The
vector that is kept is that on the side of the outputs, which the official Flax code keeps too: in evaluation
a step is taken from it for the estimate, and not kept.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPSILON = 1e-10


def spectrally_normalised(weight: Tensor, u: Tensor, *, keep: bool) -> Tensor:
    """``weight`` over its spectral norm, in its own precision, under autocast too.

    Args:
        weight: ``(out, ...)``; all but the first dimension are one side of the matrix.
        u: ``(out,)``, where the power iteration stands.
        keep: whether ``u`` moves on.
    """
    with torch.autocast(weight.device.type, enabled=False):
        # The order of its columns changes nothing; this one is a view of kernels with channels last.
        matrix = weight.flatten(1) if weight.is_contiguous() else weight.movedim(1, -1).flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.t() @ u, dim=0, eps=_EPSILON)
            after = F.normalize(matrix @ v, dim=0, eps=_EPSILON)
            if keep:
                u.copy_(after)
        sigma = torch.dot(after, matrix @ v)
        return weight / sigma


class SpectralLinear(nn.Linear):
    """A linear map with a bias whose weight is spectrally normalised.

    Args:
        num_in: width of the input.
        num_out: of the output.
    """

    u: Tensor

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out)
        self.register_buffer("u", torch.randn(num_out))

    def forward(self, vectors: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D')``."""
        weight = spectrally_normalised(self.weight, self.u, keep=_learns(self))
        return F.linear(vectors, weight, self.bias)


class SpectralConv(nn.Conv2d):
    """A convolution with a bias that keeps the size, its kernel spectrally normalised.

    Args:
        num_in: channels of the input.
        num_out: of the output.
        kernel: side of the kernel, odd.
        pooled: whether the mean of each 2x2 places follows. A 3x3 convolution is then computed with it as one
            4x4 convolution of stride 2, with less than half of the products; the results agree to rounding.
    """

    u: Tensor

    def __init__(self, num_in: int, num_out: int, kernel: int = 3, *, pooled: bool = False) -> None:
        super().__init__(num_in, num_out, kernel, padding=kernel // 2)
        self.pooled = pooled
        self.register_buffer("u", torch.randn(num_out))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H, W)``, or half of H and W."""
        weight = spectrally_normalised(self.weight, self.u, keep=_learns(self))
        padding = cast("tuple[int, int]", self.padding)
        if not self.pooled:
            return F.conv2d(features, weight, self.bias, padding=padding)
        if weight.shape[2] == 1:
            return F.conv2d(F.avg_pool2d(features, 2), weight, self.bias)
        return F.conv2d(features, pooled_kernel(weight), self.bias, stride=2, padding=padding)


def pooled_kernel(kernel: Tensor) -> Tensor:
    """The kernel ``(O, I, K + 1, K + 1)`` which, with stride 2, equals a convolution with ``kernel``
    ``(O, I, K, K)`` and the mean of each 2x2 places.
    """
    padded = F.pad(kernel, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def _learns(module: nn.Linear | nn.Conv2d) -> bool:
    """The iteration goes on where the weight is being trained, not where others learn from it."""
    return module.training and module.weight.requires_grad
