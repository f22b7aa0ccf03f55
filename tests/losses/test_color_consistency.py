"""Color consistency against closed forms."""

from __future__ import annotations

import pytest
import torch

from ganvas.losses.color_consistency import color_consistency_loss, color_statistics


def test_mean_and_covariance_of_a_small_image() -> None:
    stripes = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    image = torch.stack([stripes, stripes, torch.full((2, 2), 0.5)])[None]
    colors = color_statistics(image)
    assert colors.mean.tolist() == [[0, 0, 0.5]]
    assert colors.covariance.tolist() == [[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]


def test_the_loss_is_the_weighted_mean_of_squared_differences() -> None:
    stripes = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    image = torch.stack([stripes, stripes, torch.full((2, 2), 0.5)])[None]
    flat = torch.zeros(1, 3, 4, 4)
    assert color_consistency_loss(image, flat).item() == pytest.approx(0.25 / 3 + 5 * 4 / 9)
    loss = color_consistency_loss(image, flat, mean_weight=50, covariance_weight=250)
    assert loss.item() == pytest.approx(50 * 0.25 / 3 + 250 * 4 / 9)


def test_enlarging_an_image_costs_nothing() -> None:
    small = torch.randn(3, 3, 8, 8)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert color_consistency_loss(large, small).item() == pytest.approx(0, abs=1e-9)


def test_the_coarser_images_are_followed_not_moved() -> None:
    fine = torch.randn(2, 3, 8, 8, requires_grad=True)
    coarse = torch.randn(2, 3, 4, 4, requires_grad=True)
    color_consistency_loss(fine, coarse).backward()  # type: ignore[no-untyped-call]
    assert fine.grad is not None and fine.grad.abs().sum() > 0
    assert coarse.grad is None


def test_it_is_computed_in_float32_within_bfloat16() -> None:
    image = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = color_statistics(image)
    torch.testing.assert_close(narrow.covariance, color_statistics(image).covariance, rtol=0, atol=0)
