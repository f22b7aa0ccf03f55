"""The contrastive loss of pairs against its formula, and where it must stay finite."""

from __future__ import annotations

import pytest
import torch

from ganvas.losses.contrastive_pair import all_distances, contrastive_pair_losses, pair_distance


@pytest.mark.parametrize(
    ("distance", "same", "loss"),
    [(0.0, 1.0, 0.0025), (0.5, 1.0, 0.0625), (0.0, 0.0, 0.25), (0.5, 0.0, 0.0625), (1.5, 0.0, 0.0)],
)
def test_a_pair_has_the_loss_worked_out_by_hand(distance: float, same: float, loss: float) -> None:
    assert contrastive_pair_losses(torch.tensor([distance]), same, num=2).item() == pytest.approx(loss)
    assert contrastive_pair_losses(torch.tensor([distance]), same).item() == pytest.approx(2 * loss)


def test_every_pair_may_have_its_own_kind() -> None:
    losses = contrastive_pair_losses(
        torch.tensor([0.5, 0.5, 3.0, 3.0]), torch.tensor([1, 0, 1, 0]), alpha=1.0, epsilon=4.0
    )
    assert losses.tolist() == pytest.approx([0.5, 3.5**2 / 2, 4.5, 0.5])


def test_pairs_nearer_than_alpha_and_farther_than_epsilon_have_no_gradient() -> None:
    distance = torch.tensor([0.05, 0.3], requires_grad=True)
    (gradient,) = torch.autograd.grad(contrastive_pair_losses(distance, 1.0).sum(), distance)
    assert gradient.tolist() == pytest.approx([0.0, 0.3])
    distance = torch.tensor([1.05, 0.3], requires_grad=True)
    (gradient,) = torch.autograd.grad(contrastive_pair_losses(distance, 0.0).sum(), distance)
    assert gradient.tolist() == pytest.approx([0.0, -0.7])


def test_distances_of_all_other_images_leave_the_own_one_out() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 6, generator=draw, dtype=torch.float64)
    expected = [torch.dist(first[i], second[j]) for i in range(4) for j in range(4) if i != j]
    assert torch.allclose(all_distances(first, second), torch.stack(expected))
    assert all_distances(first[:1], second[:1]).shape == (0,)


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_its_gradient_agrees_with_finite_differences(same: float) -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = 0.3 * torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
    first.requires_grad_(), second.requires_grad_()

    def total(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        near = contrastive_pair_losses(pair_distance(a, b), same).sum()
        return near + contrastive_pair_losses(all_distances(a, b), same, num=3).sum()

    assert torch.autograd.gradcheck(total, (first, second))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("same", [0.0, 1.0])
def test_identical_codes_leave_loss_and_gradient_finite(
    value: float, dtype: torch.dtype, same: float
) -> None:
    codes = torch.full((3, 8), value, dtype=dtype, requires_grad=True)
    losses = contrastive_pair_losses(pair_distance(codes, codes.detach()), same)
    (gradient,) = torch.autograd.grad(losses.sum(), codes)
    assert losses.dtype == torch.float32 and losses.isfinite().all() and gradient.isfinite().all()


def test_under_autocast_distances_are_computed_in_float32() -> None:
    first, second = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = contrastive_pair_losses(pair_distance(first, second), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_pair_losses(pair_distance(first, second), 1.0), expected)
