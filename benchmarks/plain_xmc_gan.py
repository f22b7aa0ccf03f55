"""XMC-GAN written plainly: the other side of ``benchmarks/newest.py xmc-gan``.

Float32, one thing after another, as in the paper and its code: the condition of the places is enlarged beside
the features and each place has its own gamma and beta, shortcuts run on enlarged maps, pooling follows the
convolution, the word contrast goes through captions in a Python loop. Real and generated images go through
the discriminator together, as in the official code; the frozen network has no weight gradients. Names are
ours, so that both sides get the same weights.
"""

# ruff: noqa: D101, D102 - what a class is, its name says; methods are steps of the paper

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from inputs import Inputs
from plain_attngan import MovingAverage, both_directions, plain_adam
from torch import Tensor, nn

from ganvas.networks.imagenet import ResNet50, Vgg19
from ganvas.systems.xmc_gan_networks import discriminator_widths, generator_widths
from ganvas.text.encoder import Text


class Modulation(nn.Module):
    """By the sentence and z."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma, self.beta = nn.Linear(condition, channels), nn.Linear(condition, channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = self.gamma(condition)[:, :, None, None], self.beta(condition)[:, :, None, None]
        return self.norm(h) * (1 + gamma) + beta


class LocalModulation(nn.Module):
    """By a map of conditions as large as the features."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma, self.beta = nn.Conv2d(condition, channels, 1), nn.Conv2d(condition, channels, 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return self.norm(h) * (1 + self.gamma(condition)) + self.beta(condition)


def enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class GeneratorBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, condition: int, local: bool) -> None:
        super().__init__()
        kind = LocalModulation if local else Modulation
        self.first, self.second = kind(num_in, condition), kind(num_out, condition)
        self.up = nn.Conv2d(num_in, num_out, 3, 1, 1)
        self.conv = nn.Conv2d(num_out, num_out, 3, 1, 1)
        self.shortcut = nn.Conv2d(num_in, num_out, 1)

    def forward(self, h: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the condition of their size."""
        out = self.up(enlarged(F.relu(self.first(h, condition))))
        if condition.ndim == 4:
            condition = enlarged(condition)
        out = self.conv(F.relu(self.second(out, condition)))
        return out + self.shortcut(enlarged(h)), condition


class RegionAttention(nn.Module):
    def __init__(self, channels: int, word: int, rho0: float) -> None:
        super().__init__()
        self.rho0, self.query = rho0, nn.Conv2d(channels, word, 1)

    def forward(self, h: Tensor, text: Text) -> Tensor:
        """What each place sees of the words, ``(B, D, H, W)``."""
        regions = F.normalize(self.query(h).flatten(2), dim=1)  # (B, D, R)
        words = F.normalize(text.words, dim=2)  # (B, T, D)
        scores = self.rho0 * torch.bmm(regions.transpose(1, 2), words.transpose(1, 2))
        weights = torch.softmax(scores.masked_fill(~text.mask[:, None], -float("inf")), dim=2)  # (B, R, T)
        return torch.bmm(weights, words).transpose(1, 2).view(len(h), -1, *h.shape[2:])


class Generator(nn.Module):
    def __init__(self, settings: Any, sentence: int, word: int, image_size: int) -> None:
        super().__init__()
        s, widths = settings, generator_widths(image_size, settings.generator_width)
        whole = s.condition_dim + s.noise_dim
        self.attention_side = s.attention_side
        self.sentence = nn.Linear(sentence, s.condition_dim)
        self.start = nn.Linear(s.noise_dim, 16 * widths[0])
        self.blocks, side = nn.ModuleList(), 4
        for num_in, num_out in pairwise(widths):
            local = side >= s.attention_side
            if side == s.attention_side:
                self.attention = RegionAttention(num_in, word, s.rho0)
            self.blocks.append(GeneratorBlock(num_in, num_out, whole + word if local else whole, local))
            side *= 2
        self.last = LocalModulation(widths[-1], whole + word)
        self.head = nn.Conv2d(widths[-1], 3, 3, 1, 1)

    def forward(self, text: Text, z: Tensor) -> Tensor:
        condition = torch.cat([self.sentence(text.sentence), z], dim=1)
        h = self.start(z).view(len(z), 4, 4, -1).permute(0, 3, 1, 2).contiguous()
        for block in self.blocks:
            if h.shape[2] == self.attention_side:
                tiled = condition[:, :, None, None].expand(-1, -1, *h.shape[2:])
                condition = torch.cat([self.attention(h, text), tiled], dim=1)
            h, condition = block(h, condition)
        return torch.tanh(self.head(F.relu(self.last(h, condition))))


class Spectral(nn.Module):
    """A weight, over its spectral norm by one step of power iteration; the step is kept while it learns."""

    weight: nn.Parameter
    u: Tensor
    learns = True

    def normalised(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.t() @ self.u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            if self.learns:
                self.u.copy_(u)
        return self.weight / torch.dot(u, matrix @ v)


class SpectralConv(Spectral, nn.Conv2d):
    def __init__(self, num_in: int, num_out: int, kernel: int = 3) -> None:
        nn.Conv2d.__init__(self, num_in, num_out, kernel, 1, kernel // 2)
        self.register_buffer("u", torch.randn(num_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class SpectralLinear(Spectral, nn.Linear):
    def __init__(self, num_in: int, num_out: int) -> None:
        nn.Linear.__init__(self, num_in, num_out)
        self.register_buffer("u", torch.randn(num_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class DiscriminatorBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, first: bool, halves: bool) -> None:
        super().__init__()
        self.is_first, self.halves = first, halves
        self.conv1, self.conv2 = SpectralConv(num_in, num_out), SpectralConv(num_out, num_out)
        changes = halves or num_in != num_out
        self.shortcut = SpectralConv(num_in, num_out, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        if not self.halves:
            return out + self.shortcut(x)
        if self.is_first:
            return F.avg_pool2d(out, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return F.avg_pool2d(out, 2) + F.avg_pool2d(self.shortcut(x), 2)


class Discriminator(nn.Module):
    def __init__(self, settings: Any, sentence: int, word: int, image_size: int) -> None:
        super().__init__()
        widths = [3, *discriminator_widths(image_size, settings.discriminator_width)]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(*pair, first=i == 0, halves=i < len(widths) - 2)
            for i, pair in enumerate(pairwise(widths))
        )
        self.region_side = settings.region_side
        self.region = SpectralConv(widths[(image_size // self.region_side).bit_length() - 1], word, 1)
        self.logit = SpectralLinear(widths[-1], 1)
        self.sentence = SpectralLinear(sentence, widths[-1])

    def forward(self, images: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, image features, sentences in their space, and the map of regions, of k sets of images."""
        x = (images + 1) / 2
        for block in self.blocks:
            x = block(x)
            if x.shape[2] == self.region_side:
                middle = x
        whole, fits = F.relu(x).sum(dim=(2, 3)), self.sentence(sentence)
        repeated = fits.repeat(len(images) // len(fits), 1)
        return self.logit(whole)[:, 0] + (whole * repeated).sum(dim=1), whole, fits, middle


def vector_contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    return both_directions(F.normalize(first, dim=1) @ F.normalize(second, dim=1).t() / temperature)


def word_contrast(regions: Tensor, text: Text, settings: Any) -> Tensor:
    """``regions``: ``(B, D, H, W)``."""
    flat, columns = F.normalize(regions.flatten(2), dim=1), []  # (B, D, R)
    for words, mask in zip(F.normalize(text.words, dim=2), text.mask, strict=True):
        caption = words[mask].expand(len(flat), -1, -1)  # (B, T, D)
        weights = torch.softmax(settings.rho1 * torch.bmm(caption, flat), dim=2)  # (B, T, R)
        context = torch.bmm(weights, flat.transpose(1, 2))  # (B, T, D)
        cosines = F.cosine_similarity(caption, context, dim=2)
        columns.append(torch.logsumexp(settings.rho2 * cosines, dim=1) / settings.rho2)
    return both_directions(settings.word_scale * torch.stack(columns, dim=1))


class PlainXmcStep:
    """As often as ``discriminator_steps`` the discriminator, then the generator.

    Args:
        settings: widths and weights.
        text_dim: of sentences and words.
        image_size: side of the images.
        device: where.
    """

    def __init__(self, settings: Any, text_dim: int, image_size: int, device: torch.device) -> None:
        self.settings = settings
        self.generator = Generator(settings, text_dim, text_dim, image_size).to(device)
        self.discriminator = Discriminator(settings, text_dim, text_dim, image_size).to(device)
        frozen = {"vgg19": Vgg19, "resnet50": ResNet50}[settings.frozen]()
        self.frozen = frozen.eval().requires_grad_(False).to(device)
        self.generator_adam = plain_adam(self.generator.parameters(), settings.learning_rate)
        rate = settings.discriminator_learning_rate
        self.discriminator_adam = plain_adam(self.discriminator.parameters(), rate)
        self.average = MovingAverage(self.generator)

    def generate(self, inputs: Inputs) -> Tensor:
        return cast(Tensor, self.generator(inputs.texts[0], inputs.noise))

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Update everything; the last losses of the discriminator and of the generator."""
        for _ in range(self.settings.discriminator_steps - 1):
            with torch.no_grad():
                fake = self.generate(inputs)
            self.update_discriminator(fake, inputs)
        fake = self.generate(inputs)
        d_loss = self.update_discriminator(fake.detach(), inputs)
        self.generator_adam.zero_grad()
        g_loss = self.generator_loss(fake, inputs)
        g_loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        self.average.update()
        return d_loss, g_loss.detach()

    def see(self, images: Tensor, text: Text, *, learning: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        for module in self.discriminator.modules():
            if isinstance(module, Spectral):
                module.learns = learning
        return cast(Any, self.discriminator(images, text.sentence))

    def update_discriminator(self, fake: Tensor, inputs: Inputs) -> Tensor:
        text, real = inputs.texts[0], inputs.images[-1]
        logits, whole, fits, middle = self.see(torch.cat([real, fake]), text, learning=True)
        of_real, of_fake = logits.chunk(2)
        loss = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
        loss = loss + self.cross_modal(whole[: len(real)], fits, middle[: len(real)], text)
        self.discriminator_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.discriminator_adam.step()
        return loss.detach()

    def generator_loss(self, fake: Tensor, inputs: Inputs) -> Tensor:
        text, real, tau = inputs.texts[0], inputs.images[-1], self.settings.temperature
        logits, whole, fits, middle = self.see(fake, text, learning=False)
        loss = -logits.mean() + self.cross_modal(whole, fits, middle, text)
        with torch.no_grad():
            _, of_real, _, _ = self.see(real, text, learning=False)
            target = self.frozen_features(real)
        loss = loss + vector_contrast(whole, of_real, tau)
        return loss + vector_contrast(self.frozen_features(fake), target, tau)

    def cross_modal(self, whole: Tensor, fits: Tensor, middle: Tensor, text: Text) -> Tensor:
        regions = self.discriminator.region(middle)
        loss = vector_contrast(whole, fits, self.settings.temperature)
        return loss + word_contrast(regions, text, self.settings)

    def frozen_features(self, images: Tensor) -> Tensor:
        side = self.settings.frozen_side
        shrinks = images.shape[-1] > side
        images = F.interpolate(images, size=side, mode="bilinear", antialias=shrinks)
        mean = images.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        std = images.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        return cast(Tensor, self.frozen(((images + 1) / 2 - mean) / std))
