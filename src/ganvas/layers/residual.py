"""Residual units."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """The 1-3-3 bottleneck of the official GAN-INT-CLS and StackGAN code; its activation follows the sum.

    ``x -> act(x + BN(conv3(act(BN(conv3(act(BN(conv1(x)))))))))``, widths C -> width -> width -> C.

    Args:
        channels: C, width of input and output.
        width: width inside.
        slope: negative slope of the activation; 0 is a ReLU (generators), 0.2 a LeakyReLU (discriminators).
        bias: whether convolutions have a bias.
    """

    def __init__(self, channels: int, width: int, *, slope: float = 0.0, bias: bool = False) -> None:
        super().__init__()
        activation = nn.LeakyReLU(slope, inplace=True)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=bias),
            nn.BatchNorm2d(width),
            activation,
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm2d(width),
            activation,
            nn.Conv2d(width, channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(channels),
        )
        self.slope = slope

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        return F.leaky_relu(features + cast(Tensor, self.branch(features)), self.slope)
