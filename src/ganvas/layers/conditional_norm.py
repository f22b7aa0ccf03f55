"""Semantic-conditioned batch normalisation: a caption scales, negates or shuts off feature maps.

Yin et al., SD-GAN (CVPR 2019), section 3.2. Batch normalisation's gain and bias get increments:
``(gamma + gamma_c) (x - mu) / sigma + (beta + beta_c)``. The sentence gives one pair for each feature map;
words give each place of a map its own.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.layers.attention import Attended

Level = Literal["none", "sentence", "word", "both"]
"""Which cues a normalisation reads; with none it is plain batch normalisation."""
Weighting = Literal["softmax", "sigmoid"]


class SentenceCue(nn.Module):
    """f_gamma and f_beta: a sentence to increments, by a network of one hidden layer each.

    Args:
        sentence_dim: D.
        channels: C, of the feature map.
        hidden: width of the hidden layers.
    """

    def __init__(self, sentence_dim: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.gamma = _perceptron(sentence_dim, hidden, channels)
        self.beta = _perceptron(sentence_dim, hidden, channels)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, D)`` to gamma_c and beta_c, ``(B, C)`` each."""
        return self.gamma(sentence), self.beta(sentence)

    def silence(self) -> None:
        """Begin with increments of 0."""
        for network in (self.gamma, self.beta):
            _zero(network[-1])


class VisualSemanticEmbedding(nn.Module):
    """VSE, ``vse_j = sum_t s(v_j^T f(w_t)) f(w_t)``: the words as each place j of a feature map sees them.

    Args:
        word_dim: D, width of words.
        channels: C, width of the feature map; f, the perception layer, is a linear map from D to C.
        weighting: s: a softmax over the words of the caption, or a sigmoid of each word by itself.
    """

    def __init__(self, word_dim: int, channels: int, *, weighting: Weighting = "softmax") -> None:
        super().__init__()
        self.weighting = weighting
        self.perceive = nn.Linear(word_dim, channels)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> Attended:
        """What each place sees, ``(B, C, H, W)``, and how much of which word, ``(B, T, H, W)``.

        Args:
            features: v, ``(B, C, H, W)``.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, True on real words; at least one in each row. The others count nothing.
        """
        perceived = self.perceive(words)
        weights = self.weights(features, perceived, mask)
        seen = torch.bmm(weights.transpose(1, 2), perceived.to(weights.dtype)).transpose(1, 2)
        return Attended(seen.view(features.shape), weights.view(*mask.shape, *features.shape[2:]))

    def weights(self, features: Tensor, perceived: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, H * W)``, for words that were perceived, ``(B, T, C)``."""
        queries = features.flatten(2)  # (B, C, H * W)
        scores = torch.bmm(perceived, queries)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.weighting == "sigmoid":
            return scores.sigmoid() * mask[..., None]
        return scores.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)


class WordCue(nn.Module):
    """A VSE, and the 1x1 convolution that makes increments of it.

    A weighted sum of words is convolved as the words are: what they add is computed once for each word, not
    for each place.

    Args:
        word_dim: D.
        channels: C, of the feature map.
        weighting: of the VSE.
    """

    def __init__(self, word_dim: int, channels: int, *, weighting: Weighting = "softmax") -> None:
        super().__init__()
        self.embedding = VisualSemanticEmbedding(word_dim, channels, weighting=weighting)
        self.out = nn.Linear(channels, 2 * channels)

    def forward(
        self, features: Tensor, words: Tensor, mask: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``gamma + gamma_c`` and ``beta + beta_c``, ``(B, C, H, W)`` each.

        Args:
            features: ``(B, C, H, W)``.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, as for the VSE.
            gamma: ``(B, C)`` or ``(1, C)``.
            beta: likewise.
        """
        perceived = cast(Tensor, self.embedding.perceive(words))
        weights = self.embedding.weights(features, perceived, mask).transpose(1, 2)  # (B, H * W, T)
        keys = F.linear(perceived, self.out.weight).to(weights.dtype)  # (B, T, 2C)
        found = []
        for base, bias, key in zip((gamma, beta), self.out.bias.chunk(2), keys.chunk(2, dim=2), strict=True):
            start = (base + bias)[:, None].expand(len(keys), -1, -1).to(keys.dtype)
            found.append(torch.baddbmm(start, weights, key).transpose(1, 2).view(features.shape))
        return found[0], found[1]

    def silence(self) -> None:
        """Begin with increments of 0."""
        _zero(self.out)


class SemanticNorm(nn.BatchNorm2d):
    """SCBN: batch normalisation whose gain and bias a caption changes.

    Args:
        channels: C.
        sentence_dim: D of sentences.
        word_dim: D of words.
        level: what changes them; the increments of ``both`` are added.
        weighting: of the VSE at word level.
        hidden: width of the hidden layers at sentence level; None is C.
    """

    def __init__(
        self,
        channels: int,
        sentence_dim: int,
        word_dim: int,
        *,
        level: Level = "sentence",
        weighting: Weighting = "softmax",
        hidden: int | None = None,
    ) -> None:
        super().__init__(channels)
        by_sentence, by_words = level in ("sentence", "both"), level in ("word", "both")
        self.sentence = SentenceCue(sentence_dim, channels, hidden or channels) if by_sentence else None
        self.words = WordCue(word_dim, channels, weighting=weighting) if by_words else None

    def forward(  # type: ignore[override]
        self, features: Tensor, sentence: Tensor, words: Tensor, mask: Tensor
    ) -> Tensor:
        """Normalise.

        Args:
            features: ``(B, C, H, W)``; they also ask the words.
            sentence: ``(B, D)``.
            words: ``(B, T, D)``.
            mask: ``(B, T)``, True on real words; at least one in each row.
        """
        if self.sentence is None and self.words is None:
            return super().forward(features)
        gamma, beta = self.weight[None], self.bias[None]
        if self.sentence is not None:
            of_gamma, of_beta = self.sentence(sentence)
            gamma, beta = gamma + of_gamma, beta + of_beta
        if self.words is not None:
            gamma, beta = self.words(features, words, mask, gamma, beta)
        else:
            gamma, beta = gamma[:, :, None, None], beta[:, :, None, None]
        normal = self._normalised(features)
        return torch.addcmul(beta.to(normal.dtype), normal, gamma.to(normal.dtype))

    def attention(self, features: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Which word each place looks at, ``(B, T, H, W)``, summing to 1 over words."""
        assert self.words is not None
        weights = cast(Tensor, self.words.embedding(features, words, mask).weights)
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)

    def _normalised(self, features: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, variance, momentum = self.running_mean, self.running_var, cast(float, self.momentum)
        return F.batch_norm(features, mean, variance, training=self.training, momentum=momentum, eps=self.eps)


def start_plain(module: nn.Module) -> None:
    """For ``Module.apply``: increments of 0, so that SCBN begins as plain batch normalisation."""
    if isinstance(module, SentenceCue | WordCue):
        module.silence()


def _perceptron(num_in: int, hidden: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_in, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_out))


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
