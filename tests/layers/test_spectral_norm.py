"""Spectral normalisation and what is computed with it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganvas.layers.spectral_norm import SpectralConv, SpectralLinear, spectrally_normalised


def largest(weight: torch.Tensor) -> float:
    return torch.linalg.matrix_norm(weight.detach().flatten(1), ord=2).item()


@pytest.mark.parametrize("layer", [SpectralLinear(6, 4), SpectralConv(3, 5), SpectralConv(3, 5, 1)], ids=str)
def test_after_some_steps_the_largest_singular_value_is_one(layer: nn.Module) -> None:
    given = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 4, 4)
    for _ in range(200):
        layer.train()(given)
    weight = spectrally_normalised(layer.weight, layer.u, keep=False)
    assert largest(weight) == pytest.approx(1, abs=1e-4)


def test_the_iteration_goes_on_only_where_the_weight_is_trained() -> None:
    layer = SpectralLinear(6, 4)
    before = layer.u.clone()
    layer.eval()(torch.randn(2, 6))
    assert torch.equal(layer.u, before)
    layer.train().requires_grad_(False)(torch.randn(2, 6))
    assert torch.equal(layer.u, before)
    layer.requires_grad_(True)(torch.randn(2, 6))
    assert not torch.equal(layer.u, before)


def test_one_step_is_taken_for_the_estimate_even_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(6, 4).eval()
    v = F.normalize(layer.weight.t() @ layer.u, dim=0)
    sigma = (layer.weight @ v).norm()
    vectors = torch.randn(3, 6)
    assert torch.allclose(layer(vectors), F.linear(vectors, layer.weight / sigma, layer.bias), atol=1e-6)


def test_the_layout_of_a_kernel_changes_nothing() -> None:
    torch.manual_seed(0)
    layer, features = SpectralConv(3, 5).eval(), torch.randn(2, 3, 4, 4)
    expected = layer(features)
    assert torch.allclose(layer.to(memory_format=torch.channels_last)(features), expected, atol=1e-5)


def test_the_gradient_knows_of_the_division() -> None:
    torch.manual_seed(0)
    weight, u = (
        torch.randn(3, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(3, dtype=torch.float64),
    )
    for _ in range(200):  # at the fixed point, holding both vectors still is exact
        spectrally_normalised(weight, u, keep=True)
    torch.autograd.gradcheck(lambda w: spectrally_normalised(w, u, keep=False), [weight], atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_pooled_convolution_is_the_mean_of_each_four_places(kernel: int) -> None:
    torch.manual_seed(0)
    plain, pooled = SpectralConv(3, 5, kernel), SpectralConv(3, 5, kernel, pooled=True)
    pooled.load_state_dict(plain.state_dict())
    features = torch.randn(2, 3, 8, 8)
    expected = F.avg_pool2d(plain.eval()(features), 2)
    assert torch.allclose(pooled.eval()(features), expected, atol=1e-5)
