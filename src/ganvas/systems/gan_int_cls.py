"""GAN, GAN-CLS, GAN-INT and GAN-INT-CLS: Reed et al., "Generative Adversarial Text to Image Synthesis", ICML
2016.

A DCGAN whose generator sees ``[z; proj(phi(t))]`` and whose discriminator judges image and text together.
Two switches make the four systems of the paper:

- ``matching_aware`` (CLS, algorithm 1): the discriminator also sees real images with mismatched captions,
  ``L_D = log s_r + 1/2 [log(1 - s_w) + log(1 - s_f)]``;
- ``interpolation`` (INT, equation 5): the generator is also trained on ``beta phi(t1) + (1 - beta) phi(t2)``.

After the generator is trained, a style encoder S learns to give its noise back, ``||z - S(G(z, phi(t)))||^2``
(equation 6), which carries the style of a query image over to another caption.

Where the official code differs from the paper, both are settings: residual units in both networks, the mean
of several captions, the mismatched pair made by another image instead of another caption. Ours: losses on
logits; one draw of noise a step for both networks (``redraw_noise`` is the official two); no convolution
biases (the official code sets them to zero before every step); the layers of the style encoder, which the
paper leaves open; other image sizes than 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.layers.conditioning import unit_scale
from ganvas.layers.residual import Bottleneck
from ganvas.losses.adversarial import fake_loss, real_loss
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.joint_embedding import JointEmbedding, JointEmbeddingSettings
from ganvas.text.encoder import Text, TextEncoder


@dataclass(frozen=True, kw_only=True)
class GanIntClsSettings:
    """Settings of GAN, GAN-CLS, GAN-INT and GAN-INT-CLS. Defaults are the official CUB configuration."""

    matching_aware: bool = True
    """CLS: train the discriminator on mismatched pairs too."""
    interpolation: bool = True
    """INT: train the generator on interpolated captions too."""
    noise_dim: int = 100
    """Z, width of the noise."""
    noise: Literal["normal", "uniform"] = "normal"
    """N(0, 1) or U(-1, 1) [code]."""
    projection: int = 128
    """Width that the sentence is projected to, in each network on its own."""
    generator: Literal["residual", "plain"] = "residual"
    """With the official code's residual units at 4x4 and 8x8, or the paper's plain stack."""
    generator_width: int = 128
    """ngf: channels at half the image's resolution. 128 for CUB, 196 for COCO."""
    residual_units: int = 1
    """Residual units at each of the two places; 2 is the official option ``large``."""
    discriminator: Literal["residual", "plain"] = "residual"
    """With the official code's residual unit at 4x4, or without."""
    discriminator_width: int = 64
    """ndf: channels after the first convolution. 64 for CUB, 196 for COCO."""
    unit_text: bool = False
    """Read sentences scaled to a root mean square of 1 (ours), as those of DAMSM's encoders need it."""
    projection_norm: bool = False
    """Batch normalisation in the discriminator's projection of the text, as in ``main_cls_int`` [code]."""
    third_activation: bool = True
    """False leaves out the activation after the discriminator's third convolution, as ``main_cls_int``
    does."""
    convolution_bias: bool = False
    """Learned convolution biases; the official code has them but keeps them at zero."""
    mismatch: Literal["text", "image"] = "text"
    """Mismatched pair: this image with another's caption (real features are then computed once), or another
    image with this caption, as in the official code. The same in distribution."""
    wrong_weight: float = 0.5
    """c: weight of the mismatched pair in L_D; the generated pair has 1 - c."""
    real_label: float = 1.0
    """Target of the matching real pair for the discriminator; below 1 is one-sided label smoothing."""
    beta: float = 0.5
    """Mixing weight of the interpolated captions."""
    extrapolate: bool = False
    """Mixes with a weight from U(-1, 1) instead: beyond both captions too (``interp_type=2``) [code]."""
    interpolation_weight: float = 1.0
    """Weight of the interpolated rows in L_G."""
    redraw_noise: bool = False
    """A second draw of noise, and a second pass of the generator, for its own update [code]."""
    learning_rate: float = 2e-4
    discriminator_learning_rate: float | None = None
    """The discriminator's, where it differs."""
    halve_every: int = 0
    """Images after which both learning rates halve (the papers: 100 epochs; COCO: 40); 0 is never."""
    squared_style: bool = True
    """Style encoder: squared norm (paper), or the norm itself."""
    style_width: int = 64
    """Channels after the style encoder's first convolution [inferred]."""
    joint_embedding: JointEmbeddingSettings = field(default_factory=JointEmbeddingSettings)
    """How a char-CNN-RNN text encoder is trained."""


def _halvings(image_size: int) -> int:
    """Stride-2 layers between the image and 4x4."""
    count = int(log2(image_size / 4))
    assert 4 * 2**count == image_size and count >= 2, image_size
    return count


def _initialise(module: nn.Module) -> None:
    """DCGAN's: convolutions N(0, .02), gains N(1, .02), biases 0; linear layers U(+-1/sqrt(fan_in))."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """``(B, Z)`` noise and ``(B, D)`` sentences to ``(B, 3, S, S)`` images."""

    def __init__(self, settings: GanIntClsSettings, sentence_dim: int, image_size: int) -> None:
        super().__init__()
        ngf, bias = settings.generator_width, settings.convolution_bias
        ups = _halvings(image_size)
        widths = [
            ngf * min(8, 2 ** (ups - 1 - i)) for i in range(ups)
        ]  # 4x4 first: 8, 4, 2, 1 times ngf at 64
        residual = settings.generator == "residual"
        self.unit_text = settings.unit_text
        self.project = nn.Sequential(nn.Linear(sentence_dim, settings.projection), nn.LeakyReLU(0.2))
        self.start = nn.ConvTranspose2d(
            settings.noise_dim + settings.projection, widths[0], 4, bias=bias
        )  # 1x1 to 4x4
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0])]
        for i, width in enumerate(widths):
            if i > 0:
                up = nn.ConvTranspose2d(widths[i - 1], width, 4, stride=2, padding=1, bias=bias)
                layers += [up, nn.BatchNorm2d(width)]
            if residual and i < 2:
                layers += [Bottleneck(width, width // 4, bias=bias) for _ in range(settings.residual_units)]
            else:
                layers.append(nn.ReLU(inplace=True))
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1, bias=bias), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """Images in [-1, 1]."""
        read = self.project(unit_scale(sentence) if self.unit_text else sentence)
        seed = torch.cat([noise, read.to(noise.dtype)], dim=1)  # z first, text second
        # A transposed convolution of a 1x1 map is a matrix product, and much faster as one.
        weight = self.start.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * 4 * C, Z + P)
        features = F.linear(seed, weight).view(len(seed), 4, 4, -1).permute(0, 3, 1, 2)  # (B, C, 4, 4)
        if self.start.bias is not None:
            features = features + self.start.bias.view(1, -1, 1, 1)
        return cast(Tensor, self.layers(features))


def _trunk(width: int, image_size: int, *, bias: bool, third_activation: bool = True) -> nn.Sequential:
    """Strided convolutions from the image to 4x4, the last normalised but not activated."""
    halvings = _halvings(image_size)
    widths = [width * min(8, 2**i) for i in range(halvings)]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1, bias=bias)]
    for i in range(1, halvings):
        if i != 3 or third_activation:
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        layers.append(nn.Conv2d(widths[i - 1], widths[i], 4, stride=2, padding=1, bias=bias))
        layers.append(nn.BatchNorm2d(widths[i]))
    return nn.Sequential(*layers)


class Discriminator(nn.Module):
    """Judges images and sentences together; ``features`` is the part that needs no text."""

    def __init__(self, settings: GanIntClsSettings, sentence_dim: int, image_size: int) -> None:
        super().__init__()
        bias = settings.convolution_bias
        width = settings.discriminator_width * min(8, 2 ** (_halvings(image_size) - 1))
        self.trunk = _trunk(
            settings.discriminator_width,
            image_size,
            bias=bias,
            third_activation=settings.third_activation,
        )
        self.top: nn.Module = (
            Bottleneck(width, width // 4, slope=0.2, bias=bias)
            if settings.discriminator == "residual"
            else nn.LeakyReLU(0.2, inplace=True)
        )
        self.unit_text = settings.unit_text
        norm = [nn.BatchNorm1d(settings.projection)] if settings.projection_norm else []
        self.project = nn.Sequential(nn.Linear(sentence_dim, settings.projection), *norm, nn.LeakyReLU(0.2))
        self.joint = nn.Sequential(
            nn.Conv2d(width + settings.projection, width, 1, bias=bias),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.head = nn.Conv2d(width, 1, 4, bias=bias)
        self.apply(_initialise)

    def features(self, images: Tensor) -> Tensor:
        """``(B, 3, S, S)`` images to ``(B, C, 4, 4)``."""
        return cast(Tensor, self.top(self.trunk(images)))

    def judge(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Logits ``(B,)``: positive where features and sentence look real and matching."""
        read = self.project(unit_scale(sentence) if self.unit_text else sentence)
        text = read[:, :, None, None].expand(-1, -1, 4, 4)
        joint: Tensor = self.joint(torch.cat([features, text.to(features.dtype)], dim=1))
        # The last convolution covers the whole 4x4 map, so it is a matrix product too.
        weight = self.head.weight.permute(0, 2, 3, 1).flatten(1)  # (1, 4 * 4 * C)
        return F.linear(joint.permute(0, 2, 3, 1).flatten(1), weight, self.head.bias).flatten()

    def forward(self, images: Tensor, sentence: Tensor) -> Tensor:
        """Logits ``(B,)``."""
        return self.judge(self.features(images), sentence)


class StyleEncoder(nn.Module):
    """S: ``(B, 3, S, S)`` images to the ``(B, Z)`` noise that carries their style [layers inferred]."""

    def __init__(self, settings: GanIntClsSettings, image_size: int) -> None:
        super().__init__()
        width = settings.style_width * min(8, 2 ** (_halvings(image_size) - 1))
        self.trunk = _trunk(settings.style_width, image_size, bias=False)
        self.head = nn.Sequential(nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16 * width, settings.noise_dim))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Estimated noise."""
        return cast(Tensor, self.head(self.trunk(images)))


class Draw(NamedTuple):
    """What both networks' losses share in one step. R = B, or B + B/2 with interpolated captions."""

    noise: Tensor
    """``(R, Z)``"""
    sentence: Tensor
    """``(R, D)``: the captions' own first, then the interpolated ones."""
    images: Tensor
    """``(R, 3, S, S)``"""


class GanIntCls(System):
    """The system: text encoder, generator, discriminator, style encoder.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences.
        image_size: S, a power of two from 16.
    """

    training_only = ("discriminator", "joint_embedding")

    def __init__(self, settings: GanIntClsSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.noise_dim, self.image_size = settings.noise_dim, image_size
        self.text_encoder = text_encoder
        self.generator = Generator(settings, text_encoder.sentence_dim, image_size)
        self.discriminator = Discriminator(settings, text_encoder.sentence_dim, image_size)
        self.style_encoder = StyleEncoder(settings, image_size)
        self.joint_embedding = (
            JointEmbedding(settings.joint_embedding, text_encoder, image_size)
            if text_encoder.trained_here
            else None
        )

    def draw_noise(self, like: Tensor) -> Tensor:
        """``(B, Z)`` from N(0, 1) or U(-1, 1)."""
        if self.settings.noise == "normal":
            return super().draw_noise(like)
        return like.new_empty(len(like), self.noise_dim).uniform_(-1, 1)

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """One image a caption."""
        return [self.generator(noise, text.sentence)]

    def style_of(self, images: Tensor) -> Tensor:
        """S(x), for ``generate`` with another caption."""
        return cast(Tensor, self.style_encoder(images))

    def phases(self) -> Sequence[Phase]:
        """Text encoder where it is trained here, then the GAN, then the style encoder on the frozen
        generator.
        """
        s = self.settings
        adam = Adam(learning_rate=s.learning_rate, decay_every=s.halve_every)
        d_rate = s.discriminator_learning_rate or s.learning_rate
        d_adam = Adam(learning_rate=d_rate, decay_every=s.halve_every)
        discriminator = Turn(
            name="discriminator", modules=[self.discriminator], loss=self.discriminator_loss, adam=d_adam
        )
        generator = Turn(name="generator", modules=[self.generator], loss=self.generator_loss, adam=adam)
        style = Turn(name="style", modules=[self.style_encoder], loss=self.style_loss, adam=adam)
        return [
            *(self.joint_embedding.phases() if self.joint_embedding else ()),
            Phase(
                name="gan",
                turns=[discriminator, generator],
                draw=self.draw,
                wrong_images=s.matching_aware and s.mismatch == "image",
                averaged=[self.generator],
            ),
            Phase(name="style", turns=[style], draw=self.draw_pairs, generates=False, extra=True),
        ]

    def draw(self, batch: Batch) -> Draw:
        """Noise, captions with the interpolated ones below them, and one pass of the generator over all."""
        assert batch.text is not None
        sentence = batch.text.sentence
        if self.settings.interpolation:
            sentence = torch.cat([sentence, self.interpolate(sentence)])
        noise = self.draw_noise(sentence)
        return Draw(noise, sentence, self.generator(noise, sentence))

    def interpolate(self, sentence: Tensor) -> Tensor:
        """``beta s_i + (1 - beta) s_(i + B/2)`` for the first half of ``(B, D)`` sentences: ``(B // 2,
        D)``.
        """
        half = len(sentence) // 2
        first, second = sentence[:half], sentence[half : 2 * half]
        if self.settings.extrapolate:
            return first + torch.empty_like(first[:, :1]).uniform_(-1, 1) * (second - first)
        return self.settings.beta * first + (1 - self.settings.beta) * second

    def discriminator_loss(self, batch: Batch, draw: Draw) -> Losses:
        """Equation of algorithm 1; interpolated captions have no real image, so they stay out."""
        assert batch.text is not None
        s, d, sentence = self.settings, self.discriminator, batch.text.sentence
        features = d.features(batch.images)
        terms = {
            "real": real_loss(d.judge(features, sentence), s.real_label),
            "fake": fake_loss(d(draw.images[: len(sentence)].detach(), sentence)),
        }
        if not s.matching_aware:
            return Losses(terms["real"] + terms["fake"], terms)
        if s.mismatch == "image":
            assert batch.wrong_images is not None
            terms["wrong"] = fake_loss(d(batch.wrong_images, sentence))
        else:
            assert batch.wrong_text is not None
            terms["wrong"] = fake_loss(d.judge(features, batch.wrong_text.sentence))
        c = s.wrong_weight
        return Losses(terms["real"] + c * terms["wrong"] + (1 - c) * terms["fake"], terms)

    def generator_loss(self, batch: Batch, draw: Draw) -> Losses:
        """``-log D(G(z, phi(t)))``, non-saturating, averaged over captions and interpolated captions."""
        s, rows = self.settings, len(batch.images)
        images = draw.images
        if s.redraw_noise:
            images = self.generator(self.draw_noise(draw.sentence), draw.sentence)
        loss = F.softplus(-self.discriminator(images, draw.sentence).float())  # (R,)
        weights = torch.ones_like(loss)
        weights[rows:] = s.interpolation_weight
        terms = {"matching": loss[:rows].mean()}
        if rows < len(loss):
            terms["interpolated"] = loss[rows:].mean()
        return Losses((weights * loss).mean(), terms)

    def draw_pairs(self, batch: Batch) -> Draw:
        """Noise and what the trained generator makes of it, for the style encoder."""
        assert batch.text is not None
        sentence = batch.text.sentence
        noise = self.draw_noise(sentence)
        with torch.no_grad():
            return Draw(noise, sentence, self.generator(noise, sentence))

    def style_loss(self, batch: Batch, draw: Draw) -> Losses:
        """``||z - S(G(z, phi(t)))||^2``, or its root, mean over the batch."""
        squared = (draw.noise - self.style_encoder(draw.images).float()).square().sum(dim=1)
        loss = squared.mean() if self.settings.squared_style else squared.sqrt().mean()
        return Losses(loss, {"style": loss})
