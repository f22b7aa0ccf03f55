"""StackGAN: Zhang et al., "StackGAN: Text to Photo-realistic Image Synthesis with Stacked Generative
Adversarial Networks", ICCV 2017.

Stage-I draws a small image from a caption, ``s_0 = G_0(z, c_0)``; Stage-II reads the caption again and
redraws that image large, ``G(s_0, c)``. Stage-I is trained first and then held still. In both stages the
condition c is a sample, ``c = mu(phi) + sigma(phi) * epsilon`` (conditioning augmentation, section 3.2), and
training minimises

- ``L_D = -log D(I, phi) - 1/2 [log(1 - D(I, phi')) + log(1 - D(G, phi))]`` with mismatched captions phi';
- ``L_G = -log D(G, phi) + lambda KL(N(mu, Sigma) || N(0, 1))`` (equations 2 to 4, non-saturating as in the
  code).

The authors released two forms, which differ in their networks: TensorFlow (birds, flowers) and PyTorch
(COCO). ``form`` chooses one of them, and every difference is a setting too. Where both differ from the paper:
``kl_weight``. Ours: losses on logits; the generator joins ``[z; c]`` in this order in both forms; Stage-I
keeps its running statistics while Stage-II trains (``stage1_statistics``); stages of other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ganvas.errors import GanvasError
from ganvas.layers.conditioning import ConditioningAugmentation, kl_loss, truncated_normal
from ganvas.layers.stages_trained import StagesTrained
from ganvas.losses.adversarial import fake_loss, real_loss
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.joint_embedding import JointEmbedding
from ganvas.systems.stackgan_networks import Discriminator, Drawn, StackGanSettings, Stage1, Stage2
from ganvas.text.encoder import Text, TextEncoder

_OFFICIAL_STAGE1 = 64


class StackGan(System):
    """The system: text encoder, two generators, a discriminator for each.

    While Stage-I is trained, and in models saved then, ``generate`` gives its images alone.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences.
        image_size: S, a power of two from 16.

    Raises:
        GanvasError: stages or sizes that cannot be.
    """

    training_only = ("discriminator1", "discriminator2", "joint_embedding")

    def __init__(self, settings: StackGanSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings = s = settings.resolved()
        self.image_size, self.text_encoder = image_size, text_encoder
        self.stage_sizes = _stage_sizes(s, image_size)
        first, dim, stacked = self.stage_sizes[0], text_encoder.sentence_dim, len(self.stage_sizes) == 2
        self.stage1 = Stage1(s, dim, first)
        self.stage2 = Stage2(s, dim, first, image_size) if stacked else None
        self.discriminator1 = Discriminator(s, dim, first, stage=1)
        self.discriminator2 = Discriminator(s, dim, image_size, stage=2) if stacked else None
        epsilon = s.condition_dim if s.augmentation else 0
        self._noise_parts = [s.noise_dim, epsilon, epsilon if stacked and s.stage2_text else 0]
        self.noise_dim = sum(self._noise_parts)
        self.trained = StagesTrained(len(self.stage_sizes))
        self.joint_embedding = (
            JointEmbedding(s.joint_embedding, text_encoder, self._text_size)
            if text_encoder.trained_here
            else None
        )

    @property
    def _text_size(self) -> int:
        """Side of the images that the text encoder is trained against."""
        return min(self.image_size, _OFFICIAL_STAGE1)

    def draw_noise(self, like: Tensor) -> Tensor:
        """``(B, Z + N + N)``: z, and the epsilon of each stage's conditioning augmentation."""
        z = like.new_empty(len(like), self._noise_parts[0]).normal_()
        epsilon = like.new_empty(len(like), sum(self._noise_parts[1:]))
        truncated = self.settings.epsilon == "truncated"
        return torch.cat([z, truncated_normal(epsilon) if truncated else epsilon.normal_()], dim=1)

    def _parts(self, noise: Tensor) -> tuple[Tensor, ...]:
        """z, and the epsilon of each stage; ``(B, 0)`` where there is none."""
        return torch.split_with_sizes(noise, self._noise_parts, dim=1)

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Stage-I's images, and those of Stage-II once it is being trained."""
        z, epsilon1, epsilon2 = self._parts(noise)
        small: Drawn = self.stage1(text.sentence, z, epsilon1)
        if self.stage2 is None or self.trained.count < 2:
            return [small.images]
        return [small.images, self.stage2(small, text.sentence, epsilon2).images]

    def phases(self) -> Sequence[Phase]:
        """Text encoder where it is trained here, Stage-I, then Stage-II on the frozen Stage-I."""
        text = self.joint_embedding.phases() if self.joint_embedding else ()
        phases = [replace(phase, image_size=self._text_size) for phase in text]
        for number, size in enumerate(self.stage_sizes, 1):
            phases.append(self._phase(number, size))
        return phases

    def _phase(self, number: int, size: int) -> Phase:
        """One stage's."""
        s = self.settings
        generator, discriminator = self.generator(number), self.discriminator(number)
        decay = s.stage1_halve_every if number == 1 else s.stage2_halve_every
        adam = Adam(learning_rate=s.learning_rate, decay_every=decay)
        d_adam = replace(adam, learning_rate=s.discriminator_learning_rate or s.learning_rate)
        d_loss, g_loss = (partial(loss, number) for loss in (self.discriminator_loss, self.generator_loss))
        return Phase(
            name=f"stage{number}",
            turns=[
                Turn(name="discriminator", modules=[discriminator], loss=d_loss, adam=d_adam),
                Turn(name="generator", modules=[generator], loss=g_loss, adam=adam),
            ],
            draw=partial(self.draw, number),
            image_size=size,
            wrong_images=s.mismatch == "image",
            averaged=[generator],
            start=partial(self.trained.set, number),
        )

    def discriminator(self, number: int) -> Discriminator:
        """Of stage 1 or 2."""
        chosen = self.discriminator1 if number == 1 else self.discriminator2
        assert chosen is not None
        return chosen

    def generator(self, number: int) -> Stage1 | Stage2:
        """Of stage 1 or 2."""
        chosen = self.stage1 if number == 1 else self.stage2
        assert chosen is not None
        return chosen

    def draw(self, number: int, batch: Batch) -> Drawn:
        """Noise, and what the stage makes of it and the batch's captions."""
        assert batch.text is not None
        sentence = batch.text.sentence
        z, epsilon1, epsilon2 = self._parts(self.draw_noise(sentence))
        if number == 1:
            return cast(Drawn, self.stage1(sentence, z, epsilon1))
        assert self.stage2 is not None
        return cast(Drawn, self.stage2(self._frozen_stage1(sentence, z, epsilon1), sentence, epsilon2))

    @torch.no_grad()
    def _frozen_stage1(self, sentence: Tensor, z: Tensor, epsilon: Tensor) -> Drawn:
        """What Stage-I gives to Stage-II in training."""
        self.stage1.train(self.settings.stage1_statistics == "batch")
        small: Drawn = self.stage1(sentence, z, epsilon)
        self.stage1.eval()
        return small

    def discriminator_loss(self, number: int, batch: Batch, drawn: Drawn) -> Losses:
        """Real and matching against real but mismatched, and against generated."""
        d = self.discriminator(number)
        real, fake = d.features(batch.images), d.features(drawn.images.detach())
        text = self._judged(batch, drawn)
        terms = {
            "real": real_loss(d.judge(real, text), self.settings.real_label),
            "wrong": self._wrong_loss(d, number, batch, real, text),
            "fake": fake_loss(d.judge(fake, text)),
        }
        total = terms["real"] + (terms["wrong"] + terms["fake"]) / 2
        if d.unconditional is not None:
            terms["uncond_real"] = real_loss(d.judge_alone(real), self.settings.real_label)
            terms["uncond_fake"] = fake_loss(d.judge_alone(fake))
            total = (terms["real"] + terms["uncond_real"]) / 2
            total = total + (terms["wrong"] + terms["fake"] + terms["uncond_fake"]) / 3
        return Losses(total, self._named(number, terms))

    def generator_loss(self, number: int, batch: Batch, drawn: Drawn) -> Losses:
        """``-log D(G, phi)``, and the KL term of the stage's own conditioning augmentation."""
        generator, d = self.generator(number), self.discriminator(number)
        if self.settings.redraw_noise:
            drawn = self.draw(number, batch)
        features = d.features(drawn.images)
        terms = {"matching": real_loss(d.judge(features, self._judged(batch, drawn)))}
        if d.unconditional is not None:
            terms["uncond"] = real_loss(d.judge_alone(features))
        total = sum(terms.values(), torch.zeros_like(terms["matching"]))
        if isinstance(generator.condition, ConditioningAugmentation):
            terms["kl"] = kl_loss(drawn.condition.mean, drawn.condition.log_variance)
            total = total + self.settings.kl_weight * terms["kl"]
        return Losses(total, self._named(number, terms))

    def _wrong_loss(self, d: Discriminator, number: int, batch: Batch, real: Tensor, text: Tensor) -> Tensor:
        """Of the mismatched pairs."""
        if self.settings.mismatch == "image":
            assert batch.wrong_images is not None
            return fake_loss(d.judge(d.features(batch.wrong_images), text))
        if self.settings.mismatch == "shift":
            if len(real) < 2:  # nobody to take a caption from
                return real.new_zeros((), dtype=torch.float32)
            return fake_loss(d.judge(real[:-1], text[1:]))
        assert batch.wrong_text is not None
        wrong = batch.wrong_text.sentence
        if self.settings.judges == "mean":
            reads = self.generator(number).condition or self.stage1.condition
            with torch.no_grad():
                wrong = reads(wrong, torch.zeros_like(text)).mean
        return fake_loss(d.judge(real, wrong))

    def _judged(self, batch: Batch, drawn: Drawn) -> Tensor:
        """What discriminators compare images with, ``(B, D)`` or ``(B, N)``."""
        assert batch.text is not None
        return batch.text.sentence if self.settings.judges == "sentence" else drawn.condition.mean.detach()

    def _named(self, number: int, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms with the stage's size, as logs show them."""
        return {f"{name}_{self.stage_sizes[number - 1]}": value for name, value in terms.items()}


def _stage_sizes(s: StackGanSettings, image_size: int) -> list[int]:
    """Sides of the images of each stage."""
    stages = s.stages or (2 if image_size > _OFFICIAL_STAGE1 else 1)
    if stages not in (1, 2):
        raise GanvasError(f"settings.stages: should be 1 or 2, not {stages}")
    last = [image_size] if stages == 2 else []
    first = s.stage1_size or (min(_OFFICIAL_STAGE1, image_size // 2) if last else image_size)
    if stages == 1 and first != image_size:
        raise GanvasError(
            f"settings.stage1_size: a single stage draws images of {image_size} px; leave {first} out"
        )
    if stages == 2 and (first not in (8, 16, 32, 64, 128) or first >= image_size):
        raise GanvasError(
            f"settings.stage1_size: should be a power of two from 8, below {image_size} px, not {first}"
        )
    return [first, *last]
