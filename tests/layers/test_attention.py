"""Word attention against its equation, its mask, and the official mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ganvas.layers.attention import WordAttention

LENGTHS = [5, 1, 3]


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``(3, 4, 2, 6)``, words ``(3, 5, 8)`` and their mask."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 2, 6, generator=random, dtype=dtype)
    words = torch.randn(3, 5, 8, generator=random, dtype=dtype)
    return features, words, torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def attention(**settings: Any) -> WordAttention:
    torch.manual_seed(0)
    return WordAttention(8, 4, **settings)


def test_every_place_looks_at_words_by_the_softmax_of_inner_products() -> None:
    features, words, mask = example()
    layer = attention()
    context, weights = layer(features, words, mask)
    for b, length in enumerate(LENGTHS):
        projected = words[b, :length] @ layer.project.weight.T  # e' = U e
        for y in range(2):
            for x in range(6):
                beta = (projected @ features[b, :, y, x]).softmax(dim=0)
                assert torch.allclose(weights[b, :length, y, x], beta, atol=1e-6)
                assert torch.allclose(context[b, :, y, x], beta @ projected, atol=1e-5)


def test_weights_sum_to_one_and_padding_gets_none() -> None:
    features, words, mask = example()
    weights = attention()(features, words, mask).weights
    assert torch.allclose(weights.sum(dim=1), torch.ones(3, 2, 6))
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()


def test_a_caption_gets_the_same_alone_and_beside_others() -> None:
    features, words, mask = example()
    layer = attention()
    together = layer(features, words, mask).context
    for b, length in enumerate(LENGTHS):
        alone = layer(features[b : b + 1], words[b : b + 1, :length], mask[b : b + 1, :length]).context
        assert torch.allclose(alone[0], together[b], atol=1e-6)


def test_the_official_mask_gives_place_q_of_caption_b_the_padding_of_another_caption() -> None:
    features, words, mask = example()
    weights = attention(mask_compat=True)(features, words, mask).weights.flatten(2)  # (B, T, Q)
    places = weights.shape[2]
    for b in range(3):
        for q in range(places):
            assert torch.equal(weights[b, :, q] > 0, mask[(b * places + q) % 3])


@pytest.mark.parametrize("compat", [False, True])
def test_for_one_caption_both_masks_are_the_same(compat: bool) -> None:
    features, words, mask = (part[2:] for part in example())
    right = attention()(features, words, mask)
    other = attention(mask_compat=compat)(features, words, mask)
    assert torch.equal(right.context, other.context) and torch.equal(right.weights, other.weights)


def test_the_memory_layout_of_features_changes_nothing_and_is_kept() -> None:
    features, words, mask = example()
    layer = attention()
    plain = layer(features, words, mask).context
    last = layer(features.contiguous(memory_format=torch.channels_last), words, mask).context
    assert torch.allclose(plain, last, atol=1e-6)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("compat", [False, True])
def test_its_gradient_is_right(compat: bool) -> None:
    features, words, mask = example(torch.float64)
    layer = attention(mask_compat=compat).double()
    features.requires_grad_(), words.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: layer(f, w, mask).context, (features, words))


def test_large_scores_in_bfloat16_stay_finite() -> None:
    features, words, mask = example()
    with torch.autocast("cpu", torch.bfloat16):
        context, weights = attention()(1000 * features, words, mask)
    assert context.isfinite().all() and weights.isfinite().all()


def test_over_places_each_real_word_shares_out_a_whole() -> None:
    features, words, mask = example()
    layer = attention(over="places")
    context, weights = layer(features, words, mask)
    projected = layer.project(words)
    for b, length in enumerate(LENGTHS):
        scores = projected[b] @ features[b].flatten(1)
        beta = scores.softmax(dim=1)[:length]
        assert torch.allclose(weights[b, :length].flatten(1), beta, atol=1e-6)
        assert torch.allclose(context[b].flatten(1), projected[b, :length].T @ beta, atol=1e-5)
    assert not weights[~mask].any()
