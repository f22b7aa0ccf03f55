"""An image-text dual encoder, for scores: it says which caption an image shows. It generates nothing.

Trained on real images with InfoNCE, apart from every system that it scores (the independent R-precision of
XMC-GAN, Zhang et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from ganvas.systems.base import Phase, System
from ganvas.systems.joint_embedding import JointEmbedding, JointEmbeddingSettings
from ganvas.text.encoder import Text, TextEncoder


@dataclass(frozen=True, kw_only=True)
class RetrieverSettings:
    """Settings of the dual encoder."""

    joint_embedding: JointEmbeddingSettings = field(default_factory=JointEmbeddingSettings)
    """Objective and widths; recipes take InfoNCE."""
    features: int = 0
    """Width of the space, to which a linear layer then maps sentences; 0 is the sentence's own, without it.
    A frozen text encoder wants one."""


class Retriever(System):
    """Text encoder and image encoder with one space of features.

    Args:
        settings: objective and widths.
        text_encoder: captions to sentences ``(B, D)``.
        image_size: S, pixels.
    """

    noise_dim = 0
    generates = False

    def __init__(self, settings: RetrieverSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.text_encoder = text_encoder
        self.joint_embedding = JointEmbedding(
            settings.joint_embedding, text_encoder, image_size, features=settings.features
        )

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Not what it is for."""
        raise TypeError("a retriever generates nothing")

    def image_features(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1], any size, to unit vectors ``(B, D)``."""
        if images.shape[-1] != self.image_size:
            images = F.interpolate(images, size=self.image_size, mode="bilinear", antialias=True)
        return F.normalize(self.joint_embedding.image_encoder(images).float(), dim=1)

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """Captions to unit vectors ``(B, D)``."""
        sentences = self.joint_embedding.text_projection(self.embed(captions).sentence)
        return F.normalize(sentences.float(), dim=1)

    def phases(self) -> Sequence[Phase]:
        """One."""
        (phase,) = self.joint_embedding.phases()
        text = [self.text_encoder] if self.text_encoder.trained_here else []
        return [replace(phase, averaged=[*text, self.joint_embedding])]
