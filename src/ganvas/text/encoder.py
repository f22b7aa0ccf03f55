"""What every text encoder offers: captions in, sentence, words and mask out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Text(NamedTuple):
    """Encoded captions."""

    sentence: Tensor
    """``(B, D_sentence)``"""
    words: Tensor
    """``(B, T, D_words)``; zero on padding."""
    mask: Tensor
    """``(B, T)``, bool: True on real words."""

    def rows(self, index: Tensor | slice) -> Text:
        """The captions at ``index``."""
        return Text(self.sentence[index], self.words[index], self.mask[index])

    def to(self, device: torch.device) -> Text:
        """The same, on another device."""
        return Text(*(part.to(device, non_blocking=True) for part in self))


class TextEncoder(nn.Module, ABC):
    """A text encoder: a module that also knows how to turn strings into its own token ids.

    Attributes:
        sentence_dim: width of the sentence vector.
        word_dim: width of a word vector.
        can_standardize: whether ``standardize`` is offered.
        trained_here: whether a run trains it; False for one that comes trained and stays frozen.
    """

    sentence_dim: int
    word_dim: int
    trained_here: bool = True
    can_standardize: bool = False

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids ``(B, L)``, long, on the CPU; 0 is padding. Too long captions are truncated."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Text:
        """Encode token ids ``(B, L)`` as ``tokenize`` makes them."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """What a model folder must hold, besides weights, to make this encoder again: file name to text.

        An encoder with a vocabulary gives ``{"tokenizer.json": ...}``; one without gives nothing.
        """

    def words_of(self, caption: str) -> list[str]:
        """The words of a caption that ``forward`` gives vectors for, in order."""
        raise NotImplementedError(f"{type(self).__name__} reads no words")

    def unknown_words(self, caption: str) -> list[str]:
        """Words and symbols of a caption that the encoder has never seen, if it has a vocabulary."""
        return []

    def standardize(self, captions: Sequence[str], *, decorrelate: bool = False) -> None:
        """Change the last layer so that over ``captions`` each dimension of the sentence has mean 0,
        deviation 1; or, decorrelated, every direction that carries more than a ten-thousandth of the variance
        about as much as any other.
        """
        raise NotImplementedError

    def encode(self, captions: Sequence[str]) -> Text:
        """Strings to ``Text``, on the device of the encoder."""
        device = next(self.parameters()).device
        encoded: Text = self(self.tokenize(captions).to(device))
        return encoded


class NoText(TextEncoder):
    """For systems that read no captions: every one becomes a sentence of width 0."""

    sentence_dim = word_dim = 0
    trained_here = False
    _place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_place", torch.empty(0), persistent=False)  # knows the device

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """A padding token each."""
        return torch.zeros(len(captions), 1, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Text:
        """Nothing, ``(B, 0)``."""
        nothing = tokens.new_zeros(len(tokens), 0).float()
        return Text(nothing, nothing[:, None], tokens > 0)

    def files(self) -> dict[str, str]:
        """None."""
        return {}

    def encode(self, captions: Sequence[str]) -> Text:
        """Nothing, on the device of the encoder."""
        return cast(Text, self(self.tokenize(captions).to(self._place.device)))
