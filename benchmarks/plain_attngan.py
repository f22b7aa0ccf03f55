"""AttnGAN written plainly: float32, one thing after another, as one writes it from the paper.

The other side of ``benchmarks/attngan.py``. Nothing here is worse than what the official code does: real
features are computed once, generated images are shared by both updates, the frozen networks have no weight
gradients. Nothing is better either: the word loss goes through captions in a Python loop, discriminators keep
their weight gradients while the generator is updated, each network has its own unfused Adam, and memory is
laid out as PyTorch does by default.

Keys are those of the official release, so that ``ganvas.convert`` gives both sides the same weights.
"""

# ruff: noqa: D101, D102 - what a class is, its name says; methods are steps of the paper

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from inputs import Inputs
from torch import Tensor, nn

from ganvas.networks.inception import Inception
from ganvas.text.encoder import Text


class Glu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return x[:, :half] * torch.sigmoid(x[:, half:])


def conv(num_in: int, num_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, kernel, stride, padding, bias=False)


def up_block(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2), conv(num_in, 2 * num_out), nn.BatchNorm2d(2 * num_out), Glu()
    )


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv(width, 2 * width),
            nn.BatchNorm2d(2 * width),
            Glu(),
            conv(width, width),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.block(x))


class ImageHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.img = nn.Sequential(conv(width, 3), nn.Tanh())

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.img(h))


class Augmentation(nn.Module):
    def __init__(self, text: int, condition: int) -> None:
        super().__init__()
        self.fc = nn.Linear(text, 4 * condition)
        self.glu = Glu()

    def forward(self, sentence: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.glu(self.fc(sentence)).chunk(2, dim=1)
        return mean + epsilon * torch.exp(0.5 * log_variance), mean, log_variance


class FirstStage(nn.Module):
    def __init__(self, width: int, num_in: int) -> None:
        super().__init__()
        self.width = 16 * width
        self.fc = nn.Sequential(
            nn.Linear(num_in, self.width * 4 * 4 * 2, bias=False),
            nn.BatchNorm1d(self.width * 4 * 4 * 2),
            Glu(),
        )
        self.upsample1 = up_block(self.width, self.width // 2)
        self.upsample2 = up_block(self.width // 2, self.width // 4)
        self.upsample3 = up_block(self.width // 4, self.width // 8)
        self.upsample4 = up_block(self.width // 8, self.width // 16)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x = self.fc(torch.cat([c, z], dim=1)).view(-1, self.width, 4, 4)
        for up in (self.upsample1, self.upsample2, self.upsample3, self.upsample4):
            x = up(x)
        return cast(Tensor, x)


class Attention(nn.Module):
    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.conv_context = nn.Conv2d(words, width, 1, bias=False)

    def forward(self, h: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        context = self.conv_context(words.unsqueeze(3)).squeeze(3)  # (B, C, T)
        scores = torch.bmm(h.flatten(2).transpose(1, 2), context)  # (B, Q, T)
        scores = scores.masked_fill(~mask[:, None], -float("inf"))
        weights = torch.softmax(scores, dim=2).transpose(1, 2).contiguous()
        maps = weights.view(len(h), -1, *h.shape[2:])  # (B, T, H, W)
        return torch.bmm(context, weights).view_as(h), maps


class NextStage(nn.Module):
    def __init__(self, width: int, words: int, residuals: int) -> None:
        super().__init__()
        self.att = Attention(width, words)
        self.residual = nn.Sequential(*(Residual(2 * width) for _ in range(residuals)))
        self.upsample = up_block(2 * width, width)

    def forward(self, h: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        context, maps = self.att(h, words, mask)
        return self.upsample(self.residual(torch.cat([h, context], dim=1))), maps


class Generated(NamedTuple):
    images: list[Tensor]
    mean: Tensor
    log_variance: Tensor
    features: list[Tensor]
    maps: list[Tensor]


class Generator(nn.Module):
    """``words`` are ``(B, D, T)`` here; the first image has 64 pixels."""

    def __init__(
        self, width: int, residuals: int, stages: int, text: int = 256, condition: int = 100, z: int = 100
    ) -> None:
        super().__init__()
        self.stages = stages
        self.ca_net = Augmentation(text, condition)
        self.h_net1 = FirstStage(width, z + condition)
        for number in range(2, stages + 1):
            self.add_module(f"h_net{number}", NextStage(width, text, residuals))
        for number in range(1, stages + 1):
            self.add_module(f"img_net{number}", ImageHead(width))

    def forward(self, z: Tensor, epsilon: Tensor, sentence: Tensor, words: Tensor, mask: Tensor) -> Generated:
        c, mean, log_variance = self.ca_net(sentence, epsilon)
        features, seen = [self.h_net1(z, c)], []
        for number in range(2, self.stages + 1):
            h, maps = getattr(self, f"h_net{number}")(features[-1], words, mask)
            features.append(h)
            seen.append(maps)
        images = [getattr(self, f"img_net{i}")(h) for i, h in enumerate(features, start=1)]
        return Generated(images, mean, log_variance, features, seen)


class Logits(nn.Module):
    def __init__(self, width: int, text: int) -> None:
        super().__init__()
        if text:
            self.jointConv = nn.Sequential(
                conv(8 * width + text, 8 * width), nn.BatchNorm2d(8 * width), nn.LeakyReLU(0.2, inplace=True)
            )
        self.outlogits = nn.Sequential(nn.Conv2d(8 * width, 1, 4, 4), nn.Sigmoid())

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            tiled = condition[:, :, None, None].repeat(1, 1, 4, 4)
            features = self.jointConv(torch.cat([features, tiled], dim=1))
        return cast(Tensor, self.outlogits(features)).flatten()


def block(num_in: int, num_out: int, down: bool) -> nn.Sequential:
    return nn.Sequential(
        conv(num_in, num_out, 4, 2, 1) if down else conv(num_in, num_out),
        nn.BatchNorm2d(num_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


class Discriminator(nn.Module):
    def __init__(self, width: int, text: int, image_size: int) -> None:
        super().__init__()
        w = width
        self.img_code_s16 = nn.Sequential(
            conv(3, w, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            *block(w, 2 * w, True),
            *block(2 * w, 4 * w, True),
            *block(4 * w, 8 * w, True),
        )
        self.more: list[str] = []
        if image_size == 128:
            self.img_code_s32 = block(8 * w, 16 * w, True)
            self.img_code_s32_1 = block(16 * w, 8 * w, False)
            self.more = ["img_code_s32", "img_code_s32_1"]
        elif image_size == 256:
            self.img_code_s32 = block(8 * w, 16 * w, True)
            self.img_code_s64 = block(16 * w, 32 * w, True)
            self.img_code_s64_1 = block(32 * w, 16 * w, False)
            self.img_code_s64_2 = block(16 * w, 8 * w, False)
            self.more = ["img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"]
        self.UNCOND_DNET = Logits(w, 0)
        self.COND_DNET = Logits(w, text)

    def forward(self, images: Tensor) -> Tensor:
        x = self.img_code_s16(images)
        for name in self.more:
            x = getattr(self, name)(x)
        return cast(Tensor, x)


class ImageEncoder(Inception):
    """DAMSM's: regions ``(B, D, 17, 17)`` and codes ``(B, D)``."""

    def __init__(self, dim: int = 256) -> None:
        super().__init__(tensorflow=False)
        self.emb_features = nn.Conv2d(768, dim, 1, bias=False)
        self.emb_cnn_code = nn.Linear(2048, dim)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        large = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
        middle, last = self.maps(large)
        return self.emb_features(middle), self.emb_cnn_code(F.avg_pool2d(last, 8).flatten(1))


def both_directions(scores: Tensor) -> Tensor:
    target = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, target) + F.cross_entropy(scores.t(), target)


def word_loss(
    regions: Tensor, words: Tensor, lengths: list[int], gammas: tuple[float, float, float]
) -> Tensor:
    """``words``: ``(B, D, T)``."""
    size, columns = len(regions), []
    for i in range(size):
        word = words[i, :, : lengths[i]].unsqueeze(0).repeat(size, 1, 1)  # (B, D, T)
        context = region_context(word, regions, gammas[0])
        similarity = F.cosine_similarity(word.transpose(1, 2), context.transpose(1, 2), dim=2)  # (B, T)
        columns.append(torch.log(torch.exp(gammas[1] * similarity).sum(dim=1, keepdim=True)))
    return both_directions(gammas[2] * torch.cat(columns, dim=1))


def region_context(word: Tensor, regions: Tensor, gamma: float) -> Tensor:
    """What each word sees of the regions: ``(B, D, T)``."""
    flat = regions.flatten(2)  # (B, D, R)
    scores = torch.bmm(flat.transpose(1, 2), word)  # (B, R, T)
    weights = torch.softmax(scores, dim=2).transpose(1, 2)  # (B, T, R)
    weights = torch.softmax(gamma * weights, dim=2)
    return torch.bmm(flat, weights.transpose(1, 2))


def sentence_loss(codes: Tensor, sentences: Tensor, gamma: float) -> Tensor:
    return both_directions(gamma * F.normalize(codes, dim=1) @ F.normalize(sentences, dim=1).t())


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * torch.mean(1 + log_variance - mean.pow(2) - log_variance.exp())


def plain_adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, learning_rate, (0.5, 0.999), foreach=False, fused=False)


class MovingAverage:
    def __init__(self, module: nn.Module) -> None:
        self.module, self.slow = module, [p.detach().clone() for p in module.parameters()]

    def update(self) -> None:
        for slow, live in zip(self.slow, self.module.parameters(), strict=True):
            slow.mul_(0.999).add_(live.data, alpha=0.001)


class PlainStep:
    """One training step of AttnGAN; those of the systems that build on it say what is theirs.

    Args:
        settings: widths and weights.
        sizes: of the images, small to large.
        device: where.
    """

    def __init__(self, settings: Any, sizes: Sequence[int], device: torch.device) -> None:
        self.settings, self.sizes = settings, sizes
        self.generator = self.make_generator().to(device)
        self.discriminators = [self.make_discriminator(size).to(device) for size in sizes]
        self.image_encoder = ImageEncoder().eval().requires_grad_(False).to(device)
        self.further = self.make_further().to(device)
        self.generator_adam = plain_adam([*self.generator.parameters(), *self.further.parameters()], 2e-4)
        self.discriminator_adams = [plain_adam(d.parameters(), 2e-4) for d in self.discriminators]
        self.average = MovingAverage(self.generator)

    def make_generator(self) -> nn.Module:
        return Generator(self.settings.generator_width, self.settings.residual_blocks, len(self.sizes))

    def make_discriminator(self, size: int) -> Discriminator:
        return Discriminator(self.settings.discriminator_width, 256, size)

    def make_further(self) -> nn.Module:
        """What else the generator's optimizer trains."""
        return nn.Sequential()

    def draw(self, inputs: Inputs) -> Generated:
        z, epsilon = inputs.noise[:, :100], inputs.noise[:, 100:]
        text = inputs.texts[0]
        words = text.words.transpose(1, 2).contiguous()
        return cast(Generated, self.generator(z, epsilon, text.sentence, words, text.mask))

    def generate(self, inputs: Inputs) -> Tensor:
        return self.draw(inputs).images[-1]

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Update everything once; the losses of the discriminators and of the generator."""
        drawn = self.draw(inputs)
        d_total = torch.zeros((), device=inputs.noise.device)
        for d, adam, real, fake in zip(
            self.discriminators, self.discriminator_adams, inputs.images, drawn.images, strict=True
        ):
            d.zero_grad()
            loss = self.discriminator_loss(d, real, fake.detach(), inputs)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            d_total = d_total + loss.detach()
        self.generator_adam.zero_grad()
        loss = self.generator_loss(drawn, inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        self.average.update()
        return d_total, loss.detach()

    def discriminator_loss(self, d: Discriminator, real: Tensor, fake: Tensor, inputs: Inputs) -> Tensor:
        """Real, generated and, where there are some, mismatched, with a caption and without."""
        sentence = inputs.texts[0].sentence
        ones, zeros = real.new_ones(len(real)), real.new_zeros(len(real))
        real_features, fake_features = d(real), d(fake)
        real_u, fake_u = d.UNCOND_DNET(real_features), d.UNCOND_DNET(fake_features)
        real_c, fake_c = d.COND_DNET(real_features, sentence), d.COND_DNET(fake_features, sentence)
        false = [fake_u, fake_c]
        if self.settings.mismatched != "none":
            false.append(d.COND_DNET(real_features, sentence.roll(-1, 0)))
        genuine = (F.binary_cross_entropy(real_u, ones) + F.binary_cross_entropy(real_c, ones)) / 2
        return genuine + torch.stack([F.binary_cross_entropy(p, zeros) for p in false]).mean()

    def generator_loss(self, drawn: Generated, inputs: Inputs) -> Tensor:
        """All discriminators, DAMSM at the largest size, and the Kullback-Leibler divergence."""
        text, total = inputs.texts[0], kl_divergence(drawn.mean, drawn.log_variance)
        for d, fake in zip(self.discriminators, drawn.images, strict=True):
            features, ones = d(fake), fake.new_ones(len(fake))
            judged = F.binary_cross_entropy(d.UNCOND_DNET(features), ones)
            judged = judged + F.binary_cross_entropy(d.COND_DNET(features, text.sentence), ones)
            total = total + self.settings.adversarial_weight * judged
        return total + self.damsm_loss(drawn.images[-1], text)

    def damsm_loss(self, images: Tensor, text: Text) -> Tensor | float:
        if self.settings.damsm_weight == 0:
            return 0.0
        regions, code = self.image_encoder.encode(images)
        words = text.words.transpose(1, 2).contiguous()
        loss = word_loss(regions, words, text.mask.sum(dim=1).tolist(), (4.0, 5.0, 10.0))
        return self.settings.damsm_weight * (loss + sentence_loss(code, text.sentence, 10.0))
