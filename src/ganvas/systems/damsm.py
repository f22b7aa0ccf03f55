"""DAMSM, the deep attentional multimodal similarity model: Xu et al., "AttnGAN", CVPR 2018, section 3.2.

A text encoder and an image encoder share a space in which the words of a caption find the regions of its
image, and its sentence the whole image. Both are trained on real pairs first. Frozen, the model then tells a
generator how well an image shows its caption, word by word: L_DAMSM of equation 13.

Where the official code differs from the paper, both are settings: the root of equation 10, gamma 1 (5 in the
paper), moments of Adam that are forgotten after every epoch, running statistics of the frozen network that
drift. Ours: image encoders that need no Inception weights, and a moving average of both encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.region_encoder import (
    InceptionRegions,
    Lite0Regions,
    PretrainedRegions,
    RegionEncoder,
    Regions,
    ScratchRegions,
)
from ganvas.losses.damsm import damsm_losses, matching_attention, sentence_scores, word_scores
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.text.encoder import Text, TextEncoder


@dataclass(frozen=True, kw_only=True)
class DamsmSettings:
    """Settings of DAMSM. Defaults are the official configuration for CUB."""

    image_encoder: Literal["inception", "lite0", "scratch"] = "inception"
    """Inception-v3 [code, paper] or EfficientNet-Lite0, both trained on ImageNet and frozen below two linear
    heads; or a small network that is trained whole and needs no weights (ours)."""
    weights: str = "pretrained"
    """Of a frozen network: ``pretrained`` fetches torchvision's once (``lite0``: takes those of its package),
    ``random`` leaves fresh ones, for those who load their own; or the path of a file."""
    align_corners: bool = True
    """Of the resizing to Inception's 299 pixels; True is PyTorch 0.3, with which the releases were trained
    [code]."""
    side: int | None = None
    """Side of what ``lite0`` sees, pixels, by default the image's, at least 128; its regions are a 16th of
    it."""
    width: int = 32
    """Channels of ``scratch`` at half resolution."""
    regions: int = 8
    """Side of the regions of ``scratch``."""
    gamma1: float = 4.0
    """How much a word prefers the regions that prefer it: 4 [code], 5 [paper]."""
    gamma2: float = 5.0
    """How much the best words of a caption count more than the others [code, paper]."""
    gamma3: float = 10.0
    """What scores are multiplied with before the softmax over the batch [code, paper]."""
    root: bool = False
    """The root ``1 / gamma2`` of equation 10 [paper]; the code goes without it."""
    same_class_matches: bool = True
    """Other pairs of the same class are no negatives, where the data have classes [code]."""
    learning_rate: float = 2e-3
    """Adam's [code]."""
    decay: float = 0.98
    """What the learning rate is multiplied with [code],"""
    decay_every: int = 0
    """each time that so many images were seen: an epoch [code]; 0 is never."""
    least_learning_rate: float = 2e-4
    """The learning rate falls no further [code]."""
    forgets: bool = False
    """At each such time Adam's moments start anew [code]."""
    clip_norm: float = 0.25
    """The text encoder's gradients are scaled down to this norm [code]; 0 is never."""
    trained_at: int | None = None
    """Side of the images that both encoders are trained on, pixels, by default the recipe's; 299 [code]."""
    trunk_drift: bool = False
    """The frozen network normalises with the statistics of the batch while the heads are trained, and its
    running ones drift [code]."""
    averaged: bool = False
    """The phase leaves a moving average of both encoders behind (ours)."""

    def __post_init__(self) -> None:
        if self.side is not None and (self.side < 64 or self.side % 32):
            raise GanvasError(f"side={self.side} of DAMSM's lite0: should be a multiple of 32, at least 64")
        for name in ("width", "regions"):
            value = getattr(self, name)
            if value < 1 or (name == "regions" and value & (value - 1)):
                raise GanvasError(
                    f"{name}={value} of DAMSM: should be at least 1, and regions a power of two"
                )
        if self.trained_at is not None and (self.trained_at < 16 or self.image_encoder == "scratch"):
            raise GanvasError(
                f"trained_at={self.trained_at} of DAMSM: should be at least 16, and left out for"
                " image_encoder scratch, which knows one size"
            )
        for name in ("gamma1", "gamma2", "gamma3", "learning_rate"):
            if getattr(self, name) <= 0:
                raise GanvasError(f"{name}={getattr(self, name)} of DAMSM: should be greater than 0")

    def facts(self) -> Sequence[str]:
        """A line for a model card: what the image encoder started from."""
        if self.image_encoder == "scratch":
            return ["DAMSM's image encoder: a small network, trained from scratch"]
        network = {"inception": "Inception-v3", "lite0": "EfficientNet-Lite0"}[self.image_encoder]
        start = {
            "pretrained": "trained on ImageNet and frozen below its two heads",
            "random": "with weights that were given to it",
        }.get(self.weights, f"frozen with the weights of {Path(self.weights).name}")
        return [f"DAMSM's image encoder: {network}, {start}"]


def _image_encoder(settings: DamsmSettings, text_encoder: TextEncoder, image_size: int) -> RegionEncoder:
    word_dim, sentence_dim = text_encoder.word_dim, text_encoder.sentence_dim
    if settings.image_encoder == "inception":
        return InceptionRegions(word_dim, sentence_dim, align_corners=settings.align_corners)
    if settings.image_encoder == "lite0":
        return Lite0Regions(word_dim, sentence_dim, side=settings.side or max(128, image_size))
    return ScratchRegions(
        word_dim, sentence_dim, image_size=image_size, width=settings.width, side=settings.regions
    )


class Draw(NamedTuple):
    """Both sides of a batch, encoded."""

    images: Regions
    text: Text


class Damsm(nn.Module):
    """The image encoder beside a text encoder, the phase that trains both, and what they say of images.

    Args:
        settings: encoder, gammas, training.
        text_encoder: stays the caller's submodule; words and sentences have its widths. One that is frozen
            is left as it is.
        image_size: S, pixels.

    Attributes:
        image_encoder: images to ``Regions``.
    """

    def __init__(self, settings: DamsmSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.text = [text_encoder]  # in a list, so that its weights are not saved twice
        self.image_encoder = _image_encoder(settings, text_encoder, image_size)

    def loss(self, images: Tensor, text: Text, labels: Tensor | None = None) -> Losses:
        """L_DAMSM (equation 13), for a generator.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1], of any size where the encoder is not ``scratch``.
            text: their captions.
            labels: ``(B,)`` class numbers; read where ``same_class_matches`` is set.
        """
        return self._losses(*self._scores(self.image_encoder(images), text), labels)

    def attention(self, images: Tensor, text: Text) -> Tensor:
        """``(B, T, H, W)``: how much each word looks at each region, summing to 1 over regions."""
        regions = self.image_encoder(images).regions
        return matching_attention(regions, text.words, text.mask, gamma1=self.settings.gamma1)

    def phases(self) -> Sequence[Phase]:
        """One phase, "damsm"; a system whose child this is, and the text encoder too."""
        s = self.settings
        text = [self.text[0]] if self.text[0].trained_here else []
        turn = Turn(
            name="damsm",
            modules=[*text, *self.image_encoder.trained],
            loss=self.training_loss,
            adam=Adam(
                learning_rate=s.learning_rate,
                decay=s.decay,
                decay_every=s.decay_every,
                least=s.least_learning_rate,
                forgets=s.forgets,
            ),
            clipped=text,
            clip_norm=s.clip_norm if text else 0.0,
        )
        return [
            Phase(
                name="damsm",
                turns=[turn],
                draw=self.draw,
                trains_text=bool(text),
                words=not text,
                image_size=s.trained_at,
                averaged=[*text, self] if s.averaged else [],
                generates=False,
                start=self.start,
            )
        ]

    def start(self) -> None:
        """Put the weights of a frozen network in place, unless it has some: of encoders that were taken over,
        or of a run that goes on.

        Raises:
            GanvasError: they are not here, cannot be fetched, or are others.
        """
        encoder, weights = self.image_encoder, self.settings.weights
        if isinstance(encoder, PretrainedRegions) and encoder.is_fresh and weights != "random":
            encoder.load_pretrained(None if weights == "pretrained" else weights)

    def draw(self, batch: Batch) -> Draw:
        """Both encoders on a batch of real pairs."""
        if isinstance(self.image_encoder, PretrainedRegions):
            self.image_encoder.trunk.train(self.settings.trunk_drift)
        if self.text[0].trained_here:
            assert batch.tokens is not None
            text = cast(Text, self.text[0](batch.tokens))
        else:
            assert batch.text is not None
            text = batch.text
        return Draw(self.image_encoder(batch.images), text)

    def training_loss(self, batch: Batch, draw: Draw) -> Losses:
        """L_DAMSM; the log also has how often an image ranks its own caption first in the batch, by words and
        by sentences.
        """
        words, sentence = self._scores(*draw)
        losses = self._losses(words, sentence, batch.labels)
        own = torch.arange(len(words), device=words.device)
        return Losses(
            losses.total,
            {
                **losses.terms,
                "words_accuracy": (words.detach().argmax(dim=1) == own).float().mean(),
                "sentence_accuracy": (sentence.detach().argmax(dim=1) == own).float().mean(),
            },
        )

    def _scores(self, images: Regions, text: Text) -> tuple[Tensor, Tensor]:
        """Of words and of sentences, ``(B, B)``: rows are images."""
        s = self.settings
        words = word_scores(
            images.regions, text.words, text.mask, gamma1=s.gamma1, gamma2=s.gamma2, root=s.root
        )
        return words, sentence_scores(images.code, text.sentence)

    def _losses(self, words: Tensor, sentence: Tensor, labels: Tensor | None) -> Losses:
        known = labels if self.settings.same_class_matches else None
        parts = damsm_losses(words, sentence, known, gamma3=self.settings.gamma3)
        terms = {
            f"{name}_{direction}": value
            for name, directions in parts._asdict().items()
            for direction, value in directions._asdict().items()
        }
        return Losses(torch.stack(list(terms.values())).sum(), terms)


class DamsmEncoders(System):
    """DAMSM by itself: a text encoder and an image encoder, for systems and scores that take them over.

    Args:
        settings: of DAMSM.
        text_encoder: captions to words and sentences.
        image_size: S, pixels.
    """

    noise_dim = 0
    generates = False

    def __init__(self, settings: DamsmSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.text_encoder = text_encoder
        self.damsm = Damsm(settings, text_encoder, image_size)

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Not what it is for."""
        raise TypeError("DAMSM generates nothing")

    def image_regions(self, images: Tensor) -> Regions:
        """``(B, 3, H, W)`` in [-1, 1], any size, region by region and as a whole."""
        if images.shape[-1] != self.image_size:
            images = F.interpolate(images, size=self.image_size, mode="bilinear", antialias=True)
        return cast(Regions, self.damsm.image_encoder(images))

    def image_features(self, images: Tensor) -> Tensor:
        """The same to unit vectors ``(B, D)`` of whole images."""
        return F.normalize(self.image_regions(images).code.float(), dim=1)

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """Captions to unit vectors ``(B, D)`` of sentences."""
        return F.normalize(self.embed(captions).sentence.float(), dim=1)

    def facts(self) -> Sequence[str]:
        """What the image encoder started from."""
        return self.settings.facts()

    def phases(self) -> Sequence[Phase]:
        """One."""
        return self.damsm.phases()
