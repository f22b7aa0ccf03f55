"""Conditioning augmentation in all its forms, its divergence, and a condition beside features."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ganvas.layers.conditioning import (
    Activation,
    ConditionedConv,
    ConditioningAugmentation,
    kl_loss,
    truncated_normal,
)


@pytest.mark.parametrize(
    ("activation", "mean", "second"),
    [("relu", 2.0, 0.0), ("leaky", 2.0, -0.2), ("glu", 2.0 * 0.5, -1.0 / (1 + math.exp(-3.0)))],
)
@pytest.mark.parametrize("scale", ["log-deviation", "log-variance"])
def test_each_form_computes_its_mean_and_deviation(
    activation: Activation, mean: float, second: float, scale: str
) -> None:
    layer = ConditioningAugmentation(3, 1, activation=activation, scale=scale)  # type: ignore[arg-type]
    nn.init.zeros_(layer.fc.weight)
    out = [2.0, -1.0, 0.0, 3.0] if activation == "glu" else [2.0, -1.0]
    with torch.no_grad():
        layer.fc.bias.copy_(torch.tensor(out))
    condition = layer(torch.randn(5, 3), torch.full((5, 1), 1.5))
    deviation = math.exp(second if scale == "log-deviation" else second / 2)
    assert condition.mean[0].item() == pytest.approx(mean)
    assert condition.log_variance[0].item() == pytest.approx(2 * math.log(deviation), abs=1e-6)
    assert condition.sample[:, 0].tolist() == pytest.approx([mean + 1.5 * deviation] * 5)


@pytest.mark.parametrize(("activation", "width"), [("relu", 256), ("leaky", 256), ("glu", 512)])
def test_the_linear_map_has_the_official_width(activation: Activation, width: int) -> None:
    assert ConditioningAugmentation(1024, 128, activation=activation).fc.weight.shape == (width, 1024)


def test_without_noise_the_condition_is_its_mean() -> None:
    condition = ConditioningAugmentation(6, 4)(torch.randn(3, 6), torch.zeros(3, 4))
    assert torch.equal(condition.sample, condition.mean)


def test_conditions_are_float32_in_bfloat16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        condition = ConditioningAugmentation(6, 4)(torch.randn(3, 6), torch.randn(3, 4))
    assert all(part.dtype == torch.float32 for part in condition)


@pytest.mark.parametrize(
    ("mean", "log_variance", "expected"), [(0.0, 0.0, 0.0), (1.0, 0.0, 0.5), (0.0, 1.0, 0.3591409)]
)
def test_the_divergence_is_the_mean_over_batch_and_dimensions(
    mean: float, log_variance: float, expected: float
) -> None:
    shape = (3, 7)
    loss = kl_loss(torch.full(shape, mean), torch.full(shape, log_variance))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_agrees_with_that_of_distributions() -> None:
    mean, log_variance = torch.randn(4, 5), torch.randn(4, 5)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mean, log_variance), expected)


def test_truncated_noise_stays_within_two_deviations() -> None:
    torch.manual_seed(0)
    noise = truncated_normal(torch.empty(20_000))
    assert noise.abs().max() <= 2
    assert noise.std().item() == pytest.approx(0.8796, abs=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 2), (3, 3), (8, 5), (16, 16)])
def test_a_condition_beside_features_equals_their_concatenation_in_value_and_gradient(
    height: int, width: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = ConditionedConv(3, 4, 5).double().to(memory_format=layout)
    features = torch.randn(2, 3, height, width, dtype=torch.float64).to(memory_format=layout)
    condition = torch.randn(2, 4, dtype=torch.float64)
    weights = torch.randn(2, 5, height, width, dtype=torch.float64)
    results = []
    for path in ("ours", "plain"):
        x, c = features.clone().requires_grad_(True), condition.clone().requires_grad_(True)
        layer.zero_grad()
        if path == "ours":
            out = layer(x, c)
        else:
            tiled = c[:, :, None, None].expand(-1, -1, height, width)
            out = nn.Conv2d.forward(layer, torch.cat([x, tiled], dim=1))
        (out * weights).sum().backward()
        assert x.grad is not None and c.grad is not None and layer.weight.grad is not None
        results.append((out.detach(), x.grad, c.grad, layer.weight.grad.clone()))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-11)


def test_channels_last_features_stay_so_with_a_condition() -> None:
    layer = ConditionedConv(4, 4, 8).to(memory_format=torch.channels_last)
    features = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    assert layer(features, torch.randn(2, 4)).is_contiguous(memory_format=torch.channels_last)
