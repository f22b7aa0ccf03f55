"""Spectral normalisation: weights divided by an estimate of their largest singular value.

Miyato et al. (ICLR 2018), with one step of power iteration for each pass, as in XMC-GAN's discriminator. The
vector that is kept is that on the side of the outputs, which the official Flax code keeps too: in evaluation
a step is taken from it for the estimate, and not kept.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_EPSILON = 1e-10


def spectrally_normalised(weight: Tensor, u: Tensor, *, keep: bool) -> Tensor:
    """``weight`` over its spectral norm, in its own precision, under autocast too.

    Args:
        weight: ``(out, ...)``; all but the first dimension are one side of the matrix.
        u: ``(out,)``, where the power iteration stands.
        keep: whether ``u`` moves on.
    """
    with torch.autocast(weight.device.type, enabled=False):
        with torch.no_grad():
            matrix = _matrix(weight)
            v = F.normalize(matrix.t() @ u, dim=0, eps=_EPSILON)
            image = matrix @ v
            after = F.normalize(image, dim=0, eps=_EPSILON)
            sigma = torch.dot(after, image)
            if keep:
                u.copy_(after)
        return cast(Tensor, _Divided.apply(weight, sigma, after, v))


class _Divided(torch.autograd.Function):
    """``W / sigma`` with ``sigma = u^T W v`` for constant u and v. Deep kernels have more numbers than maps
    do: the gradient ``G / sigma - (G . W / sigma^2) u v^T`` is made in as few passes over them as can be.
    """

    @staticmethod
    def forward(context: Any, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
        context.save_for_backward(weight, sigma, u, v)
        return weight / sigma

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, sigma, u, v = context.saved_tensors
        out = torch.empty_like(weight)
        torch.div(gradient, sigma, out=out)
        along = torch.dot(_matrix(out).flatten(), _matrix(weight).flatten()) / sigma
        _matrix(out).addr_(u * -along, v)
        return out, None, None, None


def _matrix(weight: Tensor) -> Tensor:
    """``(out, all others)``. The order of its columns changes nothing; it is a view of kernels with channels
    last too.
    """
    return weight.flatten(1) if weight.is_contiguous() else weight.movedim(1, -1).flatten(1)


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
        pooled: whether the mean of each 2x2 places follows. It is then taken of the input, at every place,
            and a 3x3 convolution of stride 2 does the rest, with a quarter of the products; the results agree
            to rounding.
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
        means = F.avg_pool2d(features, 2, stride=1, padding=1)  # zeros around the map count
        return F.conv2d(means, weight, self.bias, stride=2)


def _learns(module: nn.Linear | nn.Conv2d) -> bool:
    """The iteration goes on where the weight is being trained, not where others learn from it."""
    return module.training and module.weight.requires_grad
