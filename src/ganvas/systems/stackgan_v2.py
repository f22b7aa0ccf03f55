"""StackGAN++ (StackGAN-v2): Zhang, Xu et al., "StackGAN++: Realistic Image Synthesis with Stacked Generative
Adversarial Networks", TPAMI 2018.

Generators in a tree, trained together: the first makes features and an image of 64 pixels, each further one
takes the features before it and the condition, and doubles the side. Every branch has a discriminator of its
own, so that the tree approximates the distribution of images at several scales at once (section 3):

- ``h_0 = F_0(c, z)``, ``h_i = F_i(h_(i-1), c)``, ``x_i = G_i(h_i)``; ``c`` is sampled by conditioning
  augmentation, ``c = mu(phi) + sigma(phi) epsilon``;
- joint conditional and unconditional terms (JCU): each discriminator judges an image by itself, and with the
  condition;
- color consistency: mean and covariance of the colors of ``x_i`` stay near those of ``x_(i-1)``.

Without a text encoder (recipe ``text: null``) the same system is the paper's unconditional one: ``z`` takes
the place of ``c``, and the discriminators judge images alone.

Where the official code differs from the paper, the defaults are the code's: a generated image is judged with
the mean of the condition, not a sample; the unconditional term counts the images of mismatched pairs as real
(``wrong_is_real``), so that real images weigh two there; the divergence is a mean over dimensions, with
weight 2. Ours: losses on logits; a mismatched pair is this image with another's caption (``mismatch``), which
is the same in distribution and computes a real image's features once; image sizes below 64 pixels and other
numbers of stages; the noise of the condition is part of the system's noise, ``[z; epsilon]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log2
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.blocks import GLU, ResidualBlock, StartBlock, image_head, orthogonal, up_block
from ganvas.layers.conditioning import Condition, ConditionedConv, ConditioningAugmentation, kl_loss
from ganvas.layers.stacked_discriminator import StackedDiscriminator
from ganvas.losses.adversarial import fake_loss, real_loss
from ganvas.losses.color_consistency import color_consistency_loss
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.joint_embedding import JointEmbedding, JointEmbeddingSettings
from ganvas.text.encoder import Text, TextEncoder

FIRST_SIZE = 64
"""Side of the first stage's images, pixels, unless ``stages`` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class StackGanV2Settings:
    """Settings of StackGAN++. Defaults are the official CUB configuration."""

    stages: int | None = None
    """Generators in the tree, each twice as large as the one before; by default the first makes 64 pixels, so
    that 256 pixels take 3 [code, paper]."""
    branches: Literal["all", "last"] = "all"
    """Which stages have an image and a discriminator; ``last`` is the paper's row G3 [layers inferred]."""
    noise_dim: int = 100
    """Z, width of z [code]."""
    condition_dim: int = 128
    """N, width of the condition [code]."""
    augmentation: bool = True
    """Sample the condition; otherwise it is the mean alone, and its divergence is not counted."""
    unit_text: bool = False
    """Read sentences scaled to a root mean square of 1 (ours), as DAMSM's encoders need it."""
    generator_width: int = 64
    """ngf: channels of the first stage's image features; they halve from stage to stage [code]."""
    residual_blocks: int = 2
    """In each further stage [code]."""
    discriminator_width: int = 64
    """ndf: channels after the first convolution [code]."""
    mismatch: Literal["text", "image", "none"] = "text"
    """Mismatched pair: this image with another's caption, or another image with this caption, as in the
    official code (the same in distribution); or none."""
    unconditional_weight: float = 1.0
    """Weight of the unconditional terms beside the conditional ones [code]. 0 leaves them out; mismatched and
    generated pairs then weigh one half each [code]."""
    wrong_is_real: bool = True
    """The unconditional term counts the images of mismatched pairs as real ones [code]."""
    kl_weight: float = 2.0
    """Weight of the condition's divergence from N(0, 1) [code]."""
    color_weight: float = 0.0
    """alpha: weight of color consistency; 50 on data sets without captions [code, paper]."""
    color_covariance: float = 5.0
    """lambda 2: weight of covariances within it; means have 1 [code, paper]."""
    real_label: float = 1.0
    """Target of real images for the discriminators; below 1 is one-sided label smoothing (ours)."""
    learning_rate: float = 2e-4
    """Of all networks [code, paper]."""
    discriminator_learning_rate: float | None = None
    """The discriminators', where it differs."""
    joint_embedding: JointEmbeddingSettings = field(default_factory=JointEmbeddingSettings)
    """How a char-CNN-RNN text encoder is trained: at 64 pixels at most, as the released ones needed no more
    [inferred]."""


def stage_sizes(image_size: int, stages: int | None = None) -> list[int]:
    """Sides of all stages' images, small to large.

    Raises:
        GanvasError: the first would have less than 8 pixels.
    """
    number = max(1, int(log2(image_size / FIRST_SIZE)) + 1) if stages is None else stages
    if not 1 <= number <= log2(image_size / 4):
        most = int(log2(image_size / 4))
        raise GanvasError(
            f"settings.stages: should be at least 1 and, for {image_size} px, at most {most}"
            f" (the first stage then makes 8 px), not {number}"
        )
    return [image_size >> i for i in reversed(range(number))]


class Generated(NamedTuple):
    """What the generators make of captions and noise."""

    images: list[Tensor]
    """``(B, 3, S, S)`` for each branch, small to large."""
    condition: Condition | None
    """None without captions."""


class NextStage(nn.Module):
    """F_i: features and a condition to features of twice the side and half the width.

    Args:
        channels: C of the incoming features.
        num_out: C' of the outgoing ones.
        condition_dim: N.
        residual_blocks: between joining and up-sampling.
    """

    def __init__(self, channels: int, num_out: int, condition_dim: int, residual_blocks: int) -> None:
        super().__init__()
        self.join = ConditionedConv(channels, condition_dim, 2 * channels)
        self.joined = nn.Sequential(nn.BatchNorm2d(2 * channels), GLU())
        self.residual = nn.Sequential(*(ResidualBlock(channels) for _ in range(residual_blocks)))
        self.up = up_block(channels, num_out)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """``(B, C, H, W)`` and ``(B, N)`` to ``(B, C', 2H, 2W)``."""
        features = self.joined(self.join(features, condition))
        return cast(Tensor, self.up(self.residual(features)))


class Generator(nn.Module):
    """Conditioning augmentation and the tree of generators.

    Args:
        settings: widths.
        sentence_dim: D; 0 is the unconditional system.
        sizes: sides of the stages' images, each twice the one before.

    Attributes:
        noise_dim: width of ``[z; epsilon]``.
    """

    def __init__(self, settings: StackGanV2Settings, sentence_dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        s = settings
        self.z_dim, self.sampled = s.noise_dim, s.augmentation and sentence_dim > 0
        self.noise_dim = s.noise_dim + (s.condition_dim if self.sampled else 0)
        self.augmentation = (
            ConditioningAugmentation(sentence_dim, s.condition_dim, unit_text=s.unit_text)
            if sentence_dim
            else None
        )
        condition_dim = s.condition_dim if sentence_dim else s.noise_dim
        start_dim = s.noise_dim + (s.condition_dim if sentence_dim else 0)
        ups = int(log2(sizes[0] / 4))
        up_widths = [s.generator_width * 2**i for i in reversed(range(ups + 1))]  # 16 ngf to ngf at 64 px
        self.first = nn.Sequential(
            StartBlock(start_dim, up_widths[0]),
            *(up_block(up_widths[i], up_widths[i + 1]) for i in range(ups)),
        )
        widths = [max(1, s.generator_width // 2**i) for i in range(len(sizes))]
        self.further = nn.ModuleList(
            NextStage(widths[i], widths[i + 1], condition_dim, s.residual_blocks)
            for i in range(len(sizes) - 1)
        )
        shown = widths if s.branches == "all" else widths[-1:]
        self.heads = nn.ModuleList(image_head(width) for width in shown)
        self.apply(orthogonal)

    def condition(self, sentence: Tensor, epsilon: Tensor | None = None) -> Condition:
        """The conditions ``(B, N)`` of sentences ``(B, D)``; without noise ``(B, N)``, their means."""
        assert self.augmentation is not None
        zeros = sentence.new_zeros(len(sentence), self.augmentation.fc.out_features // 4)
        return cast(Condition, self.augmentation(sentence, zeros if epsilon is None else epsilon))

    def forward(self, sentence: Tensor, noise: Tensor) -> Generated:
        """``(B, D)`` sentences and noise ``[z; epsilon]`` to images in [-1, 1]."""
        code, condition = noise, None
        start = z = noise[:, : self.z_dim]
        if self.augmentation is not None:
            condition = self.condition(sentence, noise[:, self.z_dim :] if self.sampled else None)
            code = condition.sample
            start = torch.cat([code, z.to(code.dtype)], dim=1)  # c first, z second
        features = self.first(start)
        reached = [features]
        for stage in self.further:
            features = stage(features, code)
            reached.append(features)
        shown = reached[-len(self.heads) :]
        return Generated([head(h) for head, h in zip(self.heads, shown, strict=True)], condition)


class StackGanV2(System):
    """The system: text encoder, tree of generators, a discriminator for each branch.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences; one of width 0 makes the unconditional system.
        image_size: S, a power of two.
    """

    training_only = ("discriminators", "joint_embedding")
    text_optional = True

    def __init__(self, settings: StackGanV2Settings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size, self.text_encoder = settings, image_size, text_encoder
        dim = text_encoder.sentence_dim
        sizes = stage_sizes(image_size, settings.stages)
        self.generator = Generator(settings, dim, sizes)
        self.noise_dim = self.generator.noise_dim
        self.sizes = sizes if settings.branches == "all" else sizes[-1:]
        self.conditional = dim > 0
        self.alone = not self.conditional or settings.unconditional_weight > 0
        self.discriminators = nn.ModuleList(
            StackedDiscriminator(
                settings.discriminator_width,
                settings.condition_dim if self.conditional else 0,
                size,
                unconditional=self.alone,
            )
            for size in self.sizes
        )
        self.discriminators.apply(orthogonal)
        self.joint_embedding = (
            JointEmbedding(settings.joint_embedding, text_encoder, min(image_size, FIRST_SIZE))
            if text_encoder.trained_here
            else None
        )

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """An image of each branch."""
        return cast(Generated, self.generator(text.sentence, noise)).images

    def phases(self) -> Sequence[Phase]:
        """Text encoder where it is trained here, then all generators and discriminators together."""
        s = self.settings
        d_rate = s.discriminator_learning_rate or s.learning_rate
        discriminator = Turn(
            name="discriminator",
            modules=[self.discriminators],
            loss=self.discriminator_loss,
            adam=Adam(learning_rate=d_rate),
        )
        generator = Turn(
            name="generator",
            modules=[self.generator],
            loss=self.generator_loss,
            adam=Adam(learning_rate=s.learning_rate),
        )
        gan = Phase(
            name="gan",
            turns=[discriminator, generator],
            draw=self.draw,
            smaller=self.sizes[:-1],
            wrong_images=self.conditional and s.mismatch == "image",
            averaged=[self.generator],
        )
        text = self.joint_embedding.phases() if self.joint_embedding else ()
        return [*(replace(phase, image_size=min(self.image_size, FIRST_SIZE)) for phase in text), gan]

    def draw(self, batch: Batch) -> Generated:
        """One pass of the generators, for both turns."""
        assert batch.text is not None
        return cast(Generated, self.generator(batch.text.sentence, self.draw_noise(batch.images)))

    def discriminator_loss(self, batch: Batch, draw: Generated) -> Losses:
        """L_D, the sum over branches. The condition is the mean, and is not trained by it."""
        condition = None if draw.condition is None else draw.condition.mean.detach()
        wrong = self._wrong_condition(batch)
        real = [*batch.smaller, batch.images][-len(self.sizes) :]
        wrong_real = [*batch.wrong_smaller, batch.wrong_images][-len(self.sizes) :]
        total = torch.zeros_like(batch.images[0, 0, 0, 0], dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        for i, (size, d) in enumerate(self._judges()):
            batches = [real[i], draw.images[i].detach()]
            if wrong is None and condition is not None and self.settings.mismatch == "image":
                batches.append(cast(Tensor, wrong_real[i]))
            own = self._terms(d, d.features_of(batches), condition, wrong)
            total = total + self._weighted(own)
            terms |= {f"{name}_{size}": value for name, value in own.items()}
        return Losses(total, terms)

    def _terms(
        self,
        d: StackedDiscriminator,
        features: Sequence[Tensor],
        condition: Tensor | None,
        wrong: Tensor | None,
    ) -> dict[str, Tensor]:
        """What one discriminator makes of the features of real and generated images, and of other real ones
        where mismatched pairs are such.
        """
        real, fake, *others = features
        terms, label = {}, self.settings.real_label
        if condition is not None:
            pairs = {"real": (real, condition), "fake": (fake, condition)}
            if wrong is not None:
                pairs["wrong"] = (real, wrong)
            elif others:
                pairs["wrong"] = (others[0], condition)
            judged = d.judge_all(pairs)
            terms["real"] = real_loss(judged.pop("real"), label)
            terms |= {name: fake_loss(logits) for name, logits in judged.items()}
        if self.alone:
            terms["uncond_real"] = real_loss(d.judge_alone(real), label)
            terms["uncond_fake"] = fake_loss(d.judge_alone(fake))
            if others and self.settings.wrong_is_real:
                terms["uncond_wrong"] = real_loss(d.judge_alone(others[0]), label)
        return terms

    def _wrong_condition(self, batch: Batch) -> Tensor | None:
        """The means of other images' captions, where they make the mismatched pairs."""
        if not self.conditional or self.settings.mismatch != "text":
            return None
        assert batch.wrong_text is not None
        with torch.no_grad():
            return self.generator.condition(batch.wrong_text.sentence).mean

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The terms of one discriminator, weighted."""
        s = self.settings
        if not self.conditional:
            return terms["uncond_real"] + terms["uncond_fake"]
        wrong = terms.get("wrong", torch.zeros_like(terms["fake"]))
        if not self.alone:
            share = 0.5 if "wrong" in terms else 1.0
            return terms["real"] + share * (wrong + terms["fake"])
        # With another's caption the mismatched pair's image is the real one, which is then real twice.
        twice = s.wrong_is_real and s.mismatch == "text"
        real = (2 if twice else 1) * terms["uncond_real"]
        if "uncond_wrong" in terms:
            real = real + terms["uncond_wrong"]
        conditional = terms["real"] + wrong + terms["fake"]
        return conditional + s.unconditional_weight * (real + terms["uncond_fake"])

    def generator_loss(self, batch: Batch, draw: Generated) -> Losses:
        """L_G: every branch's images pass for real, alone and with the mean condition, which is trained by
        it; the condition's divergence; color consistency.
        """
        s, condition = self.settings, draw.condition
        total = torch.zeros_like(batch.images[0, 0, 0, 0], dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        for i, (size, d) in enumerate(self._judges()):
            features = d.features(draw.images[i])
            if condition is not None:
                terms[f"matching_{size}"] = real_loss(d.judge(features, condition.mean))
                total = total + terms[f"matching_{size}"]
            if self.alone:
                terms[f"uncond_{size}"] = real_loss(d.judge_alone(features))
                weight = s.unconditional_weight if self.conditional else 1.0
                total = total + weight * terms[f"uncond_{size}"]
            if s.color_weight and i > 0:
                terms[f"color_{size}"] = color_consistency_loss(
                    draw.images[i], draw.images[i - 1], covariance_weight=s.color_covariance
                )
                total = total + s.color_weight * terms[f"color_{size}"]
        if condition is not None and s.augmentation:
            terms["kl"] = kl_loss(condition.mean, condition.log_variance)
            total = total + s.kl_weight * terms["kl"]
        return Losses(total, terms)

    def _judges(self) -> Iterator[tuple[int, StackedDiscriminator]]:
        """Side and discriminator of each branch."""
        for size, discriminator in zip(self.sizes, self.discriminators, strict=True):
            yield size, cast(StackedDiscriminator, discriminator)
