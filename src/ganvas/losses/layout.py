"""Layouts of generated images drawn towards those of real ones: the losses of ALR-GAN.

Tan et al., "ALR-GAN: Adaptive Layout Refinement for Text-to-Image Synthesis", IEEE TMM 2023. A layout Theta
says how far each sub-region of an image belongs to each word of its caption. ``adaptive_layout_loss``
compares the layouts of a generated and of a real image of the same caption, word by region, and weighs easy
and hard differences apart. ``layout_visual_losses`` compare what is drawn within both layouts: its texture
(PR) and its style (SR).

All are means over the batch, computed in float32 at least, under autocast too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Literal["published", "root-mean-square"]
"""Of a D x N matrix: its Frobenius norm over N D, as in the paper, or over the root of N D. The first shrinks
with the size of the matrix."""

_FLAT = 1e-6  # a layout whose words are as sure of every place differs by less


class Residuals(NamedTuple):
    """R = |Theta* - Theta| in two parts, whose supports are disjoint and which sum to R."""

    easy: Tensor
    """``(B, T, H, W)``: R where it is below gamma, else 0."""
    hard: Tensor
    """R where it is not, else 0."""
    is_hard: Tensor
    """``(B, T, H, W)``: which; bool."""


class AdaptiveLayoutLoss(NamedTuple):
    """L_ALR is the sum of its three parts."""

    easy: Tensor
    """``|alpha * R_easy|``"""
    hard: Tensor
    """``|beta * R_hard|``"""
    order: Tensor
    """``|softplus(max alpha - min beta)|``, which keeps beta above alpha."""


class LayoutVisualLosses(NamedTuple):
    """L_LVR is the sum of both."""

    texture: Tensor
    """L_PR, of perception refinement."""
    style: Tensor
    """L_SR, of style refinement."""


class Weights(NamedTuple):
    """What residuals are multiplied with."""

    alpha: Tensor
    """``(B, D, H, W)``: of easy ones."""
    beta: Tensor
    """Of hard ones."""


def layout_residuals(layout: Tensor, real: Tensor, gamma: float) -> Residuals:
    """What two layouts of the same caption differ by, split at ``gamma``.

    Args:
        layout: Theta, ``(B, T, H, W)``.
        real: Theta*, likewise.
        gamma: from this residual on it is hard; 0 makes all hard, more than 1 all easy.
    """
    residual = (_wide(real) - _wide(layout)).abs()
    is_hard = residual >= gamma
    return Residuals(residual.masked_fill(is_hard, 0), residual.masked_fill(~is_hard, 0), is_hard)


def on_channels(maps: Tensor, channels: int) -> Tensor:
    """Maps of words laid on the channels of features, zeros on the channels that are left.

    Word t lies on channel t, as in the paper. Where there are more words than channels, those beyond begin
    anew with the first channel and are added.

    Args:
        maps: ``(B, T, H, W)``.
        channels: D.

    Returns:
        ``(B, D, H, W)``.
    """
    rounds = -(-maps.shape[1] // channels)
    padded = F.pad(maps, (0, 0, 0, 0, 0, rounds * channels - maps.shape[1]))
    return padded.reshape(len(maps), rounds, channels, *maps.shape[2:]).sum(dim=1)


def normalised_weights(raw: Weights, residuals: Residuals, mask: Tensor, *, floor: float) -> Weights:
    """Weights whose mean over all residuals of an image is 1, and none of which vanishes.

    ``w = floor + (1 - floor) raw / mean(raw)``. Without this, all residuals weigh nothing at the loss's
    minimum, whatever the layouts are: with it the weights can only be shifted from some residuals to others,
    and L_ALR is at least ``floor`` times what it is without weights.

    Args:
        raw: positive.
        residuals: of words and regions.
        mask: ``(B, T)``, True on real words; at least one in each row.
        floor: f, from 0 to below 1.
    """
    alpha, beta = _wide(raw.alpha), _wide(raw.beta)
    real = mask[:, :, None, None]
    easy, hard = (on_channels((part & real).to(alpha.dtype), alpha.shape[1]) for part in _parts(residuals))
    weight = (alpha * easy + beta * hard).sum(dim=(1, 2, 3), keepdim=True)
    mean = weight / (easy + hard).sum(dim=(1, 2, 3), keepdim=True)
    scale = (1 - floor) / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    return Weights(floor + scale * alpha, floor + scale * beta)


def _parts(residuals: Residuals) -> tuple[Tensor, Tensor]:
    return ~residuals.is_hard, residuals.is_hard


def adaptive_layout_loss(
    residuals: Residuals, weights: Weights | None, channels: int, *, norm: Norm = "published"
) -> AdaptiveLayoutLoss:
    """L_ALR: ``1 / (N D) (|alpha R_easy|_F + |beta R_hard|_F + |softplus(max alpha - min beta)|_F)``.

    Args:
        residuals: of T words and N = H W regions.
        weights: alpha and beta; None weighs all residuals with 1, and has no order to keep.
        channels: D.
        norm: of the first two; with the mean square, the third is not divided either.
    """
    easy, hard = (on_channels(part, channels) for part in (residuals.easy, residuals.hard))
    if weights is None:
        return AdaptiveLayoutLoss(_size(easy, norm), _size(hard, norm), easy.new_zeros(()))
    alpha, beta = _wide(weights.alpha), _wide(weights.beta)
    order = F.softplus(alpha.flatten(1).amax(dim=1) - beta.flatten(1).amin(dim=1)).mean()
    if norm == "published":
        order = order / easy[0].numel()
    return AdaptiveLayoutLoss(_size(alpha * easy, norm), _size(beta * hard, norm), order)


def layout_mask(layout: Tensor, form: Literal["range", "threshold", "whole"] = "range") -> Tensor:
    """``(B, 1, H, W)``: the places that belong to some word, from a layout ``(B, T, H, W)``. It is a
    constant: it says where to compare.

    A place counts as its surest word does. ``range`` brings these numbers to [0, 1] within each image;
    ``threshold`` gives 1 to those in the upper half of that range; ``whole`` gives 1 everywhere. So do the
    others where all places are as sure, as with a caption of one word.
    """
    surest = _wide(layout.detach()).amax(dim=1, keepdim=True)
    if form == "whole":
        return torch.ones_like(surest)
    low, high = surest.amin(dim=(2, 3), keepdim=True), surest.amax(dim=(2, 3), keepdim=True)
    mask = (surest - low) / (high - low).clamp(min=_FLAT)
    if form == "threshold":
        mask = (mask >= 0.5).to(mask.dtype)
    return torch.where(high - low > _FLAT, mask, 1)


def layout_visual_losses(
    features: Tensor, mask: Tensor, real: Tensor, real_mask: Tensor, *, norm: Norm = "published"
) -> LayoutVisualLosses:
    """L_PR and L_SR: what is drawn within both layouts, place by place, and as a Gram matrix of channels.

    Args:
        features: H of the generated image, ``(B, D, H, W)``.
        mask: where its layout has words, ``(B, 1, h, w)``; brought to H x W.
        real: H*, of the real one.
        real_mask: of its layout.
        norm: of the differences, ``(D, N)`` and ``(D, D)``. The published one divides both by N D, and the
            Gram matrices too [inferred]; with the mean square, these are mean products.
    """
    with torch.autocast(features.device.type, enabled=False):
        ours, theirs = _within(features, mask), _within(real, real_mask)
        texture = _size(ours - theirs, norm)
        difference = _gram(ours) - _gram(theirs)  # (B, D, D), means over places
        if norm == "published":
            numbers = ours[0].numel()
            lengths = torch.linalg.vector_norm(difference.flatten(1), dim=1) / ours.shape[1]
            return LayoutVisualLosses(texture, lengths.mean() / numbers)
        return LayoutVisualLosses(texture, _size(difference, norm))


def _within(features: Tensor, mask: Tensor) -> Tensor:
    """Features times the mask of the places that count."""
    return _wide(features) * F.interpolate(mask, size=features.shape[2:], mode="nearest")


def _gram(features: Tensor) -> Tensor:
    """``(B, D, D)``: mean products of channels."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _size(x: Tensor, norm: Norm) -> Tensor:
    """The norm of each of a batch, and their mean; its gradient at zero is zero."""
    numbers = x[0].numel()
    lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return lengths.mean() / (numbers if norm == "published" else numbers**0.5)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
