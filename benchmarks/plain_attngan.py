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

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.inception import Inception


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

    def forward(self, h: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        context = self.conv_context(words.unsqueeze(3)).squeeze(3)  # (B, C, T)
        scores = torch.bmm(h.flatten(2).transpose(1, 2), context)  # (B, Q, T)
        scores = scores.masked_fill(~mask[:, None], -float("inf"))
        weights = torch.softmax(scores, dim=2).transpose(1, 2).contiguous()
        return torch.bmm(context, weights).view_as(h)


class NextStage(nn.Module):
    def __init__(self, width: int, words: int, residuals: int) -> None:
        super().__init__()
        self.att = Attention(width, words)
        self.residual = nn.Sequential(*(Residual(2 * width) for _ in range(residuals)))
        self.upsample = up_block(2 * width, width)

    def forward(self, h: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        joined = torch.cat([h, self.att(h, words, mask)], dim=1)
        return cast(Tensor, self.upsample(self.residual(joined)))


class Generator(nn.Module):
    """``words`` are ``(B, D, T)`` here."""

    def __init__(
        self, width: int = 32, text: int = 256, condition: int = 100, z: int = 100, r: int = 2
    ) -> None:
        super().__init__()
        self.ca_net = Augmentation(text, condition)
        self.h_net1 = FirstStage(width, z + condition)
        self.h_net2 = NextStage(width, text, r)
        self.h_net3 = NextStage(width, text, r)
        self.img_net1, self.img_net2, self.img_net3 = (ImageHead(width) for _ in range(3))

    def forward(
        self, z: Tensor, epsilon: Tensor, sentence: Tensor, words: Tensor, mask: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        c, mean, log_variance = self.ca_net(sentence, epsilon)
        h1 = self.h_net1(z, c)
        h2 = self.h_net2(h1, words, mask)
        h3 = self.h_net3(h2, words, mask)
        return [self.img_net1(h1), self.img_net2(h2), self.img_net3(h3)], mean, log_variance


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


def word_loss(
    regions: Tensor, words: Tensor, lengths: list[int], gammas: tuple[float, float, float]
) -> Tensor:
    """Both directions. ``words``: ``(B, D, T)``."""
    size, columns = len(regions), []
    for i in range(size):
        word = words[i, :, : lengths[i]].unsqueeze(0).repeat(size, 1, 1)  # (B, D, T)
        context = region_context(word, regions, gammas[0])
        similarity = F.cosine_similarity(word.transpose(1, 2), context.transpose(1, 2), dim=2)  # (B, T)
        columns.append(torch.log(torch.exp(gammas[1] * similarity).sum(dim=1, keepdim=True)))
    scores = gammas[2] * torch.cat(columns, dim=1)
    target = torch.arange(size, device=words.device)
    return F.cross_entropy(scores, target) + F.cross_entropy(scores.t(), target)


def region_context(word: Tensor, regions: Tensor, gamma: float) -> Tensor:
    """What each word sees of the regions: ``(B, D, T)``."""
    flat = regions.flatten(2)  # (B, D, R)
    scores = torch.bmm(flat.transpose(1, 2), word)  # (B, R, T)
    weights = torch.softmax(scores, dim=2).transpose(1, 2)  # (B, T, R)
    weights = torch.softmax(gamma * weights, dim=2)
    return torch.bmm(flat, weights.transpose(1, 2))


def sentence_loss(codes: Tensor, sentences: Tensor, gamma: float) -> Tensor:
    scores = gamma * F.normalize(codes, dim=1) @ F.normalize(sentences, dim=1).t()
    target = torch.arange(len(codes), device=codes.device)
    return F.cross_entropy(scores, target) + F.cross_entropy(scores.t(), target)


class PlainStep:
    """One training step with bird settings.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self.damsm_weight, self.gammas = 5.0, (4.0, 5.0, 10.0)
        self.generator = Generator().to(device)
        self.discriminators = [Discriminator(64, 256, size).to(device) for size in (64, 128, 256)]
        self.image_encoder = ImageEncoder().eval().requires_grad_(False).to(device)
        options: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "foreach": False, "fused": False}
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), **options)
        self.discriminator_adams = [torch.optim.Adam(d.parameters(), **options) for d in self.discriminators]
        self.average = [p.detach().clone() for p in self.generator.parameters()]

    def __call__(
        self, images: list[Tensor], sentence: Tensor, words: Tensor, mask: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update everything once.

        Args:
            images: three sizes, small to large.
            sentence: ``(B, D)``.
            words: ``(B, D, T)``.
            mask: ``(B, T)``.
            noise: ``(B, Z + C)``.

        Returns:
            The losses of the discriminators and of the generator.
        """
        z, epsilon = noise[:, :100], noise[:, 100:]
        fakes, mean, log_variance = self.generator(z, epsilon, sentence, words, mask)
        d_total = torch.zeros((), device=noise.device)
        for d, adam, real, fake in zip(
            self.discriminators, self.discriminator_adams, images, fakes, strict=True
        ):
            d.zero_grad()
            loss = self.discriminator_loss(d, real, fake.detach(), sentence)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            d_total = d_total + loss.detach()
        self.generator.zero_grad()
        loss = self.generator_loss(fakes, mean, log_variance, sentence, words, mask)
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        for slow, live in zip(self.average, self.generator.parameters(), strict=True):
            slow.mul_(0.999).add_(live.data, alpha=0.001)
        return d_total, loss.detach()

    def discriminator_loss(self, d: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
        """Real, generated and mismatched, with a caption and without."""
        ones, zeros = real.new_ones(len(real)), real.new_zeros(len(real))
        real_features, fake_features = d(real), d(fake)
        real_u, fake_u = d.UNCOND_DNET(real_features), d.UNCOND_DNET(fake_features)
        real_c, fake_c = d.COND_DNET(real_features, sentence), d.COND_DNET(fake_features, sentence)
        wrong_c = d.COND_DNET(real_features, sentence.roll(-1, 0))
        genuine = (F.binary_cross_entropy(real_u, ones) + F.binary_cross_entropy(real_c, ones)) / 2
        false = sum(F.binary_cross_entropy(p, zeros) for p in (fake_u, fake_c, wrong_c))
        return genuine + cast(Tensor, false) / 3

    def generator_loss(
        self,
        fakes: list[Tensor],
        mean: Tensor,
        log_variance: Tensor,
        sentence: Tensor,
        words: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Three discriminators, DAMSM at the largest size, and the Kullback-Leibler divergence."""
        total = -0.5 * torch.mean(1 + log_variance - mean.pow(2) - log_variance.exp())
        for d, fake in zip(self.discriminators, fakes, strict=True):
            features, ones = d(fake), fake.new_ones(len(fake))
            total = total + F.binary_cross_entropy(d.UNCOND_DNET(features), ones)
            total = total + F.binary_cross_entropy(d.COND_DNET(features, sentence), ones)
        regions, code = self.image_encoder.encode(fakes[-1])
        damsm = word_loss(regions, words, mask.sum(dim=1).tolist(), self.gammas)
        damsm = damsm + sentence_loss(code, sentence, self.gammas[2])
        return total + self.damsm_weight * damsm
