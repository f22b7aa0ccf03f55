"""XMC-GAN: Zhang, Koh, Baldridge, Lee and Yang, "Cross-Modal Contrastive Learning for Text-to-Image
Generation", CVPR 2021.

One generator stage without object labels. The sentence and z modulate its first blocks; from 16x16 on, every
place looks at the words of the caption, and what it finds modulates it too (attentional self-modulation). The
discriminator judges by projection, with spectral normalisation, and encodes images for the contrastive
losses. These maximise a bound on the information between

- images and sentences (``sentence``), and regions and words (``word``): of real pairs for the discriminator,
  of generated ones for the generator;
- generated and real images of the same caption, in the discriminator's features (``image``) and in those of a
  frozen network (``frozen``), for the generator.

``L_D = hinge + lambda (sentence + word)``; ``L_G = -D(G) + lambda (sentence + word + image + frozen)``. The
discriminator learns twice as often. There are no mismatched pairs: the rest of the batch is the contrast, and
here that of all ranks, where the official code keeps to the device's own.

Where the official code differs from the paper, the code's is the default: the first map is made of z alone,
16x16 maps are modulated by place already, the frozen network is ResNet-50. Ours: text encoders that have to
be trained are trained first, as DAMSM does; DAMSM's image encoder may be the frozen network; images of 16 to
64 pixels; ``unit_text``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.layers.conditioning import unit_scale
from ganvas.layers.frozen_network import TITLES, FrozenNetwork
from ganvas.losses.adversarial import hinge_fake_loss, hinge_real_loss
from ganvas.losses.contrastive import Contrast, vector_contrast, word_contrast
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.damsm import Damsm
from ganvas.systems.xmc_gan_networks import Discriminator, Generator, Seen, XmcGanSettings
from ganvas.text.encoder import Text, TextEncoder

__all__ = ["XmcGan", "XmcGanSettings"]


class Draw(NamedTuple):
    """What both turns share."""

    images: Tensor
    """``(B, 3, S, S)``, generated."""
    text: Text
    """As generator and discriminator read it."""


class XmcGan(System):
    """The system: text encoder, generator, discriminator, and what real and generated images are compared in.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences and words.
        image_size: S, a power of two from 16.
    """

    def __init__(self, settings: XmcGanSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size, self.noise_dim = settings, image_size, settings.noise_dim
        self.attends = settings.attention
        self.text_encoder = text_encoder
        dims = text_encoder.sentence_dim, text_encoder.word_dim
        self.generator = Generator(settings, *dims, image_size)
        self.discriminator = Discriminator(settings, *dims, image_size)
        by_damsm = settings.frozen == "damsm" and settings.frozen_weight > 0
        self.damsm: Damsm | None = None
        if text_encoder.trained_here or by_damsm:
            self.damsm = Damsm(settings.damsm, text_encoder, image_size)
        self.frozen: FrozenNetwork | None = None
        if settings.frozen != "damsm" and settings.frozen_weight > 0:
            self.frozen = FrozenNetwork(settings.frozen, settings.frozen_weights, settings.frozen_side)
        self.training_only = tuple(
            name for name, _ in self.named_children() if name not in ("text_encoder", "generator")
        )

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """One image for every caption."""
        return [self.generator(self._scaled(text), noise)]

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Of the map whose places look at words, ``(B, T, 16, 16)``."""
        if not self.attends:
            return super().attention(text, noise)
        return [self.generator.weights(self._scaled(text), noise)]

    def facts(self) -> Sequence[str]:
        """What frozen networks started from."""
        s, facts = self.settings, list(self.settings.damsm.facts() if self.damsm else ())
        if self.frozen is not None:
            start = {"pretrained": "trained on ImageNet", "random": "untrained"}.get(
                s.frozen_weights, f"with the weights of {Path(s.frozen_weights).name}"
            )
            facts.append(f"images compared in the features of: {TITLES[self.frozen.name]}, {start}")
        return facts

    def phases(self) -> Sequence[Phase]:
        """DAMSM where the text encoder has to be trained, then the GAN."""
        s = self.settings
        discriminator = Turn(
            name="discriminator",
            modules=[self.discriminator],
            loss=self.discriminator_loss,
            adam=Adam(learning_rate=s.discriminator_learning_rate),
        )
        generator = Turn(
            name="generator",
            modules=[self.generator],
            loss=self.generator_loss,
            adam=Adam(learning_rate=s.learning_rate),
            every=s.discriminator_steps,
        )
        gan = Phase(
            name="gan",
            turns=[discriminator, generator],
            draw=self.draw,
            words=True,
            averaged=[self.generator],
            start=self.frozen.start if self.frozen else None,
        )
        return [*(self.damsm.phases() if self.damsm else ()), gan]

    def draw(self, batch: Batch) -> Draw:
        """One pass of the generator, for both networks."""
        assert batch.text is not None
        text = self._scaled(batch.text)
        return Draw(self.generator(text, self.draw_noise(text.sentence)), text)

    def discriminator_loss(self, batch: Batch, draw: Draw) -> Losses:
        """Hinge on real and generated images, and the contrasts of real images with their captions."""
        num = len(batch.images)
        both = torch.cat([batch.images, draw.images.detach().to(batch.images.dtype)])
        seen: Seen = self.discriminator(both, draw.text.sentence)
        real, fake = seen.logits.tensor_split([num])
        hinge = {"real": hinge_real_loss(real), "fake": hinge_fake_loss(fake)}
        of_real = seen._replace(image=seen.image[:num], middle=seen.middle[:num])
        return _summed(hinge, self._cross_modal(of_real, draw.text))

    def generator_loss(self, batch: Batch, draw: Draw) -> Losses:
        """Hinge, the contrasts of generated images with their captions, and with the real images."""
        s = self.settings
        seen: Seen = self.discriminator(draw.images, draw.text.sentence)
        terms = self._cross_modal(seen, draw.text)
        if s.image_weight > 0:
            with torch.no_grad():
                real: Seen = self.discriminator(batch.images, draw.text.sentence)
            terms["image"] = s.image_weight, self._vectors(seen.image, real.image)
        if s.frozen_weight > 0:
            with torch.no_grad():
                target = self._frozen_features(batch.images)
            found = self._frozen_features(draw.images)
            if s.frozen_loss == "l2":
                terms["frozen"] = s.frozen_weight, F.mse_loss(found.float(), target.float())
            else:
                terms["frozen"] = s.frozen_weight, self._vectors(found, target)
        return _summed({"adversarial": -seen.logits.mean()}, terms)

    def _cross_modal(self, seen: Seen, text: Text) -> dict[str, tuple[float, Contrast | Tensor]]:
        """Images against sentences, and regions against words, each with its weight."""
        s = self.settings
        terms: dict[str, tuple[float, Contrast | Tensor]] = {}
        if s.sentence_weight > 0:
            terms["sentence"] = s.sentence_weight, self._vectors(seen.image, seen.sentence)
        if s.word_weight > 0:
            regions = self.discriminator.regions(seen.middle)
            terms["word"] = (
                s.word_weight,
                word_contrast(regions, text.words, text.mask, rho1=s.rho1, rho2=s.rho2, scale=s.word_scale),
            )
        return terms

    def _vectors(self, first: Tensor, second: Tensor) -> Contrast:
        return vector_contrast(first, second, temperature=self.settings.temperature)

    def _frozen_features(self, images: Tensor) -> Tensor:
        """``(B, D)``."""
        if self.frozen is not None:
            return cast(Tensor, self.frozen(images))
        assert self.damsm is not None
        return cast(Tensor, self.damsm.image_encoder(images).code)

    def _scaled(self, text: Text) -> Text:
        """Captions as generator and discriminator read them."""
        if not self.settings.unit_text:
            return text
        return Text(unit_scale(text.sentence), unit_scale(text.words), text.mask)


def _summed(plain: dict[str, Tensor], weighted: dict[str, tuple[float, Contrast | Tensor]]) -> Losses:
    """The total, and every term; of contrasts also how often the partner is found."""
    total, terms = torch.stack(list(plain.values())).sum(), dict(plain)
    for name, (weight, term) in weighted.items():
        loss = term.loss if isinstance(term, Contrast) else term
        total, terms[name] = total + weight * loss, loss
        if isinstance(term, Contrast):
            terms[f"{name}_accuracy"] = term.accuracy
    return Losses(total, terms)
