"""What a system is to everything around it: an ``nn.Module`` that embeds, generates, and names its phases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ganvas.text.encoder import Text, TextEncoder


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch on its device."""

    images: Tensor
    """``(B, 3, S, S)`` in [-1, 1]."""
    tokens: Tensor | None = None
    """``(B, L)`` token ids of one matching caption each, for a phase that trains the text encoder."""
    text: Text | None = None
    """The matching captions, encoded; for a phase in which the text encoder is frozen."""
    wrong_text: Text | None = None
    """Captions of another image each: the mismatched pair."""
    wrong_images: Tensor | None = None
    """``(B, 3, S, S)``: the other images themselves, where a system asks for them."""
    labels: Tensor | None = None
    """``(B,)`` class numbers, long, where the data have classes."""
    targets: Tensor | None = None
    """``(B, kinds)`` long, for a phase with ``labels``: which of the names of each kind; -1 is none."""


class Losses(NamedTuple):
    """The terms of one objective, for the log, and the weighted total that is minimised."""

    total: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Adam:
    """How one network is optimised."""

    learning_rate: float
    betas: tuple[float, float] = (0.5, 0.999)
    halve_every: int = 0
    """Images after which the learning rate halves, again and again; 0 is never."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One optimizer update within a training step."""

    name: str
    modules: Sequence[nn.Module]
    """What is updated. Everything else is held still, and costs no weight gradients."""
    loss: Callable[[Batch, Any], Losses]
    """Called with the batch and what the phase's ``draw`` made of it."""
    adam: Adam


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training of a system, run to its end before the next begins."""

    name: str
    turns: Sequence[Turn]
    draw: Callable[[Batch], Any]
    """Everything that all turns of a step share: noise, text, generated images."""
    trains_text: bool = False
    """The batch carries tokens instead of encoded text."""
    wrong_images: bool = False
    """The batch carries the images of the mismatched pairs."""
    labels: Mapping[str, Sequence[str]] | None = None
    """The batch carries, instead of captions, which of these names each image has: of its ``class``, or of an
    attribute."""
    averaged: Sequence[nn.Module] = ()
    """Submodules of which a moving average is kept; it is what samples show, what later phases see, and what
    is saved in the end."""
    generates: bool = True
    """Whether sample sheets make sense in this phase."""
    finish: Callable[[Sequence[str]], None] | None = None
    """Called with the training captions when the phase is over; later phases see what it did."""


class System(nn.Module, ABC):
    """A text-to-image GAN: text encoder, generator and discriminators in one module.

    Attributes:
        text_encoder: captions to ``Text``.
        noise_dim: Z, width of the noise.
        image_size: side of the largest generated image, pixels.
        training_only: names of submodules that generating does not need; a saved model goes without them.
        generates: False for the dual encoders and classifiers of scores, which live by the same interface but
            draw nothing.
        reads_text: False for those whose recipes have no text encoder.
    """

    training_only: tuple[str, ...] = ()
    generates: bool = True
    reads_text: bool = True
    text_encoder: TextEncoder
    noise_dim: int
    image_size: int

    def embed(self, captions: Sequence[str]) -> Text:
        """Encode captions on the system's device."""
        return self.text_encoder.encode(captions)

    @abstractmethod
    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Images ``(B, 3, H, W)`` in [-1, 1], small to large; the last is the result.

        Args:
            text: B captions, encoded.
            noise: ``(B, Z)``. The result is deterministic for given noise.
        """

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The order of training."""

    def draw_noise(self, like: Tensor) -> Tensor:
        """Fresh noise ``(B, Z)`` from the system's distribution, on the device of ``like`` ``(B, ...)``."""
        return like.new_empty(len(like), self.noise_dim).normal_()

    def style_of(self, images: Tensor) -> Tensor:
        """The noise ``(B, Z)`` that would give images this style, for systems with a trained style encoder.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} has no style encoder")
