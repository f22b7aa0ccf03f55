"""DAMSM's scores and losses: closed forms, a plain reference with loops, and what must never be NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ganvas.losses import damsm
from ganvas.losses.damsm import damsm_losses, matching_attention, sentence_scores, word_scores

LENGTHS = (1, 3, 5, 2)


def batch(num: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Regions ``(B, 6, 3, 2)``, words ``(B, 5, 6)`` and their mask, with rubbish on padding."""
    draw = torch.Generator().manual_seed(0)
    regions = torch.randn(num, 6, 3, 2, generator=draw, dtype=dtype)
    words = torch.randn(num, 5, 6, generator=draw, dtype=dtype)
    return regions, words, torch.arange(5) < torch.tensor(LENGTHS[:num])[:, None]


def reference(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """Equations 7 to 10 for one image and one caption at a time."""
    scores = torch.zeros(len(regions), len(words), dtype=regions.dtype)
    for i, image in enumerate(regions.flatten(2)):  # (D, R)
        for j, caption in enumerate(words):
            e = caption[mask[j]]  # (T', D)
            s = e @ image
            s = s.exp() / s.exp().sum(dim=0)
            alpha = (gamma1 * s).exp() / (gamma1 * s).exp().sum(dim=1, keepdim=True)
            context = alpha @ image.T
            cosine = torch.cosine_similarity(context, e, dim=1)
            scores[i, j] = (gamma2 * cosine).exp().sum().log()
    return scores


def test_two_words_and_two_regions_give_the_numbers_worked_out_by_hand() -> None:
    regions = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # columns (2, 0) and (0, 1)
    words, mask = torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)
    attention = matching_attention(regions, words, mask, gamma1=4.0)
    assert torch.allclose(attention, torch.tensor([[[0.9204, 0.0796], [0.0796, 0.9204]]]), atol=1e-4)
    scores = word_scores(regions, words, mask)
    assert 10 * scores.item() == pytest.approx(56.548, abs=1e-3)
    assert word_scores(regions, words, mask, root=True).item() == pytest.approx(1.1310, abs=1e-4)


def test_orthonormal_pairs_have_the_sentence_loss_of_a_softmax_with_one_winner() -> None:
    codes = torch.eye(4, dtype=torch.float64)
    losses = damsm_losses(torch.zeros(4, 4), sentence_scores(codes, codes), gamma3=10.0)
    for direction in losses.sentence:
        assert direction.item() == pytest.approx(1.361905e-4, rel=1e-6)
    for direction in losses.words:
        assert direction.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(("gamma1", "gamma2"), [(4.0, 5.0), (5.0, 5.0), (1.0, 2.0)])
def test_all_pairs_at_once_equal_one_pair_at_a_time(gamma1: float, gamma2: float) -> None:
    regions, words, mask = batch(dtype=torch.float64)
    ours = word_scores(regions, words, mask, gamma1=gamma1, gamma2=gamma2)
    expected = reference(regions, words, mask, gamma1, gamma2)
    assert torch.allclose(ours, expected, rtol=1e-10)
    rooted = word_scores(regions, words, mask, gamma1=gamma1, gamma2=gamma2, root=True)
    assert torch.allclose(rooted * gamma2, expected, rtol=1e-10)
    # another number of captions than of images
    assert torch.allclose(
        word_scores(regions[:2], words, mask, gamma1=gamma1, gamma2=gamma2), expected[:2], rtol=1e-10
    )


def test_captions_in_parts_give_the_same_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    regions, words, mask = batch(dtype=torch.float64)
    regions.requires_grad_()
    words.requires_grad_()
    found = []
    for most in (2**26, 4 * 6 * 5 * 3):  # all, then three captions at once
        monkeypatch.setattr(damsm, "_MOST", most)
        scores = word_scores(regions, words, mask)
        found.append((scores, *torch.autograd.grad(scores.square().sum(), (regions, words))))
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-10)


def test_padding_changes_nothing() -> None:
    regions, words, mask = batch()
    scores = word_scores(regions, words, mask)
    other = words.masked_fill(~mask[..., None], 7.0)
    assert torch.allclose(word_scores(regions, other, mask), scores)
    more = torch.cat([other, other.new_ones(4, 3, 6)], dim=1)
    wider = torch.cat([mask, mask.new_zeros(4, 3)], dim=1)
    assert torch.allclose(word_scores(regions, more, wider), scores, atol=1e-6)
    attention = matching_attention(regions, more, wider)
    assert attention.shape == (4, 8, 3, 2)
    assert torch.allclose(attention.sum(dim=(2, 3)), wider.float(), atol=1e-6)


@pytest.mark.parametrize("root", [False, True])
def test_gradients_agree_with_finite_differences(root: bool) -> None:
    regions, words, mask = batch(3, torch.float64)
    regions.requires_grad_()
    words.requires_grad_()
    labels = torch.tensor([0, 1, 0])
    codes = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    codes.requires_grad_()

    def total(regions: Tensor, words: Tensor, codes: Tensor) -> Tensor:
        losses = damsm_losses(
            word_scores(regions, words, mask, root=root), sentence_scores(codes, words[:, 0, :4]), labels
        )
        return torch.stack([*losses.words, *losses.sentence]).sum()

    assert torch.autograd.gradcheck(total, (regions, words, codes))


def test_other_pairs_of_a_class_are_no_negatives() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0], [0.0, 1.0, 3.0], [1.0, 1.0, 2.0]])
    losses = damsm_losses(scores, scores, torch.tensor([7, 7, 8]), gamma3=1.0)
    rows = [scores[0, [0, 2]], scores[1, [1, 2]], scores[2, [2, 0, 1]]]
    expected = torch.stack([row.logsumexp(0) - row[0] for row in rows]).mean()
    assert torch.allclose(losses.words.image_to_text, expected)
    columns = [scores[[0, 2], 0], scores[[1, 2], 1], scores[[2, 0, 1], 2]]
    expected = torch.stack([column.logsumexp(0) - column[0] for column in columns]).mean()
    assert torch.allclose(losses.words.text_to_image, expected)


@pytest.mark.parametrize("labels", [None, torch.tensor([3])])
def test_a_batch_of_one_costs_nothing(labels: Tensor | None) -> None:
    regions, words, mask = batch(1)
    regions.requires_grad_()
    losses = damsm_losses(word_scores(regions, words, mask), torch.ones(1, 1), labels)
    assert all(value.item() == 0 for value in (*losses.words, *losses.sentence))
    losses.words.image_to_text.backward()  # type: ignore[no-untyped-call]
    assert regions.grad is not None and not regions.grad.any()


def test_one_class_for_the_whole_batch_costs_nothing() -> None:
    regions, words, mask = batch()
    losses = damsm_losses(word_scores(regions, words, mask), torch.randn(4, 4), torch.zeros(4).long())
    assert all(value.item() == 0 for value in (*losses.words, *losses.sentence))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-12, 1e4])
def test_zero_and_identical_vectors_leave_losses_and_gradients_finite(value: float) -> None:
    _, _, mask = batch()
    regions = torch.full((4, 6, 3, 2), value, requires_grad=True)
    words = torch.full((4, 5, 6), value, requires_grad=True)
    codes = torch.full((4, 6), value, requires_grad=True)
    losses = damsm_losses(word_scores(regions, words, mask), sentence_scores(codes, words[:, 0]))
    total = torch.stack([*losses.words, *losses.sentence]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(total)
    for x in (regions, words, codes):
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_scores_are_computed_in_float32_under_autocast() -> None:
    regions, words, mask = batch()
    codes = words[:, 0]
    expected = word_scores(regions, words, mask), sentence_scores(codes, codes)
    with torch.autocast("cpu", torch.bfloat16):
        ours = word_scores(regions, words, mask), sentence_scores(codes, codes)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    half = word_scores(regions.bfloat16(), words.bfloat16(), mask)
    assert half.dtype == torch.float32 and torch.allclose(half, expected[0], atol=0.2)
