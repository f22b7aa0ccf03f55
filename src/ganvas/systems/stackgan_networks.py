"""The networks of StackGAN, and their settings; ``stackgan`` trains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import log2
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ganvas.layers.blocks import (
    ResidualBlock,
    UpConv,
    down_block,
    image_head,
    joining_block,
    narrowing_block,
    up_block,
)
from ganvas.layers.conditioning import Condition, ConditioningAugmentation, unit_scale
from ganvas.layers.residual import Bottleneck
from ganvas.layers.stacked_discriminator import ConditionalHead
from ganvas.systems.joint_embedding import JointEmbeddingSettings


@dataclass(frozen=True, kw_only=True)
class StackGanSettings:
    """Settings of StackGAN. Defaults are the official CUB configuration; None is what ``form`` has."""

    form: Literal["tensorflow", "pytorch"] = "tensorflow"
    """Which official code the networks are: that of birds and flowers, or that of COCO [code]."""
    stages: int | None = None
    """1 is Stage-I alone at the size of the images; by default 2 where images are larger than 64 pixels."""
    stage1_size: int | None = None
    """Side of Stage-I's images, pixels; by default 64, or half of the images' where that is less [code]."""
    noise_dim: int = 100
    """N_z, width of the noise [code]."""
    condition_dim: int = 128
    """N_g, width of the condition [code]."""
    projection: int = 128
    """N_d: width that a discriminator which judges sentences projects them to [code]."""
    generator_width: int = 128
    """gf: channels at half of Stage-I's resolution, a quarter of Stage-II's widest. COCO: 192 [code]."""
    discriminator_width: int = 64
    """df: channels after the first convolution. COCO: 96 [code]."""
    residual_blocks: int | None = None
    """R of Stage-II; by default 4 for images of 256 pixels, 2 for smaller ones [paper]. COCO: 2 [code]."""
    augmentation: bool = True
    """Conditioning augmentation; without it the condition is mu and there is no KL term."""
    stage2_text: bool = True
    """Stage-II's generator reads the caption too; False is "text once" of the paper's ablation. Its
    discriminator does in any case [inferred]."""
    unit_text: bool = False
    """Read sentences scaled to a root mean square of 1 (ours), as those of DAMSM's encoders need it."""
    kl_weight: float = 2.0
    """lambda: weight of the KL term, a mean over dimensions. 2 [code], 1 [paper]."""
    activation: Literal["leaky", "relu"] | None = None
    """Of conditioning augmentation. TensorFlow: leaky; PyTorch: relu, so that mu >= 0 and sigma >= 1
    [code]."""
    scale: Literal["log-deviation", "log-variance"] | None = None
    """What conditioning augmentation computes beside mu. TensorFlow: log deviation; PyTorch: log variance
    [code]."""
    epsilon: Literal["truncated", "normal"] | None = None
    """Its noise. TensorFlow: normal within [-2, 2]; PyTorch: normal [code]."""
    stage1: Literal["residual", "plain"] | None = None
    """TensorFlow: Stage-I has residual units at 4x4 and 8x8, and its last up-sampling leads straight to
    colours; PyTorch: neither, it has a block at full resolution [code]."""
    discriminator: Literal["residual", "plain"] | None = None
    """TensorFlow: a residual unit at 4x4 and 1x1 convolutions around it; PyTorch: 3x3 convolutions alone
    [code]. The paper joins image and text by a 1x1 convolution."""
    third_activation: bool = True
    """False leaves out the activation after the third convolution of Stage-I's discriminator, as the
    TensorFlow code does."""
    judges: Literal["sentence", "mean"] | None = None
    """What discriminators compare images with. TensorFlow: the sentence, by a projection of their own;
    PyTorch: the generator's mu, not trained by them [code]."""
    unconditional: bool | None = None
    """Stage-II's discriminator also judges images by themselves. TensorFlow: no; PyTorch: yes, and its loss
    is the mean of two real terms plus that of three others [code]."""
    mismatch: Literal["text", "shift", "image"] = "text"
    """Mismatched pair: this image with another's caption; with the next caption of the batch (PyTorch); or
    another image with this caption (TensorFlow), which costs a pass more [code]. The first is ours: the same
    pairs as the last in distribution."""
    stage1_statistics: Literal["running", "batch"] = "running"
    """What Stage-I normalises by while Stage-II trains. In the TensorFlow code by the batch, from which its
    running statistics are then estimated again [code]; ours is what generating will see."""
    redraw_noise: bool = False
    """A second draw of noise, and a second pass of the generator, for its own update (TensorFlow) [code]."""
    real_label: float = 1.0
    """Target of the matching real pair; below 1 is one-sided label smoothing."""
    learning_rate: float = 2e-4
    """Adam's, of all networks [paper]."""
    discriminator_learning_rate: float | None = None
    """The discriminators', where it differs."""
    stage1_halve_every: int = 0
    """Images after which Stage-I's learning rates halve: 50 epochs on birds, 20 on COCO [code], 100
    [paper]."""
    stage2_halve_every: int = 0
    """The same for Stage-II: 100 epochs on birds, 20 on COCO [code]."""
    joint_embedding: JointEmbeddingSettings = field(default_factory=JointEmbeddingSettings)
    """How a char-CNN-RNN text encoder is trained."""

    def resolved(self) -> StackGanSettings:
        """These settings with what ``form`` has in place of None."""
        ours = {name: value for name, value in _FORMS[self.form].items() if getattr(self, name) is None}
        return replace(self, **ours)


_FORMS: Mapping[str, Mapping[str, Any]] = {
    "tensorflow": {
        "activation": "leaky",
        "scale": "log-deviation",
        "epsilon": "truncated",
        "stage1": "residual",
        "discriminator": "residual",
        "judges": "sentence",
        "unconditional": False,
    },
    "pytorch": {
        "activation": "relu",
        "scale": "log-variance",
        "epsilon": "normal",
        "stage1": "plain",
        "discriminator": "plain",
        "judges": "mean",
        "unconditional": True,
    },
}


def _doublings(small: int, large: int) -> int:
    """Steps of two from one side to another."""
    count = int(log2(large / small))
    assert small * 2**count == large and count >= 1, (small, large)
    return count


def _initialise(module: nn.Module, *, truncated: bool) -> None:
    """Weights N(0, .02), gains N(1, .02), biases 0; TensorFlow's convolutions within 2 deviations."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        if truncated and isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, 0.0, 0.02, -0.04, 0.04)
        else:
            nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class PlainCondition(nn.Module):
    """The condition without augmentation: mu alone, whatever the noise."""

    def __init__(
        self, sentence_dim: int, condition_dim: int, *, activation: str, unit_text: bool = False
    ) -> None:
        super().__init__()
        self.unit_text = unit_text
        slope = 0.2 if activation == "leaky" else 0.0
        self.mean = nn.Sequential(nn.Linear(sentence_dim, condition_dim), nn.LeakyReLU(slope))

    def forward(self, sentence: Tensor, epsilon: Tensor) -> Condition:
        """``(B, D)`` sentences to ``(B, N)``."""
        mean = cast(Tensor, self.mean(unit_scale(sentence) if self.unit_text else sentence)).float()
        return Condition(mean, mean, torch.zeros_like(mean))


def _condition(s: StackGanSettings, sentence_dim: int) -> nn.Module:
    """Conditioning augmentation of one stage, or what stands for it."""
    assert s.activation is not None and s.scale is not None
    if not s.augmentation:
        return PlainCondition(sentence_dim, s.condition_dim, activation=s.activation, unit_text=s.unit_text)
    return ConditioningAugmentation(
        sentence_dim, s.condition_dim, activation=s.activation, scale=s.scale, unit_text=s.unit_text
    )


class Drawn(NamedTuple):
    """What a generator made of sentences."""

    images: Tensor
    """``(B, 3, S, S)``"""
    condition: Condition
    """``(B, N)`` each."""


class Stage1(nn.Module):
    """G_0: sentences and noise to small images."""

    def __init__(self, settings: StackGanSettings, sentence_dim: int, image_size: int) -> None:
        super().__init__()
        s, ups = settings.resolved(), _doublings(4, image_size)
        residual = s.stage1 == "residual"
        # 4x4 first: 8, 4, 2, 1 times gf at 64 pixels
        widths = [s.generator_width * min(8, 2 ** (ups - 1 - i)) for i in range(ups)]
        self.condition = _condition(s, sentence_dim)
        self.project = nn.Linear(s.noise_dim + s.condition_dim, 16 * widths[0], bias=residual)
        self.norm = nn.BatchNorm1d(16 * widths[0])
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            if i > 0:
                blocks.append(up_block(widths[i - 1], width, gated=False))
            if residual and i < 2:
                if i > 0:
                    blocks[-1] = cast(nn.Sequential, blocks[-1])[:-1]  # activated after the residual sum
                blocks.append(Bottleneck(width, width // 4))
            elif i == 0:
                blocks.append(nn.ReLU(inplace=True))
        if residual:
            self.image = nn.Sequential(UpConv(widths[-1], 3), nn.Tanh())
        else:
            blocks.append(up_block(widths[-1], widths[-1] // 2, gated=False))
            self.image = image_head(widths[-1] // 2)
        self.blocks = nn.Sequential(*blocks)
        self.apply(partial(_initialise, truncated=s.form == "tensorflow"))

    def forward(self, sentence: Tensor, noise: Tensor, epsilon: Tensor) -> Drawn:
        """Images for noise ``(B, Z)``, and epsilon ``(B, N)`` of the condition."""
        condition: Condition = self.condition(sentence, epsilon)
        seed = torch.cat([noise, condition.sample.to(noise.dtype)], dim=1)
        features: Tensor = self.norm(self.project(seed))
        return Drawn(self.image(self.blocks(features.view(len(seed), -1, 4, 4))), condition)


class Stage2(nn.Module):
    """G: images of Stage-I and sentences to large images."""

    def __init__(self, settings: StackGanSettings, sentence_dim: int, small: int, image_size: int) -> None:
        super().__init__()
        s, gf = settings.resolved(), settings.generator_width
        text = s.condition_dim if s.stage2_text else 0
        num_residual = s.residual_blocks
        if num_residual is None:
            num_residual = 4 if image_size >= 256 else 2
        widths = [4 * gf // 2 ** min(i, 4) for i in range(_doublings(small // 4, image_size) + 1)]
        self.condition = _condition(s, sentence_dim) if text else None
        self.encoder = nn.Sequential(
            nn.Conv2d(3, gf, 3, padding=1, bias=False), nn.ReLU(inplace=True), *_shrink(gf), *_shrink(2 * gf)
        )
        self.join = joining_block(4 * gf + text, 4 * gf, gated=False)
        self.residual = nn.Sequential(*(ResidualBlock(4 * gf, gated=False) for _ in range(num_residual)))
        self.blocks = nn.Sequential(
            *(up_block(widths[i], widths[i + 1], gated=False) for i in range(len(widths) - 1))
        )
        self.image = image_head(widths[-1])
        self.apply(partial(_initialise, truncated=s.form == "tensorflow"))

    def forward(self, small: Drawn, sentence: Tensor, epsilon: Tensor) -> Drawn:
        """Images for those of Stage-I, and epsilon ``(B, N)`` of the condition."""
        features: Tensor = self.encoder(small.images)  # (B, 4 gf, S / 4, S / 4) of Stage-I's S
        condition = small.condition
        if self.condition is not None:
            condition = self.condition(sentence, epsilon)
            tiled = condition.sample.to(features.dtype)[:, :, None, None]
            features = torch.cat([features, tiled.expand(-1, -1, *features.shape[2:])], dim=1)
        return Drawn(self.image(self.blocks(self.residual(self.join(features)))), condition)


def _shrink(width: int) -> nn.Sequential:
    """``(B, C, H, W)`` to ``(B, 2C, H/2, W/2)``."""
    return nn.Sequential(
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
    )


class Discriminator(nn.Module):
    """D: judges images of one size together with sentences or conditions; ``features`` is the part without.

    Args:
        settings: switches and widths.
        sentence_dim: D.
        image_size: S, a power of two from 8.
        stage: 1 or 2.
    """

    def __init__(self, settings: StackGanSettings, sentence_dim: int, image_size: int, *, stage: int) -> None:
        super().__init__()
        s, df = settings.resolved(), settings.discriminator_width
        residual, downs = s.discriminator == "residual", _doublings(4, image_size)
        kernel = 1 if residual else 3
        blocks = [
            down_block(df * 2 ** (i - 1) if i else 3, df * 2**i, normalised=i > 0) for i in range(downs)
        ]
        blocks += [narrowing_block(df * 2**i, df * 2 ** (i - 1), kernel) for i in range(downs - 1, 3, -1)]
        channels = df * 2 ** min(downs - 1, 3)
        if stage == 1 and not s.third_activation and downs > 3:
            blocks[2] = blocks[2][:-1]
        if residual:
            blocks[-1] = nn.Sequential(*blocks[-1][:-1], Bottleneck(channels, channels // 4, slope=0.2))
        self.trunk = nn.Sequential(*blocks)
        self.unit_text = s.unit_text and s.judges == "sentence"
        self.project = (
            nn.Sequential(nn.Linear(sentence_dim, s.projection), nn.LeakyReLU(0.2))
            if s.judges == "sentence"
            else nn.Identity()
        )
        width = s.projection if s.judges == "sentence" else s.condition_dim
        self.conditional = ConditionalHead(channels, width, kernel=kernel, bias=not residual)
        self.unconditional = (
            nn.Conv2d(channels, 1, 4, bias=not residual) if s.unconditional and stage == 2 else None
        )
        self.apply(partial(_initialise, truncated=s.form == "tensorflow"))

    def features(self, images: Tensor) -> Tensor:
        """``(B, 3, S, S)`` images to ``(B, C, 4, 4)``."""
        return cast(Tensor, self.trunk(images))

    def judge(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits ``(B,)``: positive where features look real and match the sentences or conditions."""
        read = unit_scale(text) if self.unit_text else text
        return cast(Tensor, self.conditional(features, self.project(read)))

    def judge_alone(self, features: Tensor) -> Tensor:
        """Logits ``(B,)`` of features by themselves."""
        assert self.unconditional is not None
        return cast(Tensor, self.unconditional(features)).flatten()
