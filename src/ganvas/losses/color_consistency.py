"""Color consistency: images of neighbouring scales keep their colors.

Zhang et al., StackGAN++ (TPAMI 2018), section 3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Colors(NamedTuple):
    """How the colors of each image are distributed over its places."""

    mean: Tensor
    """``(B, 3)``"""
    covariance: Tensor
    """``(B, 3, 3)``"""


def color_statistics(images: Tensor) -> Colors:
    """Mean and covariance of the colors of each image ``(B, 3, H, W)``, in float32."""
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.float().flatten(2)  # (B, 3, H * W)
        mean = pixels.mean(dim=2)
        centred = pixels - mean[:, :, None]
        return Colors(mean, centred @ centred.transpose(1, 2) / pixels.shape[2])


def color_consistency_loss(
    images: Tensor, coarser: Tensor, *, mean_weight: float = 1.0, covariance_weight: float = 5.0
) -> Tensor:
    """How far the colors of images are from those of the same images one scale below; a scalar.

    Squared differences of means and of covariances, each the mean over the batch and all elements [code].
    The coarser images are what the others follow: they get no gradient.

    Args:
        images: ``(B, 3, H, W)``.
        coarser: ``(B, 3, H', W')``.
        mean_weight: lambda 1.
        covariance_weight: lambda 2.
    """
    ours, theirs = color_statistics(images), color_statistics(coarser.detach())
    means = F.mse_loss(ours.mean, theirs.mean)
    return mean_weight * means + covariance_weight * F.mse_loss(ours.covariance, theirs.covariance)
