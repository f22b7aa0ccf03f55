"""SCBN against its formula: sentence and word level, masks, and plain batch normalisation where it begins."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from ganvas.layers.conditional_norm import (
    Level,
    SemanticNorm,
    VisualSemanticEmbedding,
    Weighting,
    start_plain,
)

LENGTHS = [5, 1, 3]
LEVELS = get_args(Level)
WEIGHTINGS = get_args(Weighting)


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features ``(3, 4, 2, 6)``, sentences ``(3, 7)``, words ``(3, 5, 8)`` and their mask."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 2, 6, generator=draw, dtype=dtype)
    sentence = torch.randn(3, 7, generator=draw, dtype=dtype)
    words = torch.randn(3, 5, 8, generator=draw, dtype=dtype)
    return features, sentence, words, torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def norm(
    level: Level = "sentence", weighting: Weighting = "softmax", hidden: int | None = None
) -> SemanticNorm:
    torch.manual_seed(0)
    layer = SemanticNorm(4, 7, 8, level=level, weighting=weighting, hidden=hidden)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return layer


def plain(layer: SemanticNorm) -> nn.BatchNorm2d:
    """Batch normalisation with the same learned gain and bias."""
    found = nn.BatchNorm2d(4)
    found.load_state_dict({k: v for k, v in layer.state_dict().items() if k in found.state_dict()})
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("level", LEVELS)
def test_it_starts_as_batch_normalisation(level: Level, weighting: Weighting, training: bool) -> None:
    layer = norm(level, weighting).apply(start_plain)
    other = plain(layer)
    for module in (layer, other):
        module.running_mean = torch.tensor([0.1, 0.2, -0.3, 0.0])
        module.train(training)
    inputs = example()
    assert torch.allclose(layer(*inputs), other(inputs[0]), atol=1e-6)
    for name, buffer in other.named_buffers():
        assert torch.allclose(buffer, layer.get_buffer(name)), name


def test_a_sentence_changes_gain_and_bias_of_each_map() -> None:
    features, sentence, words, mask = example()
    layer = norm(hidden=9)
    assert layer.sentence is not None
    found = layer(features, sentence, words, mask)
    mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), unbiased=False)
    for network in (layer.sentence.gamma, layer.sentence.beta):
        assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [9, 4]
    for b in range(3):
        gamma = layer.weight + layer.sentence.gamma(sentence[b])
        beta = layer.bias + layer.sentence.beta(sentence[b])
        for c in range(4):
            normal = (features[b, c] - mean[c]) / (variance[c] + 1e-5).sqrt()
            assert torch.allclose(found[b, c], gamma[c] * normal + beta[c], atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_place_sees_its_words_by_softmax_or_sigmoid(weighting: Weighting) -> None:
    features, _, words, mask = example()
    torch.manual_seed(0)
    layer = VisualSemanticEmbedding(8, 4, weighting=weighting)
    context, weights = layer(features, words, mask)
    for b, length in enumerate(LENGTHS):
        perceived = layer.perceive(words[b, :length])
        for y in range(2):
            for x in range(6):
                scores = perceived @ features[b, :, y, x]
                expected = scores.softmax(dim=0) if weighting == "softmax" else scores.sigmoid()
                assert torch.allclose(weights[b, :length, y, x], expected, atol=1e-6)
                assert torch.allclose(context[b, :, y, x], expected @ perceived, atol=1e-5)
    assert not weights[~mask].any()


def test_one_word_is_what_every_place_sees() -> None:
    features, _, words, mask = (part[1:2] for part in example())
    torch.manual_seed(0)
    layer = VisualSemanticEmbedding(8, 4)
    expected = layer.perceive(words[0, 0])[None, :, None, None].expand(features.shape)
    assert torch.allclose(layer(features, words, mask).context, expected, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("level", ["word", "both"])
def test_words_change_gain_and_bias_of_each_place_and_both_levels_add_up(
    level: Level, weighting: Weighting
) -> None:
    features, sentence, words, mask = example()
    layer = norm(level, weighting)
    assert layer.words is not None
    convolution = nn.Conv2d(4, 8, 1)
    convolution.load_state_dict(
        {"weight": layer.words.out.weight[:, :, None, None], "bias": layer.words.out.bias}
    )
    seen = layer.words.embedding(features, words, mask).context
    gamma, beta = convolution(seen).chunk(2, dim=1)
    gamma, beta = gamma + layer.weight[:, None, None], beta + layer.bias[:, None, None]
    if layer.sentence is not None:
        gamma = gamma + layer.sentence.gamma(sentence)[:, :, None, None]
        beta = beta + layer.sentence.beta(sentence)[:, :, None, None]
    normal = nn.BatchNorm2d(4, affine=False)(features)
    assert torch.allclose(layer(features, sentence, words, mask), gamma * normal + beta, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_padding_changes_nothing(weighting: Weighting) -> None:
    features, sentence, words, mask = example()
    layer = norm("both", weighting)
    expected = layer(features, sentence, words, mask)
    other = words.masked_fill(~mask[..., None], 7.0)
    more = torch.cat([other, other.new_full((3, 4, 8), -9.0)], dim=1)
    wider = torch.cat([mask, mask.new_zeros(3, 4)], dim=1)
    assert torch.allclose(layer(features, sentence, more, wider), expected, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_attention_sums_to_one_over_real_words(weighting: Weighting) -> None:
    features, _, words, mask = example()
    weights = norm("word", weighting).attention(features, words, mask)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3, 2, 6))
    assert not weights[~mask].any()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("level", ["sentence", "word", "both"])
def test_its_gradient_is_right(level: Level, weighting: Weighting) -> None:
    *inputs, mask = example(torch.float64)
    layer = norm(level, weighting).double()
    layer = copy.deepcopy(layer).eval()  # finite differences must not move the running statistics
    for x in inputs:
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: layer(*x, mask), tuple(inputs))


@pytest.mark.parametrize("level", LEVELS)
def test_the_memory_layout_of_features_changes_nothing_and_is_kept(level: Level) -> None:
    features, *caption = example()
    layer = norm(level)
    found = layer(features.contiguous(memory_format=torch.channels_last), *caption)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, layer(features, *caption), atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_zero_and_large_inputs_in_bfloat16_stay_finite(scale: float, weighting: Weighting) -> None:
    *inputs, mask = example()
    inputs = [(scale * x).requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = norm("both", weighting)(*inputs, mask)
    gradients = torch.autograd.grad(out.float().square().mean(), inputs)
    assert out.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
