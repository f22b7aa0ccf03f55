"""A small convolutional image encoder, for joint embeddings and retrieval at 32 to 256 pixels."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """``(B, 3, S, S)`` images to ``(B, D)`` features: a residual unit and a halving at each scale down to
    4x4.

    Args:
        width: channels at half resolution; they double at each halving, at most eightfold.
        dim: D.
        image_size: S, a power of two.
    """

    def __init__(self, width: int, dim: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
        ]
        channels, size = width, image_size // 2
        while size > 4:
            wider = min(2 * channels, 8 * width)
            layers += [_Residual(channels), nn.Conv2d(channels, wider, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(wider)]
            channels, size = wider, size // 2
        layers += [_Residual(channels), nn.Flatten(), nn.Linear(channels * 16, dim)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Features, not normalised."""
        return cast(Tensor, self.layers(images))


class _Residual(nn.Module):
    """Pre-activated 3x3 unit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        features = F.relu(features)
        return F.relu(features + self.norm(self.conv(features)))
