"""AttnGAN: Xu et al., "AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative Adversarial
Networks", CVPR 2018.

A first generator stage draws a small image from the sentence and noise. Each further stage lets every place
of the feature map look at the words (``F^attn``, equation 2), and draws the image at twice the size from
features and words together (equation 1). Every image has a discriminator of its own, which judges it alone
and with the sentence (equations 4 and 5). DAMSM (equations 7 to 13), trained first, then tells the generator
whether the largest image shows the words of its caption:
``L = sum_i L_Gi + lambda L_DAMSM`` (equation 3), and the Gaussian of conditioning augmentation is held near
the standard one.

Where the official code differs from the paper, the code's is the default: all stages have the same width, and
later stages look at words but not at the condition; the discriminators' condition is the sentence itself; the
terms of their losses are averaged, those of real pairs apart from those of wrong ones. ``mask_compat`` is the
official defect in the word mask. Ours: losses on logits; the noise holds the epsilon of conditioning
augmentation too, so that the same noise gives the same image; the last caption of a batch is mismatched as
well (the official code leaves one out); smaller first stages, so that small images have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import log2
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.attention import WordAttention
from ganvas.layers.blocks import ResidualBlock, image_head, orthogonal, up_block
from ganvas.layers.conditioning import Condition, ConditioningAugmentation, kl_loss, unit_scale
from ganvas.layers.stacked_discriminator import StackedDiscriminator
from ganvas.layers.stages_trained import StagesTrained
from ganvas.losses.adversarial import fake_loss, real_loss
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.damsm import Damsm, DamsmSettings
from ganvas.systems.layout import LayoutRefinement, LayoutSettings, over_words
from ganvas.text.encoder import Text, TextEncoder

_FIRST = 64  # side of the official first stage's image


@dataclass(frozen=True, kw_only=True)
class AttnGanSettings:
    """Settings of AttnGAN. Defaults are the official CUB configuration."""

    form: Literal["attentional", "dcgan"] = "attentional"
    """``dcgan`` is AttnDCGAN, the vanilla DCGAN with attention: one image, drawn by the last stage, one
    discriminator, which judges it with the sentence only, and no residual blocks [code]."""
    stages: int | None = None
    """Stages of the generator, one image size each; all but the first attend to words. None is as many as
    take a first image of 64 pixels to the full size: 1 for 64, 2 for 128, 3 for 256 [code]; a larger number
    makes the first image smaller."""
    early_stages: int = 0
    """So many of the first stages, with their discriminators, are trained alone by the phase ``early`` before
    all are by ``gan`` (ours): images of half the side take a quarter of the time, and most of what a caption
    says shows in them. 0 is without such a phase [paper, code]."""
    generator_width: int = 32
    """gf: channels of every stage's features. 32 for CUB, 48 for COCO [code]."""
    first_width: int | None = None
    """Channels of the 4x4 map that the first stage begins with, halved by every block but the last, which
    goes to ``generator_width``. None is ``generator_width`` doubled once for each block: 512 for a first
    image of 64 pixels [code], and a quarter of that for one of 16, where more may help (ours)."""
    discriminator_width: int = 64
    """df: channels after the first convolution. 64 for CUB, 96 for COCO [code]."""
    residual_blocks: int = 2
    """R: of each attentional stage. 2 for CUB, 3 for COCO [code]."""
    noise_dim: int = 100
    """Width of z [code]."""
    condition_dim: int = 100
    """N: width of the condition that conditioning augmentation makes of the sentence [code]."""
    mask_compat: bool = False
    """Mask words as the official code does: in a batch, captions use each other's masks. Converted weights
    were trained so."""
    attention_over: Literal["words", "places"] = "words"
    """Attention weights sum to 1 over the words, for each place [paper, code], or over the places, for each
    word: another reading of ALR-GAN's formula [inferred]."""
    unconditional: bool = True
    """The discriminators also judge images by themselves [paper, code]."""
    mismatched: Literal["neighbour", "drawn", "none"] = "neighbour"
    """Mismatched pair: the image with the next caption of the batch [code], with the caption that the data
    set draws for it (``data.mismatch``), or no such term."""
    adversarial_weight: float = 1.0
    """Weight of each term of the generator's adversarial loss: 1 [code], 1/2 [paper]."""
    damsm_weight: float = 5.0
    """lambda: weight of DAMSM in the generator's loss. 5 for CUB, 50 for COCO [paper, code], 1 for AttnDCGAN
    [code]; 0 leaves it out."""
    reconstruction_weight: float = 0.0
    """Weight of the mean absolute difference between the images of every stage and the caption's own image
    (ours). For data whose captions all but name their picture: the generator then learns shapes long before
    its discriminators could teach them."""
    kl_weight: float = 1.0
    """Weight of conditioning augmentation's divergence, a mean over dimensions [code]."""
    unit_text: bool = False
    """Generator and discriminators read sentences and words scaled to a root mean square of 1 (ours). A young
    DAMSM gives vectors a tenth of that, beside which the noise of the condition drowns the caption. DAMSM
    itself always reads them as they are."""
    real_label: float = 1.0
    """Target of real pairs for the discriminators; below 1 is one-sided label smoothing (ours)."""
    learning_rate: float = 2e-4
    """Adam's, of both networks [code]."""
    discriminator_learning_rate: float | None = None
    """The discriminators', where it differs."""
    damsm: DamsmSettings = field(default_factory=DamsmSettings)
    """The image encoder and how both encoders are trained."""
    layout: LayoutSettings = field(default_factory=LayoutSettings)
    """Losses of ALR-GAN on what belongs to which word; off."""

    def __post_init__(self) -> None:
        if self.layout.is_on and self.form != "attentional":
            raise GanvasError(f"form={self.form}: draws one image; layout refinement needs form attentional")
        if self.mask_compat and self.attention_over != "words":
            raise GanvasError("mask_compat: is for attention_over=words; leave one out")


def stage_sizes(image_size: int, stages: int | None) -> list[int]:
    """Sides of the images of every stage, small to large.

    Raises:
        GanvasError: so many stages would begin with an image below 8 pixels.
    """
    num = max(1, int(log2(image_size / _FIRST)) + 1) if stages is None else stages
    most = int(log2(image_size)) - 2
    if not 1 <= num <= most:
        raise GanvasError(f"settings.stages: should be 1 to {most} for {image_size} px images, not {num}")
    return [image_size >> later for later in reversed(range(num))]


class InitialStage(nn.Module):
    """F0: the condition and z to the features of the first image.

    Args:
        num_in: widths of condition and z together.
        width: C, of the features.
        size: S, side of the first image, a power of two from 8.
        start: channels of the 4x4 map; None is ``width``, doubled for each block.
    """

    def __init__(self, num_in: int, width: int, size: int, start: int | None = None) -> None:
        super().__init__()
        ups = int(log2(size / 4))
        start = start or width * 2**ups
        self.fc = nn.Linear(num_in, 2 * start * 16, bias=False)
        self.norm = nn.BatchNorm1d(2 * start * 16)
        widths = [*(start >> i for i in range(ups)), width]
        self.up = nn.Sequential(*(up_block(*pair) for pair in pairwise(widths)))

    def forward(self, condition: Tensor, z: Tensor) -> Tensor:
        """``(B, N)`` and ``(B, Z)`` to ``(B, C, S, S)``."""
        seed = self.norm(self.fc(torch.cat([condition, z], dim=1)))
        return cast(Tensor, self.up(F.glu(seed, dim=1).view(len(z), -1, 4, 4)))


class AttentionalStage(nn.Module):
    """F_i(h, F^attn(e, h)): features and the words that they look at to features at twice the size.

    Args:
        width: C, of the features on both sides.
        residual_blocks: R, at the smaller size.
        attention: to words, width ``width``.
    """

    def __init__(self, width: int, residual_blocks: int, attention: WordAttention) -> None:
        super().__init__()
        self.attention = attention
        self.residual = nn.Sequential(*(ResidualBlock(2 * width) for _ in range(residual_blocks)))
        self.up = up_block(2 * width, width)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` features, words ``(B, T, D)`` and their mask to ``(B, C, 2H, 2W)``, and which word
        each place looked at, ``(B, T, H, W)``.
        """
        context, weights = self.attention(features, words, mask)
        joined = torch.cat([features, context.to(features.dtype)], dim=1)
        return self.up(self.residual(joined)), weights


class Generated(NamedTuple):
    """What the generator makes of B captions."""

    images: list[Tensor]
    """``(B, 3, S, S)`` each, small to large."""
    condition: Condition
    features: Sequence[Tensor] = ()
    """``(B, C, S, S)``: h_i of every stage."""
    layouts: Sequence[Tensor] = ()
    """``(B, T, S, S)``: which word each place looks at, of every stage that attends."""


class Generator(nn.Module):
    """Conditioning augmentation, the stages, and the heads that draw their images.

    Args:
        settings: widths and form.
        sentence_dim: width of sentences.
        word_dim: D, of words.
        image_size: side of the last image.
    """

    def __init__(self, settings: AttnGanSettings, sentence_dim: int, word_dim: int, image_size: int) -> None:
        super().__init__()
        width, attentional = settings.generator_width, settings.form == "attentional"
        sizes = stage_sizes(image_size, settings.stages)
        self.conditioning = ConditioningAugmentation(sentence_dim, settings.condition_dim)
        num_in = settings.condition_dim + settings.noise_dim
        self.initial = InitialStage(num_in, width, sizes[0], settings.first_width)
        self.further = nn.ModuleList(
            AttentionalStage(
                width,
                settings.residual_blocks if attentional else 0,
                WordAttention(
                    word_dim, width, mask_compat=settings.mask_compat, over=settings.attention_over
                ),
            )
            for _ in sizes[1:]
        )
        self.heads = nn.ModuleList(image_head(width) for _ in (sizes if attentional else sizes[-1:]))
        self.apply(orthogonal)

    def forward(self, text: Text, noise: Tensor, stages: int | None = None) -> Generated:
        """Images in [-1, 1] for noise ``(B, Z + N)``: z, then the epsilon of conditioning augmentation; those
        of the first ``stages``, or of all.
        """
        condition, features, layouts = self._run(text, noise, stages)
        heads = self.heads[:stages]
        images = [head(h) for head, h in zip(heads, features[-len(heads) :], strict=True)]
        return Generated(images, condition, features, layouts)

    def features(self, text: Text, noise: Tensor) -> tuple[Condition, list[Tensor]]:
        """The condition, and h_i ``(B, C, S_i, S_i)`` of every stage."""
        return self._run(text, noise)[:2]

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Which word each place looks at, ``(B, T, S, S)`` for each attentional stage."""
        return self._run(text, noise)[2]

    def of_stages(self, stages: int) -> list[nn.Module]:
        """What draws the images of the first ``stages``."""
        return [self.conditioning, self.initial, *self.further[: stages - 1], *self.heads[:stages]]

    def _run(
        self, text: Text, noise: Tensor, stages: int | None = None
    ) -> tuple[Condition, list[Tensor], list[Tensor]]:
        z, epsilon = noise.tensor_split([noise.shape[1] - self.condition_dim], dim=1)
        condition: Condition = self.conditioning(text.sentence, epsilon)
        features, layouts = [self.initial(condition.sample, z)], []
        for stage in self.further[: stages and stages - 1]:
            h, layout = stage(features[-1], text.words, text.mask)
            features.append(h)
            layouts.append(layout)
        return condition, features, layouts

    @property
    def condition_dim(self) -> int:
        """N."""
        return self.conditioning.fc.out_features // 4


class AttnGan(System):
    """The system: text encoder, DAMSM's image encoder, generator, a discriminator for each image size.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences and words.
        image_size: S, a power of two from 16.
    """

    training_only = ("discriminators", "damsm")

    def __init__(self, settings: AttnGanSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.noise_dim = settings.noise_dim + settings.condition_dim
        self.text_encoder = text_encoder
        self.generator = Generator(settings, text_encoder.sentence_dim, text_encoder.word_dim, image_size)
        self.attends = len(self.generator.further) > 0
        self.sizes = stage_sizes(image_size, settings.stages)[-len(self.generator.heads) :]
        self.discriminators = nn.ModuleList(
            StackedDiscriminator(
                settings.discriminator_width,
                text_encoder.sentence_dim,
                size,
                unconditional=settings.unconditional and settings.form == "attentional",
            )
            for size in self.sizes
        )
        self.discriminators.apply(orthogonal)
        self.damsm = Damsm(settings.damsm, text_encoder, image_size)
        stages = self.generator.further
        self.refinement = LayoutRefinement(settings.layout, settings.generator_width, len(stages))
        self.lays_out = len(self.refinement.encoders) > 0
        if not 0 <= settings.early_stages < len(self.sizes):
            raise GanvasError(
                f"settings.early_stages: should be at least 0 and below {len(self.sizes)}, the number of"
                f" images that are drawn, not {settings.early_stages}"
            )
        self.trained = StagesTrained(len(self.sizes)) if settings.early_stages else None

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """An image of each size for every caption, of those that are trained yet; in the DCGAN form one."""
        num = int(self.trained.count) if self.trained else None
        return cast(Generated, self.generator(self._scaled(text), noise, num)).images

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """For each attentional stage, at the size of the image before it."""
        maps = self.generator.attention(self._scaled(text), noise)
        return [over_words(layout) for layout in maps]

    def layout(self, images: Tensor, text: Text) -> list[Tensor]:
        """The same for real images, where layout refinement has trained encoders for them."""
        if not self.lays_out:
            return super().layout(images, text)
        return self.refinement.layout(self.generator, images, self._scaled(text))

    def facts(self) -> Sequence[str]:
        """What DAMSM's image encoder started from."""
        return self.settings.damsm.facts()

    def phases(self) -> Sequence[Phase]:
        """DAMSM with the text encoder, the first stages where they are trained first, then all, on frozen
        encoders.
        """
        early = self.settings.early_stages
        return [*self.damsm.phases(), *([self._phase("early", early)] if early else []), self._phase("gan")]

    def _phase(self, name: str, stages: int | None = None) -> Phase:
        """Training of the first ``stages`` and their discriminators, or of everything."""
        s, sizes = self.settings, self.sizes[:stages]
        drawing = [self.generator, *([self.refinement] if self.lays_out else [])]
        discriminator = Turn(
            name="discriminator",
            modules=[self.discriminators] if stages is None else list(self.discriminators[:stages]),
            loss=self.discriminator_loss,
            adam=Adam(learning_rate=s.discriminator_learning_rate or s.learning_rate),
        )
        generator = Turn(
            name="generator",
            modules=drawing if stages is None else self.generator.of_stages(stages),
            loss=self.generator_loss,
            adam=Adam(learning_rate=s.learning_rate),
        )
        return Phase(
            name=name,
            turns=[discriminator, generator],
            draw=partial(self.draw, stages=stages),
            words=True,
            image_size=sizes[-1],
            smaller=sizes[:-1],
            averaged=drawing,
            start=partial(self.trained.set, len(sizes)) if self.trained else None,
        )

    def draw(self, batch: Batch, stages: int | None = None) -> Generated:
        """One pass of the generator, for both networks."""
        assert batch.text is not None
        text = self._scaled(batch.text)
        return cast(Generated, self.generator(text, self.draw_noise(text.sentence), stages))

    def discriminator_loss(self, batch: Batch, draw: Generated) -> Losses:
        """Equations 4 and 5 with the mismatched pair; real and wrong terms are each averaged, as in the
        code.
        """
        assert batch.text is not None
        s, sentence, mismatched = self.settings, self._sentence(batch.text), self._mismatched(batch)
        total = sentence.new_zeros(())
        terms: dict[str, Tensor] = {}
        for size, d, real, fake in self._scales(batch, draw):
            real_features, fake_features = d.features_of([real, fake.detach()])
            pairs = {"real": (real_features, sentence), "fake": (fake_features, sentence)}
            if mismatched is not None:
                pairs["wrong"] = (real_features, mismatched)
            judged = d.judge_all(pairs)
            right = {f"real_{size}": real_loss(judged.pop("real"), s.real_label)}
            wrong = {f"{name}_{size}": fake_loss(logits) for name, logits in judged.items()}
            if d.unconditional is not None:
                right[f"uncond_real_{size}"] = real_loss(d.judge_alone(real_features), s.real_label)
                wrong[f"uncond_fake_{size}"] = fake_loss(d.judge_alone(fake_features))
            total = total + _mean(right) + _mean(wrong)
            terms |= {**right, **wrong}
        return Losses(total, terms)

    def generator_loss(self, batch: Batch, draw: Generated) -> Losses:
        """Equation 3: every discriminator's word, DAMSM on the largest image, and the divergence; and, where
        they are on, the losses of layout refinement. While the first stages are trained alone, there is
        neither DAMSM nor refinement, which need all.
        """
        assert batch.text is not None
        s, sentence = self.settings, self._sentence(batch.text)
        terms: dict[str, Tensor] = {}
        for size, d, _, fake in self._scales(batch, draw):
            features = d.features(fake)
            terms[f"matching_{size}"] = real_loss(d.judge(features, sentence))
            if d.unconditional is not None:
                terms[f"uncond_{size}"] = real_loss(d.judge_alone(features))
        total = s.adversarial_weight * torch.stack(list(terms.values())).sum()
        whole = len(draw.images) == len(self.sizes)
        if s.damsm_weight > 0 and whole:
            matching = self.damsm.loss(draw.images[-1], batch.text, batch.labels)
            terms |= {f"damsm_{name}": value for name, value in matching.terms.items()}
            total = total + s.damsm_weight * matching.total
        if self.lays_out and whole:
            images, text = [*batch.smaller, batch.images], self._scaled(batch.text)
            refined = self.refinement.loss(self.generator, draw, images, text)
            terms, total = {**terms, **refined.terms}, total + refined.total
        if s.reconstruction_weight > 0:
            missed = {
                f"reconstruction_{size}": F.l1_loss(fake.float(), real)
                for size, _, real, fake in self._scales(batch, draw)
            }
            terms |= missed
            total = total + s.reconstruction_weight * torch.stack(list(missed.values())).sum()
        terms["kl"] = kl_loss(draw.condition.mean, draw.condition.log_variance)
        return Losses(total + s.kl_weight * terms["kl"], terms)

    def _scales(
        self, batch: Batch, draw: Generated
    ) -> list[tuple[int, StackedDiscriminator, Tensor, Tensor]]:
        """Size, discriminator, real and generated images of every scale that was drawn."""
        num = len(draw.images)
        judges = [cast(StackedDiscriminator, d) for d in self.discriminators[:num]]
        return list(zip(self.sizes[:num], judges, [*batch.smaller, batch.images], draw.images, strict=True))

    def _mismatched(self, batch: Batch) -> Tensor | None:
        """The sentences ``(B, D)`` of the mismatched pairs; a batch of one has no neighbours."""
        assert batch.text is not None
        if self.settings.mismatched == "drawn":
            assert batch.wrong_text is not None
            return self._sentence(batch.wrong_text)
        if self.settings.mismatched == "none" or len(batch.images) == 1:
            return None
        return self._sentence(batch.text).roll(-1, dims=0)

    def _sentence(self, text: Text) -> Tensor:
        """``(B, D)``, as generator and discriminators read them."""
        return unit_scale(text.sentence) if self.settings.unit_text else text.sentence

    def _scaled(self, text: Text) -> Text:
        """Captions as the generator reads them."""
        if not self.settings.unit_text:
            return text
        return Text(unit_scale(text.sentence), unit_scale(text.words), text.mask)


def _mean(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).mean()
