"""Image encoders that give a vector for each region of an image, and one for the whole.

Those of DAMSM (Xu et al., AttnGAN, CVPR 2018, section 3.2): a network trained on ImageNet that stays as it
came, with two linear maps to the space of words and sentences; or a small network trained whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.inception import Inception
from ganvas.networks.weights import inception_weights, load_weights


class Regions(NamedTuple):
    """An image, region by region and as a whole."""

    regions: Tensor
    """``(B, D_words, H, W)``: v."""
    code: Tensor
    """``(B, D_sentence)``: the whole image."""


class RegionEncoder(nn.Module, ABC):
    """Two kinds of features of an image, each mapped into the space of text."""

    region_head: nn.Module
    code_head: nn.Module

    @abstractmethod
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, C, H, W)`` for regions, and later ones ``(B, C', H', W')`` for the whole image."""

    @property
    def trained(self) -> Sequence[nn.Module]:
        """The parts that training changes."""
        return [self]

    def forward(self, images: Tensor) -> Regions:
        """Encode images ``(B, 3, S, S)`` in [-1, 1]."""
        middle, last = self.features(images)
        return Regions(self.region_head(middle), self.code_head(last.mean(dim=(2, 3))))

    def _add_heads(self, channels: tuple[int, int], word_dim: int, sentence_dim: int) -> None:
        """DAMSM's: linear, U(-.1, .1), without a bias for regions [code]."""
        self.region_head = nn.Conv2d(channels[0], word_dim, 1, bias=False)
        self.code_head = nn.Linear(channels[1], sentence_dim)
        for weight in (self.region_head.weight, self.code_head.weight):
            nn.init.uniform_(weight, -0.1, 0.1)


class PretrainedRegions(RegionEncoder):
    """A trunk that was trained elsewhere, and heads that are trained here."""

    trunk: nn.Module

    @property
    def trained(self) -> Sequence[nn.Module]:
        """The heads."""
        return [self.region_head, self.code_head]

    @property
    def is_fresh(self) -> bool:
        """Whether the trunk was never given weights: all of its running means are 0."""
        return not any(value.any() for name, value in self.trunk.named_buffers() if "running_mean" in name)

    @abstractmethod
    def load_pretrained(self, path: str | None = None) -> None:
        """Put the trunk's weights in place.

        Args:
            path: of their file; by default the trunk's own, which may have to be fetched.

        Raises:
            GanvasError: they are not here, cannot be fetched, or are others.
        """


class InceptionRegions(PretrainedRegions):
    """Inception-v3 at 299 pixels: 17x17 regions of Mixed_6e, and the mean of Mixed_7c.

    Args:
        word_dim: D_words.
        sentence_dim: D_sentence.
        align_corners: of the bilinear resizing to 299 pixels; True is what PyTorch 0.3 did.
    """

    def __init__(self, word_dim: int, sentence_dim: int, *, align_corners: bool = True) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.trunk = Inception(tensorflow=False)
        self._add_heads((768, 2048), word_dim, sentence_dim)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 768, 17, 17)`` and ``(B, 2048, 8, 8)``."""
        if images.shape[-2:] != (299, 299):
            images = F.interpolate(images, size=299, mode="bilinear", align_corners=self.align_corners)
        return cast(Inception, self.trunk).maps(images)

    def load_pretrained(self, path: str | None = None) -> None:
        """Those of torchvision."""
        name = "inception-torchvision"
        load_weights(self.trunk, inception_weights(name, path), name)


class Lite0Regions(PretrainedRegions):
    """EfficientNet-Lite0: regions at a 16th of its input's side, the whole from its last maps.

    Args:
        word_dim: D_words.
        sentence_dim: D_sentence.
        side: of its input, pixels, a multiple of 32; 128 gives 8x8 regions.

    Raises:
        GanvasError: its packages are missing.
    """

    def __init__(self, word_dim: int, sentence_dim: int, *, side: int = 128) -> None:
        from ganvas.networks.lite0 import lite0

        super().__init__()
        self.side = side
        self.trunk, self._file = lite0()
        self._add_heads((112, 1280), word_dim, sentence_dim)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 112, side/16, side/16)`` and ``(B, 1280, side/32, side/32)``."""
        if images.shape[-2:] != (self.side, self.side):
            images = images.to(torch.promote_types(images.dtype, torch.float32))  # a CPU cannot in bfloat16
            images = F.interpolate(images, size=self.side, mode="bilinear", antialias=True)
        return self.trunk.maps((127.5 * images + 0.5) / 128)  # type: ignore[operator, no-any-return]

    def load_pretrained(self, path: str | None = None) -> None:
        """Those of the package."""
        load_weights(self.trunk, Path(path) if path else self._file, "lite0", prefix="network.")


class ScratchRegions(RegionEncoder):
    """A small residual network, trained whole (ours): it needs no weights, and costs little.

    Args:
        word_dim: D_words.
        sentence_dim: D_sentence.
        image_size: S, a power of two.
        width: channels at half resolution; they double at each halving, at most eightfold.
        side: of the map of regions, a power of two; at most S / 2.
    """

    def __init__(
        self, word_dim: int, sentence_dim: int, *, image_size: int, width: int = 32, side: int = 8
    ) -> None:
        super().__init__()
        side = min(side, image_size // 2)
        halvings = int(log2(image_size // side))
        assert side * 2**halvings == image_size, (image_size, side)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), _Residual(width)]
        widths = [width * min(8, 2**i) for i in range(halvings + 1)]
        for channels, wider in pairwise(widths[:-1]):
            layers.append(_shrinking(channels, wider))
        self.local = nn.Sequential(*layers)
        self.whole = _shrinking(*widths[-2:])
        self._add_heads((widths[-2], widths[-1]), word_dim, sentence_dim)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of ``side`` and of half of it."""
        middle = self.local(images)
        return middle, self.whole(middle)


def _shrinking(channels: int, wider: int) -> nn.Sequential:
    """``(B, C, H, W)`` to ``(B, C', H/2, W/2)``."""
    return nn.Sequential(
        nn.Conv2d(channels, wider, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(wider),
        _Residual(wider),
    )


class _Residual(nn.Module):
    """ReLU, and a 3x3 unit beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        features = F.relu(features)
        return F.relu(features + self.norm(self.conv(features)))
