"""SD-GAN's settings and networks; the system is in ``sd_gan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.blocks import GLU, ResidualBlock, StartBlock, UpConv, image_head, orthogonal
from ganvas.layers.conditional_norm import Level, SemanticNorm, Weighting, start_plain
from ganvas.layers.conditioning import Condition, ConditionedConv, ConditioningAugmentation
from ganvas.layers.stacked_discriminator import StackedDiscriminator
from ganvas.systems.damsm import DamsmSettings
from ganvas.text.encoder import Text


@dataclass(frozen=True, kw_only=True)
class SdGanSettings:
    """Settings of SD-GAN. Defaults are for CUB."""

    stages: int | None = None
    """Stages of the generator, one image size each. None is as many as take a first image of 64 pixels to the
    full size, 3 for 256 [inferred]; a larger number makes the first image smaller (ours)."""
    generator_width: int = 32
    """GF: channels of every stage's features. 32 for CUB, 48 for COCO [inferred, AttnGAN's]."""
    discriminator_width: int = 64
    """DF: channels after the first convolution. 64 for CUB, 96 for COCO [inferred, AttnGAN's]."""
    residual_blocks: int = 2
    """R: of each further stage. 2 for CUB, 3 for COCO [inferred, AttnGAN's]."""
    gated: bool = True
    """Gated linear units in the generator, or ReLUs [inferred]."""
    noise_dim: int = 100
    """Width of z [inferred, AttnGAN's]."""
    condition_dim: int = 100
    """N: width of the condition [inferred, AttnGAN's]."""
    joined: Literal["sentence", "condition", "none"] = "sentence"
    """What joins the features of the stage before at each further stage: the sentence [paper], the condition,
    or nothing [both inferred]."""
    levels: tuple[Level, ...] = ("sentence", "word")
    """What SCBN reads in each stage, the last for all further ones: ``sentence``, ``word``, ``both``, or
    ``none``, plain batch normalisation. The paper uses both levels; which where is inferred."""
    weighting: Weighting = "softmax"
    """sigma of the VSE, the weights of words: a softmax over them, or a sigmoid of each [both inferred]."""
    hidden_width: int | None = None
    """Of the networks of SCBN's sentence level, which have one hidden layer [paper]; None is the number of
    channels [inferred]."""
    starts_plain: bool = True
    """The text enters by the condition alone at first: SCBN begins as batch normalisation, with increments of
    0, and so does the kernel of what joins features [inferred]. A sentence of 256 numbers beside 32 features
    would otherwise make 96 % of what a stage sees, and noise would hardly count."""
    siamese: bool = True
    """Two branches and their comparison [paper]; otherwise one caption an image, as in AttnGAN."""
    contrastive_weight: float = 1.0
    """lambda_c: weight of L_c of each scale [inferred]."""
    contrastive_for: Literal["both", "discriminator", "generator"] = "both"
    """Whose loss has L_c [inferred]."""
    alpha: float = 0.1
    """Intra-class pairs are drawn no nearer together than this [paper]; 0 is the paper's first form."""
    epsilon: float = 1.0
    """Inter-class pairs are driven this far apart [paper, by others' notes]."""
    code_dim: int = 256
    """F: length of the code that is compared [paper, by others' notes]."""
    code_of: Literal["pooled", "map"] = "pooled"
    """The code is a linear map of the mean of a discriminator's 4x4 features, or of all of them
    [inferred]."""
    divided_by: Literal["pairs", "dimensions"] = "pairs"
    """N in L_c: with ``pairs`` the sum over n is one over pairs, and L_c the mean of one half of each; with
    ``dimensions`` N also divides by the length of the code [both inferred]."""
    pairs: Literal["neighbour", "all"] = "neighbour"
    """Inter-class pairs: each image with the next one of the batch, or with all others [inferred]."""
    same_share: float = 0.5
    """Share of intra-class pairs in L_c, 0 to 1 [inferred]."""
    unconditional: bool = True
    """The discriminators also judge images by themselves [inferred, AttnGAN's]."""
    mismatched: Literal["neighbour", "drawn", "none"] = "neighbour"
    """Mismatched pair: the image with captions of the next one [inferred, AttnGAN's], with the caption that
    the data set draws for it (``data.mismatch``), or no such term."""
    damsm_weight: float = 0.0
    """lambda_d: weight of DAMSM in the generator's loss [inferred]; each branch is matched by itself."""
    kl_weight: float = 1.0
    """Weight of conditioning augmentation's divergence [inferred, AttnGAN's]."""
    unit_text: bool = False
    """Generator and discriminators read sentences and words scaled to a root mean square of 1 (ours); as for
    AttnGAN."""
    real_label: float = 1.0
    """Target of real pairs for the discriminators; below 1 is one-sided label smoothing (ours)."""
    learning_rate: float = 2e-4
    """Adam's, of both networks [inferred, AttnGAN's]."""
    discriminator_learning_rate: float | None = None
    """The discriminators', where it differs."""
    damsm: DamsmSettings = field(default_factory=DamsmSettings)
    """The image encoder and how both encoders are trained."""

    def __post_init__(self) -> None:
        if not self.levels:
            raise GanvasError("levels: is empty; name what SCBN reads in each stage, for example [sentence]")
        if not 0 <= self.same_share <= 1:
            raise GanvasError(f"same_share={self.same_share}: should be 0 to 1")

    def level(self, stage: int) -> Level:
        """What SCBN reads in a stage, counted from 0."""
        return self.levels[min(stage, len(self.levels) - 1)]


class SemanticUp(nn.Module):
    """``(B, C, H, W)`` to ``(B, C', 2H, 2W)``: up-sampling, 3x3 convolution, SCBN, activation.

    Args:
        num_in: C.
        num_out: C'.
        text_dims: widths of sentences and of words.
        level: of SCBN.
        settings: the others of SCBN, and the activation.
    """

    def __init__(
        self, num_in: int, num_out: int, text_dims: tuple[int, int], level: Level, settings: SdGanSettings
    ) -> None:
        super().__init__()
        wide = 2 * num_out if settings.gated else num_out
        self.conv = UpConv(num_in, wide)
        self.norm = SemanticNorm(
            wide, *text_dims, level=level, weighting=settings.weighting, hidden=settings.hidden_width
        )
        self.activation = GLU() if settings.gated else nn.ReLU(inplace=True)

    def forward(self, features: Tensor, text: Text) -> Tensor:
        """Twice the size."""
        return cast(Tensor, self.activation(self.norm(self.conv(features), *text)))


class InitialStage(nn.Module):
    """Condition and z to the features of the first image.

    Args:
        size: S, its side, a power of two from 8.
        text_dims: widths of sentences and of words.
        settings: widths and SCBN.
    """

    def __init__(self, size: int, text_dims: tuple[int, int], settings: SdGanSettings) -> None:
        super().__init__()
        ups = int(log2(size / 4))
        widths = [settings.generator_width << later for later in reversed(range(ups + 1))]
        self.start = StartBlock(settings.condition_dim + settings.noise_dim, widths[0], gated=settings.gated)
        self.ups = nn.ModuleList(
            SemanticUp(widths[i], widths[i + 1], text_dims, settings.level(0), settings) for i in range(ups)
        )

    def forward(self, condition: Tensor, z: Tensor, text: Text) -> Tensor:
        """``(B, N)`` and ``(B, Z)`` to ``(B, C, S, S)``."""
        features = cast(Tensor, self.start(torch.cat([condition, z], dim=1)))
        for up in self.ups:
            features = up(features, text)
        return features


class NextStage(nn.Module):
    """Features and what joins them to features at twice the size.

    Args:
        joined_dim: width of what joins them; 0 is nothing.
        text_dims: widths of sentences and of words.
        level: of SCBN.
        settings: widths and SCBN.
    """

    def __init__(
        self, joined_dim: int, text_dims: tuple[int, int], level: Level, settings: SdGanSettings
    ) -> None:
        super().__init__()
        width, gated = settings.generator_width, settings.gated
        wide = 2 * width if gated else width
        self.join = ConditionedConv(width, joined_dim, wide) if joined_dim else None
        self.norm = nn.BatchNorm2d(wide) if joined_dim else None
        self.activation = GLU() if gated else nn.ReLU(inplace=True)
        blocks = (ResidualBlock(width, gated=gated) for _ in range(settings.residual_blocks))
        self.residual = nn.Sequential(*blocks)
        self.up = SemanticUp(width, width, text_dims, level, settings)

    def forward(self, features: Tensor, joined: Tensor, text: Text) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, 2H, 2W)``."""
        return cast(Tensor, self.up(self._refined(features, joined), text))

    def attention(self, features: Tensor, joined: Tensor, text: Text) -> Tensor | None:
        """Which word each place looks at, ``(B, T, 2H, 2W)``; None where SCBN reads none."""
        norm = self.up.norm
        if norm.words is None:
            return None
        return norm.attention(self.up.conv(self._refined(features, joined)), text.words, text.mask)

    def silence(self) -> None:
        """Begin with features alone."""
        if self.join is not None:
            nn.init.zeros_(self.join.weight.data[:, self.join.num_features :])

    def _refined(self, features: Tensor, joined: Tensor) -> Tensor:
        if self.join is not None and self.norm is not None:
            features = self.activation(self.norm(self.join(features, joined)))
        return cast(Tensor, self.residual(features))


class Generator(nn.Module):
    """Conditioning augmentation, the stages, and the heads that draw their images.

    Args:
        settings: widths and SCBN.
        sentence_dim: width of sentences.
        word_dim: D, of words.
        sizes: sides of the images.
    """

    def __init__(
        self, settings: SdGanSettings, sentence_dim: int, word_dim: int, sizes: Sequence[int]
    ) -> None:
        super().__init__()
        text_dims = (sentence_dim, word_dim)
        self.joined, self.condition_dim = settings.joined, settings.condition_dim
        joined_dim = {"sentence": sentence_dim, "condition": settings.condition_dim, "none": 0}[self.joined]
        self.conditioning = ConditioningAugmentation(sentence_dim, settings.condition_dim)
        self.initial = InitialStage(sizes[0], text_dims, settings)
        self.further = nn.ModuleList(
            NextStage(joined_dim, text_dims, settings.level(i), settings) for i in range(1, len(sizes))
        )
        self.heads = nn.ModuleList(image_head(settings.generator_width) for _ in sizes)
        self.apply(orthogonal)
        if settings.starts_plain:
            self.apply(start_plain)
            for stage in self.further:
                cast(NextStage, stage).silence()

    def forward(self, text: Text, noise: Tensor) -> tuple[list[Tensor], Condition]:
        """Images in [-1, 1], small to large, for noise ``(B, Z + N)``: z, then the epsilon of conditioning
        augmentation.
        """
        condition, features = self.features(text, noise)
        return [head(h) for head, h in zip(self.heads, features, strict=True)], condition

    def features(self, text: Text, noise: Tensor) -> tuple[Condition, list[Tensor]]:
        """The condition, and ``(B, C, S_i, S_i)`` of every stage."""
        z, epsilon = noise.tensor_split([noise.shape[1] - self.condition_dim], dim=1)
        condition: Condition = self.conditioning(text.sentence, epsilon)
        features = [cast(Tensor, self.initial(condition.sample, z, text))]
        for stage in self.further:
            features.append(stage(features[-1], self._joined(text, condition), text))
        return condition, features

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Which word each place looks at in the further stages that read words."""
        condition, features = self.features(text, noise)
        joined = self._joined(text, condition)
        seen = zip(self.further, features[:-1], strict=True)
        found = [cast(NextStage, stage).attention(h, joined, text) for stage, h in seen]
        return [weights for weights in found if weights is not None]

    def _joined(self, text: Text, condition: Condition) -> Tensor:
        return condition.sample if self.joined == "condition" else text.sentence


class SiameseDiscriminator(StackedDiscriminator):
    """AttnGAN's discriminator, which also makes the codes by which two images are compared.

    Args:
        settings: widths.
        sentence_dim: width of sentences.
        size: side of the images.
    """

    def __init__(self, settings: SdGanSettings, sentence_dim: int, size: int) -> None:
        super().__init__(
            settings.discriminator_width, sentence_dim, size, unconditional=settings.unconditional
        )
        self.pooled = settings.code_of == "pooled"
        compares = settings.siamese and settings.contrastive_weight > 0
        num_in = self.trunk.channels * (1 if self.pooled else 16)
        self.comparator = nn.Linear(num_in, settings.code_dim) if compares else None

    def code(self, features: Tensor) -> Tensor:
        """v: features ``(B, C, 4, 4)`` to ``(B, F)``."""
        assert self.comparator is not None
        return cast(
            Tensor, self.comparator(features.mean(dim=(2, 3)) if self.pooled else features.flatten(1))
        )
