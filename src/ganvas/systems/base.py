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
    smaller: Sequence[Tensor] = ()
    """The same images at the smaller sizes that the phase asks for, in its order."""
    tokens: Tensor | None = None
    """``(B, L)`` token ids of one matching caption each, for a phase that trains the text encoder."""
    text: Text | None = None
    """The matching captions, encoded; for a phase in which the text encoder is frozen. Its words have width 0
    unless the phase asks for words."""
    wrong_text: Text | None = None
    """Captions of another image each, the mismatched pair; sentences alone."""
    further_texts: Sequence[Text] = ()
    """Further captions of the same images, encoded with their words, where a phase asks for several."""
    wrong_images: Tensor | None = None
    """``(B, 3, S, S)``: the other images themselves, where a system asks for them."""
    wrong_smaller: Sequence[Tensor] = ()
    """Those at the smaller sizes."""
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
    decay: float = 0.5
    """What the learning rate is multiplied with, again and again,"""
    decay_every: int = 0
    """each time that so many images were seen; 0 is never."""
    least: float = 0.0
    """The learning rate falls no further."""
    forgets: bool = False
    """At each such time Adam's moments start anew, as where code makes a new optimizer every epoch."""

    def rate(self, images: int) -> float:
        """The learning rate after ``images``."""
        times = images // self.decay_every if self.decay_every else 0
        return max(self.learning_rate * self.decay**times, min(self.least, self.learning_rate))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One optimizer update within a training step."""

    name: str
    modules: Sequence[nn.Module]
    """What is updated. Everything else is held still, and costs no weight gradients."""
    loss: Callable[[Batch, Any], Losses]
    """Called with the batch and what the phase's ``draw`` made of it."""
    adam: Adam
    every: int = 1
    """The turn is taken in every n-th step only: 2 for a generator whose discriminator learns twice as often.
    Each step has a batch of its own."""
    clipped: Sequence[nn.Module] = ()
    """The gradients of these of its modules, taken together, are scaled down to a norm of"""
    clip_norm: float = 0.0
    """at most this."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training of a system, run to its end before the next begins."""

    name: str
    turns: Sequence[Turn]
    draw: Callable[[Batch], Any]
    """Everything that all turns of a step share: noise, text, generated images."""
    trains_text: bool = False
    """The batch carries tokens instead of encoded text."""
    words: bool = False
    """The encoded text has words, not only sentences; then one caption of an image is drawn, or"""
    captions: int = 1
    """so many, the others as ``further_texts``."""
    image_size: int | None = None
    """Side of the batch's images, pixels; by default the recipe's."""
    smaller: Sequence[int] = ()
    """Sides at which the batch carries its images too."""
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
    extra: bool = False
    """It trains something beside what generates, on which nothing builds; comparisons leave it out."""
    start: Callable[[], None] | None = None
    """Called before the phase begins, and again whenever a run goes on with it or with a later one."""
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
        text_optional: whether recipes may leave the text encoder out; captions are then not read.
        attends: whether ``attention`` is offered.
        lays_out: whether ``layout`` is.
    """

    training_only: tuple[str, ...] = ()
    generates: bool = True
    reads_text: bool = True
    text_optional: bool = False
    attends: bool = False
    lays_out: bool = False
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

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Which word each place of an image was drawn from, for systems that attend to words.

        Args:
            text: B captions, encoded.
            noise: ``(B, Z)``.

        Returns:
            For each stage that attends, small to large, weights ``(B, T, H, W)`` that sum to 1 over words.
        """
        raise NotImplementedError(f"{type(self).__name__} does not attend to words")

    def layout(self, images: Tensor, text: Text) -> list[Tensor]:
        """Which word each place of real images shows, as ``attention`` says it of generated ones.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1], at the system's size.
            text: their captions, encoded.
        """
        raise NotImplementedError(f"{type(self).__name__} finds no layouts of real images")

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The order of training."""

    def facts(self) -> Sequence[str]:
        """What a model card should say beside the recipe, a line each: what networks started from, for
        example.
        """
        return ()

    def draw_noise(self, like: Tensor) -> Tensor:
        """Fresh noise ``(B, Z)`` from the system's distribution, on the device of ``like`` ``(B, ...)``."""
        return like.new_empty(len(like), self.noise_dim).normal_()

    def style_of(self, images: Tensor) -> Tensor:
        """The noise ``(B, Z)`` that would give images this style, for systems with a trained style encoder.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} has no style encoder")
