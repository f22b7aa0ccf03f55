"""The losses of ALR-GAN against closed forms."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ganvas.losses.layout import (
    Norm,
    Weights,
    adaptive_layout_loss,
    layout_mask,
    layout_residuals,
    layout_visual_losses,
    normalised_weights,
    on_channels,
)

NORMS: list[Norm] = list(get_args(Norm))
FORMS: list[Any] = ["range", "threshold", "whole"]
B, T, D, H, W = 2, 3, 5, 4, 6


def layouts(dtype: torch.dtype = torch.float32, words: int = T) -> tuple[Tensor, Tensor, Tensor]:
    """Theta, Theta* ``(2, T, 4, 6)`` and their mask: all words, and one less."""
    random = torch.Generator().manual_seed(0)
    mask = torch.arange(words) < torch.tensor([words, max(1, words - 1)])[:, None]
    scores = 2 * torch.randn(2, B, words, H, W, generator=random, dtype=dtype)
    theta, real = scores.masked_fill(~mask[:, :, None, None], -torch.inf).softmax(dim=2)
    return theta, real, mask


def weights(dtype: torch.dtype = torch.float32) -> Weights:
    random = torch.Generator().manual_seed(1)
    alpha, beta = torch.rand(2, B, D, H, W, generator=random, dtype=dtype) + 0.1
    return Weights(alpha, beta)


def total(losses: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(losses)).sum()


@given(gamma=st.floats(0, 1.5))
def test_easy_and_hard_have_disjoint_supports_and_sum_to_the_residual(gamma: float) -> None:
    theta, real, _ = layouts()
    easy, hard, is_hard = layout_residuals(theta, real, gamma)
    assert torch.equal(easy + hard, (real - theta).abs())
    assert not (easy * hard).any()
    assert (hard[is_hard] >= torch.tensor(gamma)).all() and not hard[~is_hard].any()
    assert (easy[~is_hard] < torch.tensor(gamma)).all()


def test_gamma_of_zero_makes_all_hard_and_above_one_all_easy() -> None:
    theta, real, _ = layouts()
    assert not layout_residuals(theta, real, 0.0).easy.any()
    assert not layout_residuals(theta, real, 1.01).hard.any()


def test_words_lie_on_the_first_channels_and_the_others_stay_empty() -> None:
    maps = torch.randn(B, T, H, W)
    laid = on_channels(maps, D)
    assert torch.equal(laid[:, :T], maps) and not laid[:, T:].any()


def test_more_words_than_channels_begin_anew_and_none_is_lost() -> None:
    maps = torch.randn(B, 7, H, W)
    laid = on_channels(maps, 3)
    assert laid.shape == (B, 3, H, W)
    assert torch.allclose(laid[:, 0], maps[:, 0] + maps[:, 3] + maps[:, 6])
    assert torch.allclose(laid[:, 2], maps[:, 2] + maps[:, 5])


@pytest.mark.parametrize(
    ("alpha", "beta", "softplus"), [(0.4, 0.4, log(2)), (0.5, 1.5, 0.313262), (2.0, 1.0, 1.313262)]
)
@pytest.mark.parametrize("norm", NORMS)
def test_equal_layouts_cost_the_order_of_the_weights_alone(
    alpha: float, beta: float, softplus: float, norm: Norm
) -> None:
    theta, _, _ = layouts()
    residuals = layout_residuals(theta, theta, 0.1)
    flat = Weights(torch.full((B, D, H, W), alpha), torch.full((B, D, H, W), beta))
    loss = adaptive_layout_loss(residuals, flat, D, norm=norm)
    assert loss.easy == 0 and loss.hard == 0
    divisor = H * W * D if norm == "published" else 1
    assert loss.order.item() == pytest.approx(softplus / divisor, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_adaptive_loss_is_its_formula(norm: Norm) -> None:
    theta, real, _ = layouts()
    alpha, beta = weights()
    residuals = layout_residuals(theta, real, 0.2)
    loss = adaptive_layout_loss(residuals, Weights(alpha, beta), D, norm=norm)
    easy = hard = order = 0.0
    for b in range(B):
        r = torch.zeros(D, H, W)
        r[:T] = (real[b] - theta[b]).abs()
        easy += (alpha[b] * r * (r < 0.2)).square().sum().sqrt().item() / B
        hard += (beta[b] * r * (r >= 0.2)).square().sum().sqrt().item() / B
        order += (1 + (alpha[b].max() - beta[b].min()).exp()).log().item() / B
    n_d = H * W * D
    by = n_d if norm == "published" else sqrt(n_d)
    assert [x.item() for x in loss] == pytest.approx(
        [easy / by, hard / by, order / (n_d if norm == "published" else 1)], rel=1e-5
    )
    plain = adaptive_layout_loss(residuals, None, D, norm=norm)
    ones = adaptive_layout_loss(
        residuals, Weights(torch.ones_like(alpha), torch.ones_like(beta)), D, norm=norm
    )
    assert torch.equal(plain.easy, ones.easy) and torch.equal(plain.hard, ones.hard) and plain.order == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 50.0])
@pytest.mark.parametrize("words", [2, 9])
def test_normalised_weights_have_a_mean_of_one_over_residuals_of_real_words(scale: float, words: int) -> None:
    theta, real, mask = layouts(words=words)
    residuals = layout_residuals(theta, real, 0.2)
    raw = weights()
    alpha, beta = normalised_weights(Weights(scale * raw.alpha, scale * raw.beta), residuals, mask, floor=0.1)
    for b in range(B):
        weighed = [
            (beta if residuals.is_hard[b, t, y, x] else alpha)[b, t % D, y, x]
            for t in range(words)
            for y in range(H)
            for x in range(W)
            if mask[b, t]
        ]
        assert torch.stack(weighed).mean().item() == pytest.approx(1, rel=1e-4)
    assert min(alpha.min(), beta.min()) >= 0.1


def test_without_normalising_weights_can_make_the_loss_vanish_and_with_it_they_cannot() -> None:
    """Weights are all that is trained: the layouts stay as far apart as they are."""
    theta, real, mask = layouts()
    residuals = layout_residuals(theta, real, 0.2)
    unweighted = adaptive_layout_loss(residuals, None, D, norm="root-mean-square")
    ends = {}
    for normalised in (False, True):
        raw = [x.log().requires_grad_() for x in weights()]
        optimizer = torch.optim.Adam(raw, lr=0.1)
        for _ in range(200):
            positive = Weights(*(x.exp() for x in raw))
            w = normalised_weights(positive, residuals, mask, floor=0.1) if normalised else positive
            loss = adaptive_layout_loss(residuals, w, D, norm="root-mean-square")
            optimizer.zero_grad()
            total(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ends[normalised] = (loss.easy + loss.hard).item()
    floor = 0.1 * (unweighted.easy + unweighted.hard).item()
    assert ends[True] >= floor and ends[True] > 3 * ends[False]


def test_training_alone_brings_beta_above_alpha() -> None:
    theta, real, mask = layouts()
    residuals = layout_residuals(theta, real, 0.2)
    raw = [torch.zeros(B, 1, 1, 1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(raw, lr=0.05)
    for _ in range(100):
        positive = Weights(*(x.exp().expand(B, D, H, W) for x in raw))
        w = normalised_weights(positive, residuals, mask, floor=0.1)
        optimizer.zero_grad()
        total(adaptive_layout_loss(residuals, w, D, norm="root-mean-square")).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (w.beta > 1.5 * w.alpha).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_is_one_at_the_surest_place_and_lies_between_zero_and_one(form: Any) -> None:
    theta, _, _ = layouts()
    mask = layout_mask(theta.requires_grad_(), form)
    assert mask.shape == (B, 1, H, W) and not mask.requires_grad
    assert mask.min() >= 0 and (mask.amax(dim=(2, 3)) == 1).all()
    surest = theta[0].amax(dim=0)
    low, high = surest.min(), surest.max()
    expected = {
        "range": (surest - low) / (high - low),
        "threshold": (surest >= (low + high) / 2).float(),
        "whole": torch.ones(H, W),
    }[form]
    assert torch.allclose(mask[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_caption_of_one_word_is_compared_everywhere(form: Any) -> None:
    assert (layout_mask(torch.ones(B, 1, H, W), form) == 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_equal_features_within_equal_masks_cost_nothing(norm: Norm) -> None:
    features, mask = torch.randn(B, D, 2 * H, 2 * W), torch.rand(B, 1, H, W)
    assert total(layout_visual_losses(features, mask, features, mask, norm=norm)) == 0


@pytest.mark.parametrize("norm", NORMS)
def test_texture_and_style_are_their_formulas(norm: Norm) -> None:
    ours, theirs = torch.randn(2, B, D, 2 * H, 2 * W)
    mask, real_mask = torch.rand(2, B, 1, H, W)
    loss = layout_visual_losses(ours, mask, theirs, real_mask, norm=norm)
    texture = style = 0.0
    n_d = D * 4 * H * W
    for b in range(B):
        seen = [
            (h[b] * m[b].repeat_interleave(2, 1).repeat_interleave(2, 2)).flatten(1)
            for h, m in ((ours, mask), (theirs, real_mask))
        ]
        grams = [h @ h.T / (n_d if norm == "published" else n_d / D) for h in seen]
        texture += (seen[0] - seen[1]).norm().item() / B
        style += (grams[0] - grams[1]).norm().item() / B
    by = (n_d, n_d) if norm == "published" else (sqrt(n_d), D)
    assert loss.texture.item() == pytest.approx(texture / by[0], rel=1e-5)
    assert loss.style.item() == pytest.approx(style / by[1], rel=1e-5)


def test_style_does_not_ask_where() -> None:
    features, ones = torch.randn(B, D, H, W), torch.ones(B, 1, H, W)
    loss = layout_visual_losses(features, ones, features.flip(2, 3), ones)
    assert loss.style.item() == pytest.approx(0, abs=1e-8) and loss.texture > 0


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_right(norm: Norm) -> None:
    theta, real, mask = layouts(torch.float64)
    raw = weights(torch.float64)

    def alr(theta: Tensor, real: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        residuals = layout_residuals(theta, real, 0.2)
        w = normalised_weights(Weights(alpha, beta), residuals, mask, floor=0.1)
        return total(adaptive_layout_loss(residuals, w, D, norm=norm))

    inputs = [x.clone().requires_grad_() for x in (theta[:, :2], real[:, :2], *raw)]
    mask = mask[:, :2]
    assert torch.autograd.gradcheck(alr, inputs)

    random = torch.Generator().manual_seed(2)
    maps = torch.randn(2, B, 3, H, W, generator=random, dtype=torch.float64)
    masks = torch.rand(2, B, 1, 2, 3, generator=random, dtype=torch.float64)

    def lvr(ours: Tensor, theirs: Tensor) -> Tensor:
        return total(layout_visual_losses(ours, masks[0], theirs, masks[1], norm=norm))

    assert torch.autograd.gradcheck(lvr, [x.clone().requires_grad_() for x in maps])


@given(padding=st.integers(1, 9), filling=st.floats(-1e3, 1e3))
def test_masked_words_change_nothing_for_any_padding(padding: int, filling: float) -> None:
    theta, real, mask = layouts(words=2)
    w = weights()

    def loss(theta: Tensor, real: Tensor, mask: Tensor, raw: Weights) -> list[float]:
        residuals = layout_residuals(theta, real, 0.1)
        alr = adaptive_layout_loss(residuals, normalised_weights(raw, residuals, mask, floor=0.1), D)
        features = torch.ones(B, D, H, W) * torch.arange(D)[:, None, None]
        lvr = layout_visual_losses(features, layout_mask(theta), features, layout_mask(real))
        return [x.item() for x in (*alr, *lvr)]

    none = torch.zeros(B, padding, H, W)
    longer = (torch.cat([x, none], dim=1) for x in (theta, real))
    padded_mask = torch.cat([mask, torch.zeros(B, padding, dtype=torch.bool)], dim=1)
    assert loss(*longer, padded_mask, w) == pytest.approx(loss(theta, real, mask, w), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["zero", "identical", "one word", "one place", "batch of one"])
@pytest.mark.parametrize("norm", NORMS)
def test_losses_and_gradients_are_finite_for_degenerate_input(
    dtype: torch.dtype,
    case: Literal["zero", "identical", "one word", "one place", "batch of one"],
    norm: Norm,
) -> None:
    theta, real, mask = layouts(words=1 if case == "one word" else T)
    features, theirs = torch.randn(2, B, D, 2 * H, 2 * W)
    raw = list(weights())
    if case == "zero":
        features, theirs, raw = features * 0, theirs * 0, [x * 0 for x in raw]
    if case == "identical":
        real, theirs = theta, features
    everything = [theta, real, features, theirs, *raw]
    if case == "one place":
        everything = [x[:, :, :1, :1] for x in everything]
    if case == "batch of one":
        everything, mask = [x[:1] for x in everything], mask[:1]
    theta, real, features, theirs, *raw = leaves = [x.to(dtype).requires_grad_() for x in everything]
    residuals = layout_residuals(theta, real, 0.1)
    w = normalised_weights(Weights(*raw), residuals, mask, floor=0.1)
    alr = adaptive_layout_loss(residuals, w, D, norm=norm)
    lvr = layout_visual_losses(features, layout_mask(theta), theirs, layout_mask(real), norm=norm)
    loss = total((*alr, *lvr))
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves)
