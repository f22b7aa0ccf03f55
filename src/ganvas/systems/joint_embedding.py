"""Training a text encoder against images by structured joint embedding (Reed et al., CVPR 2016).

Image features and sentences live in one space; each image must score its own caption above the captions of
other images, and each caption its own image above other images, by a margin of 1 in the inner product. The
image encoder is ours (the original used GoogLeNet features, which are not at hand for every data set) and is
thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.image_encoder import ImageEncoder
from ganvas.losses.joint_embedding import info_nce, structured_joint_embedding_loss
from ganvas.systems.base import Adam, Batch, Losses, Phase, Turn
from ganvas.text.encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class JointEmbeddingSettings:
    """How a text encoder is trained against images."""

    objective: Literal["hinge", "info-nce"] = "hinge"
    """Hinge on inner products with margin 1 (CVPR 2016), or InfoNCE on cosines (ours)."""
    temperature: float = 0.1
    """Of InfoNCE."""
    same_class_matches: bool = True
    """Pairs of the same class are not counted as mismatched, where the data have classes."""
    image_width: int = 32
    """Channels of the image encoder at full resolution [inferred]."""
    standardize: bool = False
    """Afterwards rescale the encoder's last layer so that each dimension of the sentence has mean 0 and
    deviation 1 over the training captions (ours). Ranking alone leaves captions very close together, and the
    networks that read them learn slowly."""
    decorrelate: bool = False
    """And spread that variance over all directions that carry some (ours): a few have nearly all of it
    otherwise."""
    learning_rate: float = 7e-4
    """Adam's; 7e-4 is the released encoders' [code]."""


class JointEmbedding(nn.Module):
    """The image encoder beside a text encoder, and the phase that trains both.

    Args:
        settings: objective and widths.
        text_encoder: the encoder to train; it stays the caller's submodule. One that is frozen is left as it
            is.
        image_size: S, pixels.
        features: width of the space, to which a linear layer then maps sentences; 0 is the sentence's own.
    """

    def __init__(
        self,
        settings: JointEmbeddingSettings,
        text_encoder: TextEncoder,
        image_size: int,
        *,
        features: int = 0,
    ) -> None:
        super().__init__()
        if settings.decorrelate and not settings.standardize:
            raise GanvasError("settings.joint_embedding.decorrelate: is a part of standardize; set that true")
        if settings.standardize and not text_encoder.can_standardize:
            raise GanvasError(
                "settings.joint_embedding.standardize: this text encoder has no last layer to rescale;"
                " set it false"
            )
        self.settings = settings
        self.text = [text_encoder]  # in a list, so that its weights are not saved twice
        width = features or text_encoder.sentence_dim
        self.image_encoder = ImageEncoder(settings.image_width, width, image_size)
        self.text_projection = nn.Linear(text_encoder.sentence_dim, features) if features else nn.Identity()

    def phases(self) -> Sequence[Phase]:
        """One phase, "text"."""
        trained = [self.text[0]] if self.text[0].trained_here else []
        turn = Turn(
            name="text",
            modules=[*trained, self.image_encoder, self.text_projection],
            loss=self.loss,
            adam=Adam(learning_rate=self.settings.learning_rate, betas=(0.9, 0.999)),
        )
        return [
            Phase(
                name="text",
                turns=[turn],
                draw=self.draw,
                trains_text=bool(trained),
                generates=False,
                finish=partial(self.text[0].standardize, decorrelate=self.settings.decorrelate)
                if self.settings.standardize
                else None,
            )
        ]

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Image features and sentences, both ``(B, D)``."""
        if self.text[0].trained_here:
            assert batch.tokens is not None
            sentence = cast(Tensor, self.text[0](batch.tokens).sentence)
        else:
            assert batch.text is not None
            sentence = batch.text.sentence
        return cast(Tensor, self.image_encoder(batch.images)), cast(Tensor, self.text_projection(sentence))

    def loss(self, batch: Batch, draw: tuple[Tensor, Tensor]) -> Losses:
        """The chosen objective; ``accuracy`` is how often an image ranks its own caption first in the
        batch.
        """
        images, sentences = draw
        labels = batch.labels if self.settings.same_class_matches else None
        if self.settings.objective == "hinge":
            loss = structured_joint_embedding_loss(images, sentences, labels)
        else:
            loss = info_nce(images, sentences, self.settings.temperature, labels)
        with torch.no_grad():
            best = (images.float() @ sentences.float().T).argmax(dim=1)
            accuracy = (best == torch.arange(len(best), device=best.device)).float().mean()
        return Losses(loss, {"joint_embedding": loss, "accuracy": accuracy})
