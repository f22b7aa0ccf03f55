"""ALR-GAN written plainly, on ``plain_attngan.py``: the other side of ``benchmarks/newest.py alr-gan``.

Real images go through the generator's stages, whose attention maps are those that the forward passes give
anyway. Names of the encoders and of alpha and beta are ours, so that both sides get the same weights.
"""

# ruff: noqa: D101, D102 - what a class is, its name says; methods are steps of the paper

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from inputs import Inputs
from plain_attngan import Generated, Glu, PlainStep, conv
from torch import Tensor, nn


def real_encoder(width: int) -> nn.Sequential:
    joining = (nn.Sequential(conv(width, 2 * width), nn.BatchNorm2d(2 * width), Glu()) for _ in range(2))
    return nn.Sequential(nn.Sequential(conv(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)), *joining)


class AdaptiveWeights(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width // 2, 3, 1, 1)
        self.outer = nn.Conv2d(width // 2, width, 3, 1, 1)

    def forward(self, residuals: Tensor) -> Tensor:
        return F.softplus(self.outer(F.leaky_relu(self.inner(residuals), 0.2)))


class Refinement(nn.Module):
    def __init__(self, width: int, num_stages: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(real_encoder(width) for _ in range(num_stages))
        self.alpha = nn.ModuleList(AdaptiveWeights(width) for _ in range(num_stages))
        self.beta = nn.ModuleList(AdaptiveWeights(width) for _ in range(num_stages))


def on_channels(maps: Tensor, channels: int) -> Tensor:
    """``(B, T, H, W)`` to ``(B, D, H, W)``."""
    return F.pad(maps, (0, 0, 0, 0, 0, channels - maps.shape[1]))


def size(x: Tensor) -> Tensor:
    """The Frobenius norm over its numbers, a mean over the batch."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).mean() / x[0].numel()


def normalised(
    alpha: Tensor, beta: Tensor, is_hard: Tensor, mask: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    real = mask[:, :, None, None]
    easy = on_channels((~is_hard & real).float(), alpha.shape[1])
    hard = on_channels((is_hard & real).float(), alpha.shape[1])
    count = (easy + hard).sum(dim=(1, 2, 3), keepdim=True)
    mean = (alpha * easy + beta * hard).sum(dim=(1, 2, 3), keepdim=True) / count
    return floor + (1 - floor) * alpha / mean, floor + (1 - floor) * beta / mean


def mask_of(layout: Tensor) -> Tensor:
    surest = layout.detach().max(dim=1, keepdim=True).values
    low, high = surest.amin(dim=(2, 3), keepdim=True), surest.amax(dim=(2, 3), keepdim=True)
    return (surest - low) / (high - low)


def gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]


class PlainAlrStep(PlainStep):
    further: Refinement

    def make_further(self) -> Refinement:
        return Refinement(self.settings.generator_width, len(self.sizes) - 1)

    def generator_loss(self, drawn: Generated, inputs: Inputs) -> Tensor:
        total = super().generator_loss(drawn, inputs)
        for number in range(len(self.sizes) - 1):
            total = total + self.refinement_loss(number, drawn, inputs)
        return total

    def refinement_loss(self, number: int, drawn: Generated, inputs: Inputs) -> Tensor:
        """L_ALR + lambda_1 L_REC + L_LVR of one stage that attends."""
        text, image = inputs.texts[0], inputs.images[number + 1]
        words = text.words.transpose(1, 2).contiguous()
        before = self.further.encoders[number](image)
        after, layout = getattr(self.generator, f"h_net{number + 2}")(before, words, text.mask)
        again = getattr(self.generator, f"img_net{number + 2}")(after)
        before, after, layout = before.detach(), after.detach(), layout.detach()
        s: Any = self.settings.layout
        loss = s.reconstruction_weight * F.l1_loss(again, image)
        loss = loss + s.alr_weight * self.alr_loss(number, drawn.maps[number], layout, before, text.mask)
        return loss + s.lvr_weight * self.lvr_loss(
            drawn.features[number + 1], drawn.maps[number], after, layout
        )

    def alr_loss(self, number: int, layout: Tensor, real: Tensor, before: Tensor, mask: Tensor) -> Tensor:
        residual, channels = torch.abs(real - layout), before.shape[1]
        is_hard = residual >= self.settings.layout.gamma
        easy = on_channels(torch.where(is_hard, 0.0, residual), channels)
        hard = on_channels(torch.where(is_hard, residual, 0.0), channels)
        alpha = cast(Tensor, self.further.alpha[number](easy.detach() * before))
        beta = cast(Tensor, self.further.beta[number](hard.detach() * before))
        alpha, beta = normalised(alpha, beta, is_hard, mask, self.settings.layout.weight_floor)
        order = F.softplus(alpha.amax(dim=(1, 2, 3)) - beta.amin(dim=(1, 2, 3))).mean() / before[0].numel()
        return size(alpha * easy) + size(beta * hard) + order

    def lvr_loss(self, features: Tensor, layout: Tensor, real: Tensor, real_layout: Tensor) -> Tensor:
        mask, real_mask = mask_of(layout), mask_of(real_layout)
        ours = features * F.interpolate(mask, scale_factor=2.0, mode="nearest")
        theirs = real * F.interpolate(real_mask, scale_factor=2.0, mode="nearest")
        difference = (gram(ours) - gram(theirs)) / ours.shape[1]
        lengths = torch.linalg.vector_norm(difference.flatten(1), dim=1)
        s = self.settings.layout
        return s.pr_weight * size(ours - theirs) + s.sr_weight * lengths.mean() / ours[0].numel()
