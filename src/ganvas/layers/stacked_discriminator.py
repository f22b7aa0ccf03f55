"""The discriminator of the stacked systems: one for each resolution, conditional and unconditional at once.

Zhang et al., StackGAN++ (TPAMI 2018), section 3.3; AttnGAN has the same. All logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import cast

import torch
from torch import Tensor, nn

from ganvas.layers.blocks import down_block, narrowing_block, together


class Trunk(nn.Module):
    """``(B, 3, S, S)`` images to ``(B, C, 4, 4)`` features.

    Strided convolutions halve the image down to 4x4 and double the width, from ``width``; where it passed 8
    times ``width``, 3x3 convolutions bring it back there.

    Args:
        width: ndf.
        image_size: S, a power of two from 8.

    Attributes:
        channels: C: 8 times ``width`` for images of 64 pixels or more.
    """

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        halvings = int(log2(image_size / 4))
        assert 4 * 2**halvings == image_size and halvings >= 1, image_size
        widths = [3, *(width * 2**i for i in range(halvings))]
        self.channels = min(widths[-1], 8 * width)
        self.down = nn.Sequential(
            *(down_block(widths[i], widths[i + 1], normalised=i > 0) for i in range(halvings))
        )
        self.narrow = nn.Sequential(
            *(narrowing_block(width * 2**i, width * 2 ** (i - 1)) for i in range(halvings - 1, 3, -1))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features."""
        return cast(Tensor, self.narrow(self.down(images)))

    def together(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The features of several batches, each normalised by itself, with the same result as one by one."""
        for block in (*self.down, *self.narrow):
            batches = together(cast(nn.Sequential, block), batches)
        return list(batches)


class ConditionalHead(nn.Module):
    """Features and a condition to one logit: the condition at each place beside the features.

    Args:
        channels: C of the features.
        condition_dim: N.
        kernel: of the joint convolution: 3, or 1 (StackGAN's paper and TensorFlow code).
        bias: of the logit; StackGAN's TensorFlow code has none.
    """

    def __init__(self, channels: int, condition_dim: int, *, kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.joint = narrowing_block(channels + condition_dim, channels, kernel)
        self.logit = nn.Conv2d(channels, 1, 4, bias=bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """``(B, C, 4, 4)`` and ``(B, N)`` to ``(B,)``."""
        return self.together([(features, condition)])[0]

    def together(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The logits of several batches of features and conditions, each normalised by itself."""
        joined = []
        for features, condition in pairs:
            tiled = condition.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
            joined.append(torch.cat([features, tiled], dim=1))
        return [cast(Tensor, self.logit(joint)).flatten() for joint in together(self.joint, joined)]


class StackedDiscriminator(nn.Module):
    """Judges images of one resolution, with a condition and without.

    Args:
        width: ndf.
        condition_dim: N; 0 leaves the conditional head out.
        image_size: S.
        unconditional: whether it also judges images by themselves.
    """

    def __init__(
        self,
        width: int,
        condition_dim: int,
        image_size: int,
        *,
        unconditional: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(width, image_size)
        channels = self.trunk.channels
        self.conditional = ConditionalHead(channels, condition_dim) if condition_dim else None
        self.unconditional = nn.Conv2d(channels, 1, 4) if unconditional else None

    def features(self, images: Tensor) -> Tensor:
        """``(B, 3, S, S)`` images to ``(B, C, 4, 4)``: the part that needs no condition."""
        return cast(Tensor, self.trunk(images))

    def features_of(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The features of several batches; faster than one by one, with the same result."""
        return self.trunk.together(batches)

    def judge_all(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The logits ``(B,)`` of several batches of features, each with its condition, under their names."""
        assert self.conditional is not None
        judged = self.conditional.together(list(pairs.values()))
        return dict(zip(pairs, judged, strict=True))

    def judge(self, features: Tensor, condition: Tensor) -> Tensor:
        """Logits ``(B,)`` of features with a condition ``(B, N)``."""
        assert self.conditional is not None
        return cast(Tensor, self.conditional(features, condition))

    def judge_alone(self, features: Tensor) -> Tensor:
        """Logits ``(B,)`` of features by themselves."""
        assert self.unconditional is not None
        return cast(Tensor, self.unconditional(features)).flatten()
