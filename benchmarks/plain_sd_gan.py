"""SD-GAN written plainly, on ``plain_attngan.py``: the other side of ``benchmarks/newest.py sd-gan``.

The sentence is tiled beside the features where it joins them, every place of a map has its own product with
the kernel of word-level SCBN, and DAMSM sees one branch after the other. Both branches go through the
generator together, and a real image through the discriminator once, as on our side: otherwise what is
normalised together would differ. Names are ours where they are not those of ``plain_attngan.py``.
"""

# ruff: noqa: D101, D102 - what a class is, its name says; methods are steps of the paper

from __future__ import annotations

from math import log2
from typing import Any, cast

import torch
import torch.nn.functional as F
from inputs import Inputs
from plain_attngan import (
    Augmentation,
    Discriminator,
    Generated,
    Glu,
    ImageHead,
    PlainStep,
    Residual,
    conv,
    kl_divergence,
)
from torch import Tensor, nn

from ganvas.text.encoder import Text


def perceptron(num_in: int, hidden: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_in, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_out))


class SentenceCue(nn.Module):
    def __init__(self, text: int, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (perceptron(text, channels, channels) for _ in range(2))

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        gamma, beta = self.gamma(text.sentence), self.beta(text.sentence)
        return gamma[:, :, None, None].expand_as(features), beta[:, :, None, None].expand_as(features)


class Embedding(nn.Module):
    def __init__(self, text: int, channels: int) -> None:
        super().__init__()
        self.perceive = nn.Linear(text, channels)

    def forward(self, features: Tensor, text: Text) -> Tensor:
        """What each place sees, ``(B, H * W, C)``."""
        words = self.perceive(text.words)  # (B, T, C)
        scores = torch.bmm(features.flatten(2).transpose(1, 2), words.transpose(1, 2))  # (B, H * W, T)
        weights = torch.softmax(scores.masked_fill(~text.mask[:, None], -float("inf")), dim=2)
        return torch.bmm(weights, words)


class WordCue(nn.Module):
    def __init__(self, text: int, channels: int) -> None:
        super().__init__()
        self.embedding = Embedding(text, channels)
        self.out = nn.Linear(channels, 2 * channels)

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        increments = self.out(self.embedding(features, text)).transpose(1, 2)  # (B, 2C, H * W)
        gamma, beta = increments.reshape(len(features), -1, *features.shape[2:]).chunk(2, dim=1)
        return gamma, beta


class SemanticNorm(nn.BatchNorm2d):
    def __init__(self, channels: int, text: int, level: str) -> None:
        super().__init__(channels)
        if level == "sentence":
            self.sentence: nn.Module = SentenceCue(text, channels)
        else:
            self.words: nn.Module = WordCue(text, channels)
        self.level = level

    def forward(self, features: Tensor, text: Text) -> Tensor:  # type: ignore[override]
        cue = self.sentence if self.level == "sentence" else self.words
        gamma, beta = cue(features, text)
        running = self.running_mean, self.running_var
        normal = F.batch_norm(features, *running, training=self.training, momentum=0.1, eps=self.eps)
        return (self.weight[:, None, None] + gamma) * normal + self.bias[:, None, None] + beta


class SemanticUp(nn.Module):
    def __init__(self, num_in: int, num_out: int, text: int, level: str) -> None:
        super().__init__()
        self.conv = conv(num_in, 2 * num_out)
        self.norm = SemanticNorm(2 * num_out, text, level)
        self.glu = Glu()

    def forward(self, features: Tensor, text: Text) -> Tensor:
        larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return cast(Tensor, self.glu(self.norm(self.conv(larger), text)))


class Start(nn.Module):
    def __init__(self, num_in: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(num_in, 32 * channels, bias=False)
        self.norm = nn.BatchNorm1d(32 * channels)
        self.glu = Glu()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.glu(self.norm(self.fc(x)))).view(-1, self.channels, 4, 4)


class FirstStage(nn.Module):
    def __init__(self, width: int, num_in: int, text: int, size: int) -> None:
        super().__init__()
        ups = int(log2(size / 4))
        self.start = Start(num_in, width << ups)
        self.ups = nn.ModuleList(
            SemanticUp(width << i, width << (i - 1), text, "sentence") for i in range(ups, 0, -1)
        )

    def forward(self, condition: Tensor, z: Tensor, text: Text) -> Tensor:
        features = cast(Tensor, self.start(torch.cat([condition, z], dim=1)))
        for up in self.ups:
            features = up(features, text)
        return features


class NextStage(nn.Module):
    def __init__(self, width: int, text: int, residuals: int) -> None:
        super().__init__()
        self.join = conv(width + text, 2 * width)
        self.norm = nn.BatchNorm2d(2 * width)
        self.glu = Glu()
        self.residual = nn.Sequential(*(Residual(width) for _ in range(residuals)))
        self.up = SemanticUp(width, width, text, "word")

    def forward(self, features: Tensor, text: Text) -> Tensor:
        tiled = text.sentence[:, :, None, None].repeat(1, 1, *features.shape[2:])
        joined = self.glu(self.norm(self.join(torch.cat([features, tiled], dim=1))))
        return cast(Tensor, self.up(self.residual(joined), text))


class SdGenerator(nn.Module):
    def __init__(self, width: int, residuals: int, sizes: list[int], text: int = 256) -> None:
        super().__init__()
        self.conditioning = Augmentation(text, 100)
        self.initial = FirstStage(width, 200, text, sizes[0])
        self.further = nn.ModuleList(NextStage(width, text, residuals) for _ in sizes[1:])
        self.heads = nn.ModuleList(ImageHead(width) for _ in sizes)

    def forward(self, text: Text, noise: Tensor) -> Generated:
        z, epsilon = noise[:, :100], noise[:, 100:]
        condition, mean, log_variance = self.conditioning(text.sentence, epsilon)
        features = [self.initial(condition, z, text)]
        for stage in self.further:
            features.append(stage(features[-1], text))
        images = [head(h) for head, h in zip(self.heads, features, strict=True)]
        return Generated(images, mean, log_variance, features, [])


class SiameseDiscriminator(Discriminator):
    def __init__(self, width: int, text: int, image_size: int, code: int) -> None:
        super().__init__(width, text, image_size)
        self.comparator = nn.Linear(8 * width, code)

    def code(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.comparator(features.mean(dim=(2, 3))))


def contrast(codes: Tensor, alpha: float, epsilon: float) -> Tensor:
    """L_c of both branches: captions of one image, and of two."""
    first, second = codes.chunk(2)
    same = ((first - second).square().sum(dim=1) + 1e-12).sqrt()
    different = ((first - second.roll(-1, 0)).square().sum(dim=1) + 1e-12).sqrt()
    near = torch.clamp(same, min=alpha).square() / 2
    far = torch.clamp(epsilon - different, min=0).square() / 2
    return torch.cat([near, far]).mean()


def logistic(d: Any, features: Tensor, target: float, sentence: Tensor | None = None) -> Tensor:
    judged = d.UNCOND_DNET(features) if sentence is None else d.COND_DNET(features, sentence)
    return F.binary_cross_entropy(judged, torch.full_like(judged, target))


class PlainSdStep(PlainStep):
    def make_generator(self) -> nn.Module:
        s = self.settings
        return SdGenerator(s.generator_width, s.residual_blocks, list(self.sizes))

    def make_discriminator(self, size: int) -> Discriminator:
        return SiameseDiscriminator(self.settings.discriminator_width, 256, size, self.settings.code_dim)

    def draw(self, inputs: Inputs) -> Generated:
        return cast(Generated, self.generator(inputs.all_captions(), inputs.noise))

    def discriminator_loss(self, d: Any, real: Tensor, fake: Tensor, inputs: Inputs) -> Tensor:
        sentence = inputs.all_captions().sentence
        wrong = torch.cat([text.sentence.roll(-1, 0) for text in inputs.texts])
        once, fake_features = d(real), d(fake)
        real_features = torch.cat([once, once])
        genuine = logistic(d, once, 1.0) + logistic(d, real_features, 1.0, sentence)
        false = logistic(d, fake_features, 0.0) + logistic(d, fake_features, 0.0, sentence)
        false = false + logistic(d, real_features, 0.0, wrong)
        return genuine / 2 + false / 3 + self.contrast(d, fake_features)

    def generator_loss(self, drawn: Generated, inputs: Inputs) -> Tensor:
        total, sentence = kl_divergence(drawn.mean, drawn.log_variance), inputs.all_captions().sentence
        for d, fake in zip(self.discriminators, drawn.images, strict=True):
            features = d(fake)
            total = total + logistic(d, features, 1.0) + logistic(d, features, 1.0, sentence)
            total = total + self.contrast(d, features)
        branches = zip(drawn.images[-1].chunk(2), inputs.texts, strict=True)
        return total + sum(self.damsm_loss(images, text) for images, text in branches) / 2

    def contrast(self, d: Any, features: Tensor) -> Tensor:
        s = self.settings
        return s.contrastive_weight * contrast(d.code(features), s.alpha, s.epsilon)
