"""Self-modulation against its equation, place by place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.layers.blocks import UpConv
from ganvas.layers.self_modulation import (
    AttentionalSelfModulation,
    LocalCondition,
    RegionAttention,
    SelfModulation,
    attend,
)


def condition(side: int = 2) -> LocalCondition:
    torch.manual_seed(0)
    words = F.normalize(torch.randn(3, 4, 5), dim=2)
    weights = torch.randn(3, 4, side, side).softmax(dim=1)
    return LocalCondition(words, weights, torch.randn(3, 6))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["whole", "by place"])
def test_with_zero_weights_it_is_batch_normalisation(kind: str, training: bool) -> None:
    layer = SelfModulation(7, 6) if kind == "whole" else AttentionalSelfModulation(7, 5, 6)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(3, 7, 4, 4)
    plain = torch.nn.BatchNorm2d(7, affine=False).train(training)
    assert torch.allclose(layer.train(training)(features, condition()), plain(features), atol=1e-6)


def test_all_places_have_the_same_scale_and_shift_where_the_condition_is_whole() -> None:
    layer, features, given = SelfModulation(7, 6).eval(), torch.randn(3, 7, 4, 4), condition()
    gamma, beta = layer.gamma(given.whole), layer.beta(given.whole)
    expected = (1 + gamma[..., None, None]) * layer.norm(features) + beta[..., None, None]
    assert torch.allclose(layer(features, given.whole), expected, atol=1e-6)
    assert torch.equal(layer(features, given.whole), layer(features, given))


@pytest.mark.parametrize("side", [2, 8])
def test_each_place_is_modulated_by_the_words_that_it_looks_at(side: int) -> None:
    layer, features, given = (
        AttentionalSelfModulation(7, 5, 6).eval(),
        torch.randn(3, 7, side, side),
        condition(),
    )
    context = torch.einsum("btd,bthw->bdhw", given.words, given.weights)
    whole = given.whole[..., None, None].expand(-1, -1, 2, 2)
    every = F.interpolate(torch.cat([context, whole], dim=1), size=side, mode="nearest")

    def by_place(linear: torch.nn.Linear) -> Tensor:
        return F.conv2d(every, linear.weight[..., None, None], linear.bias)

    expected = (1 + by_place(layer.gamma)) * layer.norm(features) + by_place(layer.beta)
    assert torch.allclose(layer(features, given), expected, atol=1e-5)


def test_places_look_at_the_words_that_are_like_them_and_never_at_padding() -> None:
    words = torch.eye(4)[None].repeat(2, 1, 1) * 3
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    regions = torch.eye(4)[None].repeat(2, 1, 1)  # place j is word j
    unit, weights = attend(regions, words, mask, 15.0)
    assert torch.allclose(unit, torch.eye(4).expand(2, 4, 4))
    assert torch.allclose(weights.sum(dim=1), torch.ones(2, 4))
    e = torch.tensor(15.0).exp()
    assert weights[0, 0, 0].item() == pytest.approx((e / (e + 2)).item())
    assert (weights[0, 3] == 0).all() and (weights[1, 0] == 1).all()


def test_attention_is_finite_for_zero_vectors_and_under_autocast() -> None:
    layer = RegionAttention(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        unit, weights = layer(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5), torch.ones(2, 3).bool())
    weights.sum().backward()
    assert unit.dtype == weights.dtype == torch.float32
    assert torch.allclose(weights, torch.full_like(weights, 1 / 3))
    assert layer.query.weight.grad is not None and layer.query.weight.grad.isfinite().all()


@pytest.mark.parametrize("side", [4, 16])
def test_an_up_sampled_convolution_with_a_bias_is_what_it_says(side: int) -> None:
    layer, features = UpConv(3, 5, bias=True), torch.randn(2, 3, side, side)
    expected = F.conv2d(F.interpolate(features, scale_factor=2), layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(features), expected, atol=1e-5)
