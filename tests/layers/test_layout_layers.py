"""What layout refinement has beside a generator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganvas.layers.layout import AdaptiveWeights, RealEncoder, held_statistics


@pytest.mark.parametrize("side", [8, 32])
def test_an_encoder_brings_an_image_to_half_its_side(side: int) -> None:
    assert RealEncoder(6)(torch.randn(2, 3, side, side)).shape == (2, 6, side // 2, side // 2)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_weights_are_positive_and_in_float32_for_any_residuals(bfloat16: bool) -> None:
    weights = AdaptiveWeights(4)
    for residuals in (torch.zeros(2, 4, 8, 8), 1e3 * torch.randn(2, 4, 8, 8)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = weights(residuals)
        assert found.shape == residuals.shape and found.dtype == torch.float32
        assert (found >= 0).all() and found.isfinite().all()


def test_held_statistics_stay_and_normalisation_goes_by_the_batch() -> None:
    norm = nn.BatchNorm2d(3)
    module = nn.Sequential(norm)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images = 5 + 2 * torch.randn(4, 3, 8, 8)
    with held_statistics(module):
        held = module(images)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(held, module(images))
    assert not torch.equal(module.state_dict()["0.running_mean"], before["0.running_mean"])


def test_statistics_are_followed_again_after_an_error() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="4D"), held_statistics(norm):
        norm(torch.zeros(3))
    assert norm.track_running_stats


def test_in_evaluation_running_statistics_are_used() -> None:
    norm = nn.BatchNorm2d(3).eval()
    images = 5 + torch.randn(4, 3, 8, 8)
    with held_statistics(norm):
        assert torch.allclose(norm(images), images, atol=1e-3)
    assert norm.track_running_stats
