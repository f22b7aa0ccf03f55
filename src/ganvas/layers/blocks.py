"""Building blocks of the stacked systems: gated linear units, up-sampling, residual and down-sampling blocks.

Convolutions have no bias; batch normalisation follows them. ``gated`` blocks use a gated linear unit
(StackGAN++ and AttnGAN), the others a ReLU (StackGAN).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LARGE = 16  # from this side on, the transposed form of an up-sampled convolution is faster on a CPU


class GLU(nn.Module):
    """Half of the channels, each times the sigmoid of its partner in the other half."""

    def forward(self, features: Tensor) -> Tensor:
        """``(B, 2C, ...)`` to ``(B, C, ...)``."""
        return cast(Tensor, _Gated.apply(features))


class _Gated(torch.autograd.Function):
    """``F.glu`` whose gradient keeps the layout of its input. That of PyTorch does not, and on a CPU the
    normalisation before it then takes five times as long.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return F.glu(x, dim=1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        value, gate = x.chunk(2, dim=1)
        out = torch.empty_like(x)
        of_value, of_gate = out.chunk(2, dim=1)
        open_ = gate.sigmoid()
        torch.mul(gradient, open_, out=of_value)
        torch.mul(of_value, value, out=of_gate)
        of_gate.mul_(open_.neg_().add_(1))  # d sigmoid = sigmoid (1 - sigmoid)
        return out


class UpConv(nn.Conv2d):
    """Nearest-neighbour up-sampling by two, then a 3x3 convolution.

    On large maps of a CPU it is computed as the transposed convolution that it equals, with a 4x4 kernel and
    stride 2: 4 products for each weight-sized window instead of 9. The results agree to rounding.

    Args:
        num_in: channels of the input.
        num_out: of the output.
        bias: whether one is added.
    """

    def __init__(self, num_in: int, num_out: int, *, bias: bool = False) -> None:
        super().__init__(num_in, num_out, 3, padding=1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', 2H, 2W)``."""
        if features.device.type == "cpu" and min(features.shape[2:]) >= _LARGE:
            return F.conv_transpose2d(features, spread_kernel(self.weight), self.bias, stride=2, padding=1)
        return super().forward(F.interpolate(features, scale_factor=2.0, mode="nearest"))


def spread_kernel(kernel: Tensor) -> Tensor:
    """The kernel ``(I, O, 4, 4)`` of the transposed convolution of stride 2 that equals nearest-neighbour
    up-sampling by two and a convolution with ``kernel`` ``(O, I, 3, 3)``.
    """
    padded = F.pad(kernel, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]).flip(2, 3).transpose(0, 1)


class VectorNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors that takes a batch of one too: as it would be in evaluation.

    One vector has no deviation: it would become zero, and the running variance infinite.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        """``(B, C)`` to the same shape."""
        if self.training and len(vectors) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(vectors, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(vectors)


class StartBlock(nn.Module):
    """A vector to the 4x4 map that a generator begins with: linear map, normalisation, activation.

    Args:
        num_in: D, width of the vector.
        channels: C.
        gated: a gated linear unit, or a ReLU.
    """

    def __init__(self, num_in: int, channels: int, *, gated: bool = True) -> None:
        super().__init__()
        wide = 16 * channels * (2 if gated else 1)
        self.channels = channels
        self.fc = nn.Linear(num_in, wide, bias=False)
        self.norm = VectorNorm(wide)
        self.activation = GLU() if gated else nn.ReLU(inplace=True)

    def forward(self, vectors: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, C, 4, 4)``."""
        features = cast(Tensor, self.activation(self.norm(self.fc(vectors))))
        return features.view(len(vectors), self.channels, 4, 4)


class DeepConv(nn.Conv2d):
    """A convolution that is fast where the kernel is larger than the map, as deep in a discriminator.

    On a CPU it is then computed as one product of matrices: its windows, copied side by side, and the kernel,
    which in channels-last layout need not be copied at all. A library's convolution spends most of its time
    there on reordering the kernel. The results agree to rounding. Without a bias.
    """

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H', W')``."""
        if features.device.type != "cpu" or self.weight.numel() < self._windows(features):
            return super().forward(features)
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padded = F.pad(features, [cast(int, self.padding[0])] * 4).permute(0, 2, 3, 1)  # (B, H, W, C)
        windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)
        rows = windows.flatten(3).flatten(0, 2)  # (B * H' * W', kernel * kernel * C)
        out = F.linear(rows, self.weight.permute(0, 2, 3, 1).flatten(1))
        return out.view(*windows.shape[:3], -1).permute(0, 3, 1, 2)

    def _windows(self, features: Tensor) -> int:
        """How many numbers all windows have."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        places = len(features)
        for side in features.shape[2:]:
            places *= (side + 2 * cast(int, self.padding[0]) - kernel) // stride + 1
        return places * kernel * kernel * self.in_channels


def up_block(num_in: int, num_out: int, *, gated: bool = True) -> nn.Sequential:
    """``(B, C, H, W)`` to ``(B, C', 2H, 2W)``: nearest-neighbour up-sampling, 3x3 convolution, normalisation,
    activation.
    """
    if gated:
        return nn.Sequential(UpConv(num_in, 2 * num_out), nn.BatchNorm2d(2 * num_out), GLU())
    return nn.Sequential(UpConv(num_in, num_out), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True))


def joining_block(num_in: int, num_out: int, *, gated: bool = True) -> nn.Sequential:
    """3x3 convolution at the same resolution, normalisation, activation: where a condition joins features."""
    wide = 2 * num_out if gated else num_out
    return nn.Sequential(
        nn.Conv2d(num_in, wide, 3, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        GLU() if gated else nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity.

    Args:
        channels: C.
        gated: a gated linear unit inside and nothing after the sum (StackGAN++, AttnGAN); otherwise a ReLU
            inside and another after the sum (StackGAN).
    """

    def __init__(self, channels: int, *, gated: bool = True) -> None:
        super().__init__()
        self.gated = gated
        self.branch = nn.Sequential(
            *joining_block(channels, channels, gated=gated),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        out = features + cast(Tensor, self.branch(features))
        return out if self.gated else F.relu(out)


def image_head(channels: int) -> nn.Sequential:
    """``(B, C, H, W)`` features to ``(B, 3, H, W)`` images in [-1, 1]."""
    return nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1, bias=False), nn.Tanh())


def down_block(num_in: int, num_out: int, *, normalised: bool = True) -> nn.Sequential:
    """``(B, C, H, W)`` to ``(B, C', H/2, W/2)``: 4x4 convolution of stride 2, normalisation, LeakyReLU
    0.2.
    """
    norm = [nn.BatchNorm2d(num_out)] if normalised else []
    return nn.Sequential(
        DeepConv(num_in, num_out, 4, stride=2, padding=1, bias=False),
        *norm,
        nn.LeakyReLU(0.2, inplace=True),
    )


def narrowing_block(num_in: int, num_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution at the same resolution, normalisation, LeakyReLU 0.2; for discriminators."""
    return nn.Sequential(
        DeepConv(num_in, num_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(num_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


def together(block: nn.Sequential, batches: Sequence[Tensor]) -> list[Tensor]:
    """A block that begins with a convolution, on several batches, each normalised by itself.

    Where the kernel is larger than the maps, one convolution takes all batches: reading the kernel, and
    writing its gradient, costs more there than the products.

    Args:
        block: convolution, normalisation, activation.
        batches: ``(B_i, C, H, W)``.
    """
    convolution, *rest = block
    if len(batches) > 1 and cast(nn.Conv2d, convolution).weight.numel() > batches[0].numel():
        out, ends = convolution(torch.cat(list(batches))), list(accumulate(map(len, batches)))
        found = [out[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]
    else:
        found = [convolution(batch) for batch in batches]
    for module in rest:
        found = [module(batch) for batch in found]
    return found


def orthogonal(module: nn.Module) -> None:
    """For ``Module.apply``: orthogonal convolutions and linear maps, gains N(1, 0.02), biases 0.

    The initialisation of StackGAN++ and AttnGAN [code].
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
