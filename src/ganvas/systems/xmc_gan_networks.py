"""XMC-GAN's settings, generator and discriminator; ``ganvas.systems.xmc_gan`` has its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log2
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.blocks import UpConv
from ganvas.layers.self_modulation import (
    AttentionalSelfModulation,
    LocalCondition,
    RegionAttention,
    SelfModulation,
)
from ganvas.layers.spectral_norm import SpectralConv, SpectralLinear
from ganvas.systems.damsm import DamsmSettings
from ganvas.text.encoder import Text

# Widths at 8x8, 16x16... over gf; at 4x4 the first again. At other sizes they double from the image down.
_GENERATOR = {256: (16, 8, 8, 4, 2, 1), 128: (16, 8, 4, 2, 1)}
# Widths at S/2, S/4... over df, and of the last block.
_DISCRIMINATOR = {256: (1, 2, 4, 8, 8, 16, 16), 128: (1, 2, 4, 8, 16, 16)}


@dataclass(frozen=True, kw_only=True)
class XmcGanSettings:
    """Settings of XMC-GAN. Defaults are the official configuration for COCO at 128 pixels."""

    generator_width: int = 96
    """gf: channels of the last block [code, paper]."""
    discriminator_width: int = 96
    """df: channels of the first block [code, paper]."""
    noise_dim: int = 128
    """Width of z [code]."""
    condition_dim: int = 128
    """Width of the sentence beside z in what modulates [code]."""
    first_input: Literal["noise", "both"] = "noise"
    """What the first map is made of: z [code], or z and the sentence [paper]."""
    attention: bool = True
    """Attentional self-modulation; without it the sentence and z modulate all blocks."""
    attention_side: int = 16
    """Side of the map whose places look at words, pixels. Blocks that take maps of this side or larger are
    modulated by place: 16 [code]; 32 is the paper's "larger than 16x16"."""
    rho0: float = 15.0
    """How much a place prefers the words that are like it [code]."""
    region_side: int = 16
    """Side of the discriminator's map whose places words look for [code, paper]; at most half of the
    image's."""
    head_layers: int = 0
    """Hidden layers, 0 to 2, of a perceptron between the discriminator's features and its contrastive losses;
    0 is best [paper]. Its form is [inferred]: as wide as the features, ReLU, also at each region."""
    sentence_weight: float = 1.0
    """Of the contrast of images and sentences, lambda [paper, code]; 0 leaves it out, as for the others."""
    word_weight: float = 1.0
    """Of the contrast of regions and words [paper, code]."""
    image_weight: float = 1.0
    """Of the contrast of generated and real images in the discriminator's features [paper, code]."""
    frozen_weight: float = 1.0
    """Of the same in the features of a frozen network [paper, code]."""
    frozen: Literal["resnet50", "vgg19", "lite0", "damsm"] = "resnet50"
    """The frozen network: ResNet-50 [code] or VGG-19 [paper], both by torchvision; EfficientNet-Lite0; or
    DAMSM's image encoder (ours)."""
    frozen_weights: str = "pretrained"
    """Of the frozen network: ``pretrained`` fetches torchvision's once (``lite0``: takes those of its
    package), ``random`` leaves fresh ones; or the path of a file. DAMSM has settings of its own."""
    frozen_side: int = 224
    """Side of what it sees, pixels [code]."""
    frozen_loss: Literal["contrastive", "l2"] = "contrastive"
    """``l2`` is a perceptual loss instead: the mean squared difference of both images' features; the paper's
    comparison, its layer [inferred]."""
    temperature: float = 0.1
    """tau of the contrasts of vectors [code, paper]."""
    rho1: float = 5.0
    """How much a word prefers the regions that are like it [code]."""
    rho2: float = 5.0
    """How much the best words of a caption count more than the others [code]."""
    word_scale: float = 50.0
    """What scores of words are multiplied with [code]."""
    unit_text: bool = False
    """Generator and discriminator read sentences and words scaled to a root mean square of 1 (ours); a
    BiLSTM's are a tenth of that."""
    discriminator_steps: int = 2
    """Steps of the discriminator to one of the generator [code, paper]."""
    learning_rate: float = 1e-4
    """Adam's, of the generator [code, paper]."""
    discriminator_learning_rate: float = 4e-4
    """Of the discriminator [code, paper]."""
    damsm: DamsmSettings = field(default_factory=DamsmSettings)
    """How a text encoder that comes untrained is trained, and which image encoder it has beside it; not used
    with a trained one, unless ``frozen`` is ``damsm``."""

    def __post_init__(self) -> None:
        if self.head_layers > 2:
            raise GanvasError(f"settings.head_layers: should be 0, 1 or 2, not {self.head_layers}")
        for name in ("attention_side", "region_side"):
            side = getattr(self, name)
            if side < 4 or side & (side - 1):
                raise GanvasError(f"settings.{name}: should be a power of two from 4, not {side}")
        for name in ("temperature", "discriminator_steps", "frozen_side", "rho2"):
            if getattr(self, name) <= 0:
                raise GanvasError(f"settings.{name}: should be greater than 0, not {getattr(self, name)}")


def generator_widths(image_size: int, width: int) -> list[int]:
    """Channels at 4x4, and after each block, of which the last draws images of ``image_size`` pixels."""
    blocks = int(log2(image_size / 4))
    found = _GENERATOR.get(image_size) or tuple(min(16, 1 << i) for i in reversed(range(blocks)))
    return [found[0] * width, *(multiple * width for multiple in found)]


def discriminator_widths(image_size: int, width: int) -> list[int]:
    """Channels after each block; all but the last halve the side, down to 4x4."""
    blocks = int(log2(image_size / 4))
    found = _DISCRIMINATOR.get(image_size)
    if found is None:
        halving = tuple(min(16, 1 << i) for i in range(blocks))
        found = (*halving, halving[-1])
    return [multiple * width for multiple in found]


class GeneratorBlock(nn.Module):
    """Residual block that doubles the side, modulated twice.

    Args:
        num_in: channels of the input.
        num_out: of the output.
        modulations: what modulates the input and, at twice the side, the middle.
    """

    def __init__(self, num_in: int, num_out: int, modulations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = modulations
        self.up = UpConv(num_in, num_out, bias=True)
        self.conv = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.shortcut = nn.Conv2d(num_in, num_out, 1)  # on the small map: it does not mix places

    def forward(self, features: Tensor, condition: LocalCondition | Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', 2H, 2W)``."""
        out = self.up(F.relu(self.first(features, condition)))
        out = self.conv(F.relu(self.second(out, condition)))
        short = F.interpolate(self.shortcut(features), scale_factor=2.0, mode="nearest")
        return cast(Tensor, out + short)


class Generator(nn.Module):
    """One stage: z to a 4x4 map, blocks that are modulated by the sentence and z, then by words too.

    Args:
        settings: widths and switches.
        sentence_dim: width of sentences.
        word_dim: D, of words.
        image_size: S, a power of two from 16.
    """

    def __init__(self, settings: XmcGanSettings, sentence_dim: int, word_dim: int, image_size: int) -> None:
        super().__init__()
        s = settings
        if s.attention and s.attention_side > image_size:
            raise GanvasError(
                f"settings.attention_side: should be at most the image's {image_size} px,"
                f" not {s.attention_side}"
            )
        whole_dim = s.condition_dim + s.noise_dim
        widths = generator_widths(image_size, s.generator_width)
        self.attention_side = s.attention_side if s.attention else 0

        def modulation(channels: int, by_place: bool) -> nn.Module:
            if by_place:
                return AttentionalSelfModulation(channels, word_dim, whole_dim)
            return SelfModulation(channels, whole_dim)

        self.reads_sentence_first = s.first_input == "both"
        self.sentence = nn.Linear(sentence_dim, s.condition_dim)
        self.start = nn.Linear(whole_dim if self.reads_sentence_first else s.noise_dim, 16 * widths[0])
        self.blocks = nn.ModuleList()
        side = 4
        for num_in, num_out in pairwise(widths):
            by_place = s.attention and side >= s.attention_side
            both = [modulation(channels, by_place) for channels in (num_in, num_out)]
            self.blocks.append(GeneratorBlock(num_in, num_out, both))
            side *= 2
        channels = widths[int(log2(s.attention_side / 4))] if s.attention else 0
        self.attention = RegionAttention(channels, word_dim, s.rho0) if s.attention else None
        self.last = modulation(widths[-1], s.attention)
        self.head = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.apply(glorot)

    def forward(self, text: Text, noise: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [-1, 1] for noise ``(B, Z)``."""
        return cast(Tensor, self.head(F.relu(self.last(*self._run(text, noise)))).tanh())

    def weights(self, text: Text, noise: Tensor) -> Tensor:
        """Which word each place looks at, ``(B, T, h, h)``."""
        _, condition = self._run(text, noise)
        assert isinstance(condition, LocalCondition)
        return condition.weights

    def _run(self, text: Text, noise: Tensor) -> tuple[Tensor, LocalCondition | Tensor]:
        """The features ``(B, gf, S, S)`` under the last modulation, and its condition."""
        whole = torch.cat([self.sentence(text.sentence).to(noise.dtype), noise], dim=1)
        condition: LocalCondition | Tensor = whole
        features = self.start(whole if self.reads_sentence_first else noise).view(len(noise), 4, 4, -1)
        features = features.permute(0, 3, 1, 2)  # the official layout
        for block in self.blocks:
            condition = self._looked(features, text, condition)
            features = block(features, condition)
        return features, self._looked(features, text, condition)

    def _looked(
        self, features: Tensor, text: Text, condition: LocalCondition | Tensor
    ) -> LocalCondition | Tensor:
        """The condition with words, from the map on whose places look at them."""
        if self.attention is None or features.shape[2] != self.attention_side:
            return condition
        if isinstance(condition, LocalCondition):
            return condition
        words, weights = self.attention(features, text.words, text.mask)
        return LocalCondition(words, weights, condition)


class DiscriminatorBlock(nn.Module):
    """Residual block with spectral normalisation and without any other.

    Args:
        num_in: channels of the input.
        num_out: of the output.
        first: the input is an image: no ReLU before it.
        halves: whether the side is halved.
    """

    def __init__(self, num_in: int, num_out: int, *, first: bool = False, halves: bool = True) -> None:
        super().__init__()
        self.is_first = first
        self.conv1 = SpectralConv(num_in, num_out)
        self.conv2 = SpectralConv(num_out, num_out, pooled=halves)
        changes = halves or num_in != num_out
        self.shortcut = SpectralConv(num_in, num_out, 1, pooled=halves) if changes else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H/2, W/2)`` or ``(B, C', H, W)``."""
        out = self.conv1(features if self.is_first else F.relu(features))
        return cast(Tensor, self.conv2(F.relu(out)) + self.shortcut(features))


class Seen(NamedTuple):
    """What the discriminator sees in images, and in their sentences."""

    logits: Tensor
    """``(B,)``: how real they are and how they fit the sentences."""
    image: Tensor
    """``(B, C)``: f_img, for contrasts."""
    sentence: Tensor
    """``(B, C)``: sentences in the same space."""
    middle: Tensor
    """``(B, C', H, W)``: the map from which ``Discriminator.regions`` are made."""


class Discriminator(nn.Module):
    """Judge by projection, and encoder for the contrasts.

    Args:
        settings: widths and heads.
        sentence_dim: width of sentences.
        word_dim: D, of words.
        image_size: S, a power of two from 16.
    """

    def __init__(self, settings: XmcGanSettings, sentence_dim: int, word_dim: int, image_size: int) -> None:
        super().__init__()
        widths = [3, *discriminator_widths(image_size, settings.discriminator_width)]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(*pair, first=i == 0, halves=i < len(widths) - 2)
            for i, pair in enumerate(pairwise(widths))
        )
        side = min(settings.region_side, image_size // 2)
        self.region_block = int(log2(image_size / side)) - 1
        self.region = SpectralConv(widths[self.region_block + 1], word_dim, 1)
        self.logit = SpectralLinear(widths[-1], 1)
        self.sentence = SpectralLinear(sentence_dim, widths[-1])
        self.image_head, self.region_head = nn.Sequential(), nn.Sequential()
        for _ in range(settings.head_layers):
            self.image_head.extend([SpectralLinear(widths[-1], widths[-1]), nn.ReLU()])
            self.region_head.extend([SpectralConv(word_dim, word_dim, 1), nn.ReLU()])
        if settings.head_layers:
            self.image_head.append(SpectralLinear(widths[-1], widths[-1]))
            self.region_head.append(SpectralConv(word_dim, word_dim, 1))
        self.apply(glorot)

    def forward(self, images: Tensor, sentence: Tensor) -> Seen:
        """See images ``(k B, 3, S, S)`` in [-1, 1], k sets of images of the same sentences ``(B, D)``."""
        x = (images + 1) / 2  # as the official code gives them
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == self.region_block:
                middle = x
        whole = F.relu(x).sum(dim=(2, 3))  # (B, C)
        fits = self.sentence(sentence)
        matching = whole.float().view(-1, *fits.shape) * fits.float()  # (k, B, C)
        logits = self.logit(whole)[:, 0].float() + matching.sum(dim=2).flatten()
        return Seen(logits, self.image_head(whole), fits, middle)

    def regions(self, middle: Tensor) -> Tensor:
        """``(B, D, H, W)``: f_region, in the space of words."""
        return cast(Tensor, self.region_head(self.region(middle)))


def glorot(module: nn.Module) -> None:
    """For ``Module.apply``: Glorot's normal initialisation [code], biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_normal_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
