"""Layout refinement: what ALR-GAN adds to a generator whose stages attend to words.

Tan, Yin, Wei, Liu, Li, "ALR-GAN: Adaptive Layout Refinement for Text-to-Image Synthesis", IEEE TMM 2023
(arXiv 2304.06297). Real images pass through the generator's own stages: an encoder E_i brings each to the
features H* that the stage before would have, the stage attends to the words from there (Theta*), makes
features of the image's size, and its head draws the image again, held to the real one by L_REC. Then
generated images are drawn towards real ones in what belongs to which word (L_ALR), and in what is drawn there
(L_LVR). Nothing of this is needed to generate.

The paper has no code and leaves much open. Ours: H* is at the side of H_{i-1}, and both Theta* and H* are
targets and get no gradient from L_ALR and L_LVR; weights see their residuals as constants; their mean is held
at 1; running statistics are those of generated images alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.blocks import orthogonal
from ganvas.layers.layout import AdaptiveWeights, RealEncoder, held_statistics
from ganvas.losses.layout import (
    Norm,
    Residuals,
    Weights,
    adaptive_layout_loss,
    layout_mask,
    layout_residuals,
    layout_visual_losses,
    normalised_weights,
    on_channels,
)
from ganvas.systems.base import Losses
from ganvas.text.encoder import Text

if TYPE_CHECKING:
    from ganvas.systems.attngan import AttentionalStage, Generated, Generator


@dataclass(frozen=True, kw_only=True)
class LayoutSettings:
    """Which layout losses a generator is trained with. By default none; ALR-GAN has both."""

    alr_weight: float = 0.0
    """Weight of L_ALR; 1 in ALR-GAN [paper]. 0 leaves it out, with its weights."""
    lvr_weight: float = 0.0
    """Weight of L_LVR; 1 in ALR-GAN [paper]. Without both, no real image passes through the generator."""
    reconstruction_weight: float = 1.0
    """lambda_1: weight of L_REC, a mean over numbers; the paper's value is not known [inferred]."""
    gamma: float = 0.1
    """From this residual on, a word in a region is hard; the paper's value is not known [inferred]."""
    weights: Literal["normalised", "free", "none"] = "normalised"
    """alpha and beta: positive with a mean of 1 over all residuals of an image (ours); as the convolutions
    give them, positive, which can all vanish [inferred]; or 1, for the ablation."""
    weight_floor: float = 0.1
    """No normalised weight is below this (ours)."""
    pr_weight: float = 1.0
    """Weight of perception refinement within L_LVR [paper]."""
    sr_weight: float = 1.0
    """Weight of style refinement within L_LVR [paper]."""
    mask: Literal["range", "threshold", "whole"] = "range"
    """Where L_LVR compares: each place as much as its surest word, between the least and the most sure place
    of its image; the upper half of that range alone; or everywhere [inferred]."""
    norm: Norm = "published"
    """``published`` divides Frobenius norms by N D [paper]; then losses are as small as features are many.
    ``root-mean-square`` divides by the root of it, and leaves the third part of L_ALR whole (ours)."""
    detached: bool = True
    """Real images are targets only; L_REC alone trains what they pass through [inferred]. Otherwise L_ALR and
    L_LVR draw both sides towards each other."""
    share: float = 1.0
    """Part of each batch, above 0, whose images are compared; real images cost as much as the generator does
    (ours)."""

    def __post_init__(self) -> None:
        for name in ("alr_weight", "lvr_weight", "reconstruction_weight", "gamma", "pr_weight", "sr_weight"):
            if getattr(self, name) < 0:
                raise GanvasError(f"{name}={getattr(self, name)} of layout: should not be below 0")
        if not 0 <= self.weight_floor < 1:
            raise GanvasError(f"weight_floor={self.weight_floor} of layout: should be from 0 to below 1")
        if not 0 < self.share <= 1:
            raise GanvasError(f"share={self.share} of layout: should be above 0 and at most 1")
        if self.lvr_weight > 0 and self.pr_weight == self.sr_weight == 0:
            raise GanvasError("pr_weight and sr_weight of layout are both 0; set lvr_weight=0 instead")

    @property
    def is_on(self) -> bool:
        """Whether there is anything to refine."""
        return self.alr_weight > 0 or self.lvr_weight > 0


class RealPath(NamedTuple):
    """A real image on its way through stage i, ``(B, ...)``."""

    before: Tensor
    """H*_{i-1}, ``(B, D, S, S)``: what the stage reads."""
    layout: Tensor
    """Theta*, ``(B, T, S, S)``."""
    features: Tensor
    """H*_i, ``(B, D, 2S, 2S)``."""


class LayoutRefinement(nn.Module):
    """For every stage that attends: an encoder of real images, and alpha and beta. Empty where it is off.

    Args:
        settings: of layout refinement.
        width: D, channels of the generator's features.
        num_stages: of those that attend.
    """

    def __init__(self, settings: LayoutSettings, width: int, num_stages: int) -> None:
        super().__init__()
        self.settings = settings
        num = num_stages if settings.is_on else 0
        weighed = num if settings.alr_weight > 0 and settings.weights != "none" else 0
        self.encoders = nn.ModuleList(RealEncoder(width) for _ in range(num))
        self.alpha = nn.ModuleList(AdaptiveWeights(width) for _ in range(weighed))
        self.beta = nn.ModuleList(AdaptiveWeights(width) for _ in range(weighed))
        self.apply(orthogonal)

    def loss(self, generator: Generator, drawn: Generated, images: Sequence[Tensor], text: Text) -> Losses:
        """``sum_i w_ALR L_ALR + lambda_1 L_REC + w_LVR L_LVR`` over the stages that attend.

        Args:
            generator: whose stages real images pass through.
            drawn: what it made of the captions: H_i ``(B, D, S_i, S_i)`` of all stages, and Theta.
            images: the real ones at the sizes of all stages, ``(B, 3, S_i, S_i)``.
            text: their captions, as the generator reads them.
        """
        terms: dict[str, Tensor] = {}
        rows = ceil(self.settings.share * len(images[-1]))
        text = Text(*(part[:rows] for part in text))
        total = images[-1].new_zeros((), dtype=torch.float32)
        for i, (stage, head) in enumerate(_pairs(generator) if self.encoders else []):
            of_stage = (drawn.layouts[i], drawn.features[i + 1], images[i + 1])
            layout, features, image = (x[:rows] for x in of_stage)
            with held_statistics(generator):
                real = self._real_path(i, stage, image, text)
                again = head(real.features)
            found = {"rec": (again.float() - image).abs().mean()}
            if self.settings.detached:
                real = RealPath(*(part.detach() for part in real))
            found |= self._alr(i, layout, real, text.mask) | self._lvr(layout, features, real)
            total = total + self._weighted(found)
            terms |= {f"{name}_{image.shape[-1]}": value for name, value in found.items()}
        return Losses(total, terms)

    def layout(self, generator: Generator, images: Tensor, text: Text) -> list[Tensor]:
        """Theta* of every stage that attends, for real images at full size: ``(B, T, H, W)``, small to large,
        each at half the side of its image; they sum to 1 over words.
        """
        found = []
        for i, (stage, _) in enumerate(_pairs(generator)):
            side = images.shape[-1] >> (len(self.encoders) - 1 - i)
            image = F.interpolate(images, size=side, mode="area")
            before = self.encoders[i](image)
            found.append(over_words(stage.attention(before, text.words, text.mask).weights))
        return found

    def _real_path(self, i: int, stage: AttentionalStage, image: Tensor, text: Text) -> RealPath:
        before = self.encoders[i](image)
        features, layout = stage(before, text.words, text.mask)
        return RealPath(before, layout, features)

    def _alr(self, i: int, layout: Tensor, real: RealPath, mask: Tensor) -> dict[str, Tensor]:
        """The parts of L_ALR."""
        s = self.settings
        if s.alr_weight == 0:
            return {}
        residuals = layout_residuals(layout, real.layout, s.gamma)
        weights = self._weights(i, residuals, real.before, mask) if self.alpha else None
        loss = adaptive_layout_loss(residuals, weights, real.before.shape[1], norm=s.norm)
        parts = {"alr_easy": loss.easy, "alr_hard": loss.hard}
        return parts | ({"alr_order": loss.order} if weights else {})

    def _weights(self, i: int, residuals: Residuals, before: Tensor, mask: Tensor) -> Weights:
        """The weights of both, ``(B, D, S, S)``."""
        shown = [on_channels(part, before.shape[1]) * before for part in (residuals.easy, residuals.hard)]
        easy, hard = (part.detach() for part in shown)
        raw = Weights(self.alpha[i](easy), self.beta[i](hard))
        if self.settings.weights == "free":
            return raw
        return normalised_weights(raw, residuals, mask, floor=self.settings.weight_floor)

    def _lvr(self, layout: Tensor, features: Tensor, real: RealPath) -> dict[str, Tensor]:
        """The parts of L_LVR."""
        s = self.settings
        if s.lvr_weight == 0:
            return {}
        masks = layout_mask(layout, s.mask), layout_mask(real.layout, s.mask)
        loss = layout_visual_losses(features, masks[0], real.features, masks[1], norm=s.norm)
        weighed = {"lvr_texture": (loss.texture, s.pr_weight), "lvr_style": (loss.style, s.sr_weight)}
        return {name: value for name, (value, weight) in weighed.items() if weight > 0}

    def _weighted(self, found: dict[str, Tensor]) -> Tensor:
        s = self.settings
        of_lvr = {"lvr_texture": s.lvr_weight * s.pr_weight, "lvr_style": s.lvr_weight * s.sr_weight}
        weights = {"rec": s.reconstruction_weight, **of_lvr}
        return torch.stack([weights.get(name, s.alr_weight) * value for name, value in found.items()]).sum()


def over_words(layout: Tensor) -> Tensor:
    """A layout ``(B, T, H, W)`` as weights that sum to 1 over words in every place, for showing it."""
    return layout / layout.sum(dim=1, keepdim=True).clamp(min=torch.finfo(layout.dtype).tiny)


def _pairs(generator: Generator) -> list[tuple[AttentionalStage, nn.Module]]:
    """Every stage that attends, with the head that draws its image."""
    return list(zip(generator.further, list(generator.heads)[1:], strict=True))  # type: ignore[arg-type]
