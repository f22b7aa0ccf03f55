"""Contrastive losses of XMC-GAN: closed forms, masks, gradients, and several ranks."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.losses import contrastive
from ganvas.losses.adversarial import hinge_fake_loss, hinge_real_loss
from ganvas.losses.contrastive import contrast, vector_contrast, word_contrast, word_region_scores

LENGTHS = [4, 1, 3]


def drawn(dim: int = 5, regions: int = 6, words: int = 4, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Regions ``(3, D, R)``, words ``(3, T, D)``, mask."""
    torch.manual_seed(0)
    mask = torch.arange(words) < torch.tensor(LENGTHS)[:, None]
    return [torch.randn(3, dim, regions, dtype=dtype), torch.randn(3, words, dim, dtype=dtype), mask]


def plain_scores(regions: Tensor, words: Tensor, mask: Tensor, rho1: float, rho2: float) -> Tensor:
    """Pair by pair, word by word."""
    scores = torch.empty(len(regions), len(words), dtype=regions.dtype)
    for b, image in enumerate(regions):
        for c, caption in enumerate(words):
            total = torch.zeros((), dtype=regions.dtype)
            for word in caption[mask[c]]:
                cosines = F.cosine_similarity(word[:, None], image, dim=0)
                seen = (F.normalize(image, dim=0) * (rho1 * cosines).softmax(dim=0)).sum(dim=1)
                total = total + (rho2 * F.cosine_similarity(word, seen, dim=0)).exp()
            scores[b, c] = total.log() / rho2
    return scores


def test_four_orthonormal_pairs_have_the_known_loss_and_equal_features_two_log_four() -> None:
    features = torch.eye(4, dtype=torch.float64)
    found = vector_contrast(features, features)
    assert found.loss.item() == pytest.approx(2 * 1.361905e-4, rel=1e-5)
    assert found.accuracy == 1
    same = vector_contrast(torch.ones(4, 3), torch.ones(4, 3))
    assert same.loss.item() == pytest.approx(2.7726, abs=1e-4)
    assert same.entropy.item() == pytest.approx(1.386294, abs=1e-5)


def test_accuracy_is_the_mean_of_both_directions() -> None:
    assert contrast(torch.tensor([[2.0, 3.0], [0.0, 4.0]])).accuracy.item() == pytest.approx((0.5 + 1) / 2)


def test_hinges() -> None:
    assert hinge_real_loss(torch.tensor([0.5])) + hinge_fake_loss(torch.tensor([-0.25])) == 1.25
    assert hinge_real_loss(torch.tensor([1.5])) == 0 and hinge_fake_loss(torch.tensor([-1.5])) == 0


@pytest.mark.parametrize("regions", [3, 9], ids=["fewer regions than dimensions", "more"])
@pytest.mark.parametrize("rhos", [(5.0, 5.0), (1.0, 20.0)])
def test_scores_are_those_of_each_pair_by_itself(regions: int, rhos: tuple[float, float]) -> None:
    given = drawn(regions=regions, dtype=torch.float64)
    assert torch.allclose(
        word_region_scores(*given, rho1=rhos[0], rho2=rhos[1]), plain_scores(*given, *rhos), atol=1e-12
    )


def test_the_scaled_score_is_ten_times_the_log_sum_of_damsm() -> None:
    regions, words, mask = drawn(dtype=torch.float64)
    scores = word_region_scores(regions, words, mask)
    assert torch.allclose(50 * scores, 10 * plain_scores(regions, words, mask, 5.0, 5.0) * 5)


def test_parts_give_the_same_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    regions, words, mask = drawn()
    found = []
    for most in (2**26, 1):
        monkeypatch.setattr(contrastive, "_MOST", most)
        leaf = regions.clone().requires_grad_()
        scores = word_region_scores(leaf, words, mask)
        scores.square().sum().backward()
        assert leaf.grad is not None
        found.append((scores.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("padding", [0.0, 1e4, -3.0])
@pytest.mark.parametrize("further", [0, 3])
def test_masked_words_change_nothing(padding: float, further: int) -> None:
    regions, words, mask = drawn()
    other, longer = F.pad(words, (0, 0, 0, further)), F.pad(mask, (0, further))
    other = torch.where(longer[..., None], other, torch.full_like(other, padding))
    expected = word_contrast(regions, words, mask)
    for one, two in zip(expected, word_contrast(regions, other, longer), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("regions", [3, 9])
def test_gradients_are_those_of_the_loss(regions: int) -> None:
    given, words, mask = drawn(regions=regions, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (given, words)]
    assert torch.autograd.gradcheck(lambda r, w: word_contrast(r, w, mask, scale=5.0).loss, leaves)
    vectors = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: vector_contrast(a, b).loss, vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", ["zero", "identical", "one word"])
def test_losses_and_gradients_are_finite_on_degenerate_input(
    kind: str, size: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    value = 0.0 if kind == "zero" else 1.0
    regions = torch.full((size, 5, 7), value, dtype=dtype, requires_grad=True)
    vectors = torch.full((size, 5), value, dtype=dtype, requires_grad=True)
    words = torch.zeros(size, 1 if kind == "one word" else 4, 5, dtype=dtype)
    mask = torch.ones(words.shape[:2], dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = word_contrast(regions, words, mask).loss + vector_contrast(vectors, words[:, 0]).loss
        loss = loss + vector_contrast(vectors, vectors).loss
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert regions.grad is not None and regions.grad.isfinite().all()
    assert vectors.grad is not None and vectors.grad.isfinite().all()
    if size == 1:
        assert loss == 0


def both_losses(encode: nn.Linear, rows: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    regions = encode(rows).transpose(1, 2)  # (B, D, R)
    return (
        word_contrast(regions, words, mask, scale=5.0).loss
        + vector_contrast(regions.mean(dim=2), words[:, 0], temperature=0.5).loss
    )


def work(rank: int, folder: Path, encode: nn.Linear, given: list[Tensor]) -> None:
    """One rank of two: the loss of its half of the batch, and its weight gradient."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    rows, words, mask = (x[2 * rank : 2 * rank + 2] for x in given)
    longest = 3 + rank  # captions are padded to other lengths on other ranks
    loss = both_losses(encode, rows, words[:, :longest], mask[:, :longest])
    loss.backward()  # type: ignore[no-untyped-call]
    torch.save({"loss": loss.detach(), "grad": encode.weight.grad}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_the_mean_of_the_ranks_gradients_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encode = nn.Linear(5, 5)
    mask = torch.arange(4) < torch.tensor([3, 1, 4, 2])[:, None]
    given = [torch.randn(4, 6, 5), torch.randn(4, 4, 5), mask]
    expected = both_losses(encode, *given)
    (gradient,) = torch.autograd.grad(expected, [encode.weight])
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                work(rank, tmp_path, encode, given)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for found in ranks:
        assert torch.allclose(found["loss"], expected, atol=1e-6)
    assert torch.allclose((ranks[0]["grad"] + ranks[1]["grad"]) / 2, gradient, atol=1e-6)
