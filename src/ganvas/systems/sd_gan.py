"""SD-GAN: Yin et al., "Semantics Disentangling for Text-to-Image Generation", CVPR 2019.

Captions of one image differ, and yet say the same; images drawn from them should show what they share, and
keep what each adds. Two parts do that on AttnGAN's stages:

- Siamese training (section 3.1): two branches with the same weights draw an image each, from two captions of
  one image (intra-class pair, y = 1) or of two images (inter-class pair, y = 0). The discriminators compare
  them: ``L_c = 1/(2N) sum_n [y max(d, alpha)^2 + (1 - y) max(epsilon - d, 0)^2]`` for the distance d of their
  codes. Since noise differs, alpha keeps images of one thing from becoming one image.
- Semantic-conditioned batch normalisation (section 3.2, ``layers/conditional_norm.py``) at the end of every
  up-sampling: gain and bias change with the sentence, or place by place with the words.

No official code is known, and the paper leaves much open. What is filled in is marked [inferred] and is a
setting where it may matter. Elsewhere it follows AttnGAN: three stages, conditioning augmentation,
conditional and unconditional discriminators with mismatched pairs.

Both branches go through the generator in one batch, so that they are normalised together. Of B images each
has one intra-class pair, its two captions, and an inter-class pair with the next image of the batch: 2B
generated images and 2B pairs. The log has mean and deviation of d for both kinds. Ours, as in AttnGAN here:
losses on logits; the noise holds the epsilon of conditioning augmentation; smaller first stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.blocks import orthogonal
from ganvas.layers.conditioning import Condition, kl_loss, unit_scale
from ganvas.losses.adversarial import fake_loss, real_loss
from ganvas.losses.contrastive_pair import all_distances, contrastive_pair_losses, pair_distance
from ganvas.systems.attngan import stage_sizes
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.systems.damsm import Damsm
from ganvas.systems.sd_gan_networks import Generator, SdGanSettings, SiameseDiscriminator
from ganvas.text.encoder import Text, TextEncoder


class Drawn(NamedTuple):
    """What both branches draw for B images: 2B captions, first those of one branch, then of the other."""

    text: Text
    """As encoded."""
    images: list[Tensor]
    """``(2B, 3, S, S)`` each, small to large."""
    condition: Condition


class SdGan(System):
    """The system: text encoder, generator, a discriminator for each image size, DAMSM's image encoder.

    Args:
        settings: switches and widths.
        text_encoder: captions to sentences and words.
        image_size: S, a power of two from 16.
    """

    training_only = ("discriminators", "damsm")

    def __init__(self, settings: SdGanSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.noise_dim = settings.noise_dim + settings.condition_dim
        self.sizes = stage_sizes(image_size, settings.stages)
        self.attends = any(settings.level(i) in ("word", "both") for i in range(1, len(self.sizes)))
        self.text_encoder = text_encoder
        self.generator = Generator(settings, text_encoder.sentence_dim, text_encoder.word_dim, self.sizes)
        self.discriminators = nn.ModuleList(
            SiameseDiscriminator(settings, text_encoder.sentence_dim, size) for size in self.sizes
        )
        self.discriminators.apply(orthogonal)
        self.damsm = Damsm(settings.damsm, text_encoder, image_size)

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """An image of each size for every caption."""
        return cast(list[Tensor], self.generator(self._scaled(text), noise)[0])

    def attention(self, text: Text, noise: Tensor) -> list[Tensor]:
        """For each further stage whose SCBN reads words, at the size of its image."""
        return self.generator.attention(self._scaled(text), noise)

    def facts(self) -> Sequence[str]:
        """What DAMSM's image encoder started from."""
        return self.settings.damsm.facts()

    def phases(self) -> Sequence[Phase]:
        """DAMSM with the text encoder, then the GAN on both, frozen, with two captions of each image."""
        s = self.settings
        discriminator = Turn(
            name="discriminator",
            modules=[self.discriminators],
            loss=self.discriminator_loss,
            adam=Adam(learning_rate=s.discriminator_learning_rate or s.learning_rate),
        )
        generator = Turn(
            name="generator",
            modules=[self.generator],
            loss=self.generator_loss,
            adam=Adam(learning_rate=s.learning_rate),
        )
        gan = Phase(
            name="gan",
            turns=[discriminator, generator],
            draw=self.draw,
            words=True,
            captions=2 if s.siamese else 1,
            smaller=self.sizes[:-1],
            averaged=[self.generator],
        )
        return [*self.damsm.phases(), gan]

    def draw(self, batch: Batch) -> Drawn:
        """Both branches, with noise of their own, in one pass of the generator."""
        assert batch.text is not None
        texts = [batch.text, *batch.further_texts][: self._branches]
        if len(texts) < self._branches:
            raise GanvasError(
                "sd-gan: needs two captions of each image, and these data come with one at a time;"
                " prepare the data set, or give settings.siamese=false"
            )
        text = _joined(texts)
        images, condition = self.generator(self._scaled(text), self.draw_noise(text.sentence))
        return Drawn(text, images, condition)

    def discriminator_loss(self, batch: Batch, draw: Drawn) -> Losses:
        """AttnGAN's loss, real and wrong terms each averaged, and L_c. A real image belongs to both branches;
        its features are computed once.
        """
        s, sentence, mismatched = self.settings, self._sentence(draw.text), self._mismatched(batch, draw)
        total = sentence.new_zeros(())
        terms: dict[str, Tensor] = {}
        for size, d, real, fake in self._scales(batch, draw):
            once, fake_features = d.features_of([real, fake.detach()])
            real_features = torch.cat([once] * self._branches)
            pairs = {"real": (real_features, sentence), "fake": (fake_features, sentence)}
            if mismatched is not None:
                pairs["wrong"] = (real_features[: len(mismatched)], mismatched)
            judged = d.judge_all(pairs)
            right = {f"real_{size}": real_loss(judged.pop("real"), s.real_label)}
            wrong = {f"{name}_{size}": fake_loss(logits) for name, logits in judged.items()}
            if d.unconditional is not None:
                right[f"uncond_real_{size}"] = real_loss(d.judge_alone(once), s.real_label)
                wrong[f"uncond_fake_{size}"] = fake_loss(d.judge_alone(fake_features))
            total = total + _mean(right) + _mean(wrong)
            terms |= {**right, **wrong}
            if d.comparator is not None and s.contrastive_for != "generator":
                contrast, _ = self._contrast(d.code(fake_features))
                terms[f"contrast_{size}"] = contrast
                total = total + s.contrastive_weight * contrast
        return Losses(total, terms)

    def generator_loss(self, batch: Batch, draw: Drawn) -> Losses:
        """Every discriminator's word, L_c, DAMSM on the largest image, and the divergence."""
        s, sentence = self.settings, self._sentence(draw.text)
        total = sentence.new_zeros(())
        terms: dict[str, Tensor] = {}
        for size, d, _, fake in self._scales(batch, draw):
            features = d.features(fake)
            own = {f"matching_{size}": real_loss(d.judge(features, sentence))}
            if d.unconditional is not None:
                own[f"uncond_{size}"] = real_loss(d.judge_alone(features))
            total = total + torch.stack(list(own.values())).sum()
            terms |= own
            if d.comparator is not None:
                contrast, found = self._contrast(d.code(features))
                terms |= {f"{name}_{size}": value for name, value in found.items()}
                if s.contrastive_for != "discriminator":
                    terms[f"contrast_{size}"] = contrast
                    total = total + s.contrastive_weight * contrast
        if s.damsm_weight > 0:
            matching = self._matching(batch, draw)
            terms |= {f"damsm_{name}": value for name, value in matching.terms.items()}
            total = total + s.damsm_weight * matching.total
        terms["kl"] = kl_loss(draw.condition.mean, draw.condition.log_variance)
        return Losses(total + s.kl_weight * terms["kl"], terms)

    def _contrast(self, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_c of codes ``(2B, F)``, and how d is distributed over pairs of either kind."""
        s = self.settings
        first, second = codes.chunk(2)
        kinds = {"same": (pair_distance(first, second), 1.0, s.same_share)}
        if len(first) > 1:
            different = (
                all_distances(first, second)
                if s.pairs == "all"
                else pair_distance(first, second.roll(-1, dims=0))
            )
            kinds["different"] = (different, 0.0, 1 - s.same_share)
        num = s.code_dim if s.divided_by == "dimensions" else 1
        loss = codes.new_zeros((), dtype=torch.float32)
        found: dict[str, Tensor] = {}
        for name, (distance, same, share) in kinds.items():
            pairs = contrastive_pair_losses(distance, same, alpha=s.alpha, epsilon=s.epsilon, num=num)
            loss = loss + share * pairs.mean()
            spread, mean = torch.var_mean(distance.detach(), correction=0)
            found |= {f"d_{name}": mean, f"d_{name}_deviation": spread.sqrt()}
        return loss, found

    def _matching(self, batch: Batch, draw: Drawn) -> Losses:
        """L_DAMSM, the mean over branches: the two captions of an image are no negatives of each other."""
        num, largest = len(batch.images), draw.images[-1]
        branches = [slice(start, start + num) for start in range(0, len(largest), num)]
        found = [self.damsm.loss(largest[rows], draw.text.rows(rows), batch.labels) for rows in branches]
        terms = {name: torch.stack([one.terms[name] for one in found]).mean() for name in found[0].terms}
        return Losses(torch.stack([one.total for one in found]).mean(), terms)

    def _mismatched(self, batch: Batch, draw: Drawn) -> Tensor | None:
        """The sentences of the mismatched pairs, of each branch or of one; a batch of one has no
        neighbours.
        """
        if self.settings.mismatched == "drawn":
            assert batch.wrong_text is not None
            return self._sentence(batch.wrong_text)
        if self.settings.mismatched == "none" or len(batch.images) == 1:
            return None
        branches = self._sentence(draw.text).view(self._branches, len(batch.images), -1)
        return branches.roll(-1, dims=1).flatten(0, 1)

    def _scales(self, batch: Batch, draw: Drawn) -> list[tuple[int, SiameseDiscriminator, Tensor, Tensor]]:
        """Size, discriminator, real and generated images of every scale."""
        judges = [cast(SiameseDiscriminator, d) for d in self.discriminators]
        return list(zip(self.sizes, judges, [*batch.smaller, batch.images], draw.images, strict=True))

    @property
    def _branches(self) -> int:
        return 2 if self.settings.siamese else 1

    def _sentence(self, text: Text) -> Tensor:
        """``(B, D)``, as generator and discriminators read them."""
        return unit_scale(text.sentence) if self.settings.unit_text else text.sentence

    def _scaled(self, text: Text) -> Text:
        """Captions as the generator reads them."""
        if not self.settings.unit_text:
            return text
        return Text(unit_scale(text.sentence), unit_scale(text.words), text.mask)


def _joined(texts: Sequence[Text]) -> Text:
    """The captions of all branches in one batch, padded to the longest."""
    longest = max(text.mask.shape[1] for text in texts)
    words = [F.pad(text.words, (0, 0, 0, longest - text.mask.shape[1])) for text in texts]
    masks = [F.pad(text.mask, (0, longest - text.mask.shape[1])) for text in texts]
    return Text(torch.cat([text.sentence for text in texts]), torch.cat(words), torch.cat(masks))


def _mean(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).mean()
