"""SD-GAN against its paper: two branches in one batch, their comparison, and what SCBN reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.layers.blocks import UpConv
from ganvas.layers.conditional_norm import SemanticNorm
from ganvas.layers.conditioning import kl_loss, unit_scale
from ganvas.layers.stacked_discriminator import ConditionalHead, StackedDiscriminator
from ganvas.losses.adversarial import real_loss
from ganvas.recipe import list_recipes, load_recipe
from ganvas.systems.base import Batch, Losses
from ganvas.systems.damsm import DamsmSettings
from ganvas.systems.sd_gan import SdGan
from ganvas.systems.sd_gan_networks import NextStage, SdGanSettings, SiameseDiscriminator
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import BiLstmSettings

CAPTIONS = ["a red bird with a long blue tail", "bird", "a small green bird", "two birds"]
OTHERS = ["a bird, red and blue", "some bird", "green", "birds on a small branch"]


def small(image_size: int = 32, **changes: Any) -> SdGan:
    torch.manual_seed(0)
    encoder = build(BiLstmSettings(features=8, embedding=4, num_words=6), CAPTIONS + OTHERS, None)
    settings = SdGanSettings(
        **{
            "stages": 2,
            "generator_width": 4,
            "discriminator_width": 4,
            "residual_blocks": 1,
            "noise_dim": 5,
            "condition_dim": 3,
            "code_dim": 7,
            "starts_plain": False,
            "damsm": DamsmSettings(image_encoder="scratch", width=4, regions=4),
            **changes,
        }
    )
    return SdGan(settings, encoder, image_size)


def shortened(text: Text) -> Text:
    """Without the padding that all captions have, as batches on a CPU come."""
    longest = int(text.mask.sum(dim=1).max())
    return Text(text.sentence, text.words[:, :longest], text.mask[:, :longest])


def batch_of(system: SdGan, size: int = 4) -> Batch:
    torch.manual_seed(1)
    images = [torch.randn(size, 3, side, side).tanh() for side in system.sizes]
    with torch.no_grad():
        text, other, wrong = (
            shortened(system.embed(captions[:size])) for captions in (CAPTIONS, OTHERS, CAPTIONS[::-1])
        )
    return Batch(
        images=images[-1],
        smaller=images[:-1],
        tokens=system.text_encoder.tokenize(CAPTIONS[:size]),
        text=text,
        further_texts=[other] if system.settings.siamese else [],
        wrong_text=wrong,
        labels=torch.arange(size),
    )


RECIPES = [name for name in list_recipes() if name.startswith("sd-gan")]
VARIANTS = [(name, variant) for name in RECIPES for variant in load_recipe(name).variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_of_a_recipe_builds_at_full_size_and_changes_something(name: str, variant: str) -> None:
    plain = load_recipe(name)
    recipe = load_recipe(name, plain.variants[variant])
    with torch.device("meta"):
        system = build_system(recipe, captions=CAPTIONS)
    assert isinstance(system, SdGan) and system.sizes[-1] == recipe.data.image_size
    assert {phase.name for phase in system.phases()} == set(recipe.training.images)
    assert recipe.settings != plain.settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"levels": ()}, "levels: is empty"), ({"same_share": 1.5}, "same_share=1.5: should be 0 to 1")],
)
def test_impossible_settings_are_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GanvasError, match=words):
        SdGanSettings(**changes)


# --- generator


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        (("sentence", "word"), ["sentence", "word", "word"]),
        (("none",), ["none", "none", "none"]),
        (("both", "none", "sentence"), ["both", "none", "sentence"]),
    ],
)
def test_scbn_follows_every_up_sampling_and_reads_what_its_stage_is_told(
    levels: tuple[Any, ...], found: list[str]
) -> None:
    system = small(image_size=64, stages=3, levels=levels)
    initial, further = system.generator.initial, list(system.generator.further)
    assert len(initial.ups) == 2  # 4 to 16 pixels
    ups = [*initial.ups, *(stage.up for stage in further if isinstance(stage, NextStage))]
    assert len(ups) == sum(isinstance(m, UpConv) for m in system.generator.modules())
    for up, level in zip(ups, [found[0], found[0], *found[1:]], strict=True):
        assert isinstance(up.norm, SemanticNorm) and up.norm.num_features == up.conv.out_channels
        assert (up.norm.sentence is not None) == (level in ("sentence", "both"))
        assert (up.norm.words is not None) == (level in ("word", "both"))


@pytest.mark.parametrize("gated", [True, False])
def test_every_stage_draws_an_image_and_its_features_have_one_width(gated: bool) -> None:
    system = small(image_size=64, stages=3, gated=gated).eval()
    with torch.no_grad():
        text, noise = system.embed(CAPTIONS), torch.randn(4, system.noise_dim)
        images = system.generate(text, noise)
        _, features = system.generator.features(text, noise)
    assert [image.shape[-1] for image in images] == [16, 32, 64] == system.sizes
    assert [tuple(h.shape[1:]) for h in features] == [(4, 16, 16), (4, 32, 32), (4, 64, 64)]


def drawn_with(system: SdGan, text: Text) -> Tensor:
    return system.generate(text, torch.ones(len(text.mask), system.noise_dim))[-1]


@pytest.mark.parametrize("level", ["none", "sentence", "word", "both"])
def test_words_change_the_image_only_where_scbn_reads_them(level: str) -> None:
    system = small(levels=(level,)).eval()
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        other = text._replace(words=text.words.flip(0), mask=text.mask.flip(0))
        same = torch.equal(drawn_with(system, text), drawn_with(system, other))
    assert same == (level in ("none", "sentence"))


@pytest.mark.parametrize("joined", ["sentence", "condition", "none"])
def test_a_further_stage_may_be_joined_by_sentence_condition_or_nothing(joined: str) -> None:
    system = small(levels=("none",), joined=joined).eval()
    (stage,) = system.generator.further
    assert isinstance(stage, NextStage)
    assert (stage.join is None) == (joined == "none")
    if stage.join is not None:
        assert stage.join.in_channels == 4 + {"sentence": 8, "condition": 3}[joined]
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        noise = torch.ones(4, system.noise_dim)
        condition, features = system.generator.features(text, noise)
        other = text._replace(sentence=text.sentence.flip(0))
        moved = stage(features[0], system.generator._joined(other, condition), other)
    assert torch.equal(moved, features[1]) == (joined != "sentence")


def test_an_image_does_not_depend_on_the_other_captions_of_its_batch() -> None:
    system = small(levels=("both",)).eval()
    with torch.no_grad():
        noise = torch.randn(4, system.noise_dim)
        together = system.generate(system.embed(CAPTIONS), noise)[-1]
        each = [
            system.generate(shortened(system.embed(CAPTIONS[i : i + 1])), noise[i : i + 1])[-1]
            for i in range(4)
        ]
    assert torch.allclose(torch.cat(each), together, atol=1e-5)


def test_a_fresh_generator_is_the_same_as_one_without_scbn() -> None:
    """With the same weights, where increments begin at 0."""
    fresh, plain = small(starts_plain=True, levels=("both",)).eval(), small(levels=("none",)).eval()
    shared = plain.generator.state_dict().keys()
    plain.generator.load_state_dict({k: v for k, v in fresh.generator.state_dict().items() if k in shared})
    with torch.no_grad():
        text = fresh.embed(CAPTIONS)
        assert torch.allclose(drawn_with(fresh, text), drawn_with(plain, text), atol=1e-6)


def test_fresh_stages_see_the_text_by_the_condition_alone() -> None:
    system = small(starts_plain=True, levels=("both",)).eval()
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        noise = torch.ones(4, system.noise_dim)
        condition, features = system.generator.features(text, noise)
        other = Text(text.sentence.flip(0), text.words.flip(0), text.mask.flip(0))
        z = noise[:, : system.settings.noise_dim]
        assert torch.equal(system.generator.initial(condition.sample, z, other), features[0])
        assert torch.equal(system.generator.further[0](features[0], other.sentence, other), features[1])


def test_zero_epsilon_conditions_on_the_mean() -> None:
    system = small().eval()
    assert system.noise_dim == 5 + 3
    noise = torch.randn(4, 8)
    noise[:, 5:] = 0
    with torch.no_grad():
        condition, _ = system.generator.features(system.embed(CAPTIONS), noise)
    assert torch.equal(condition.sample, condition.mean)


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_attention_maps_have_the_side_of_their_image_and_sum_to_one_over_real_words(weighting: str) -> None:
    system = small(image_size=64, stages=3, weighting=weighting).eval()
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        maps = system.attention(text, torch.randn(4, system.noise_dim))
    assert system.attends and not small(levels=("sentence",)).attends and not small(stages=1).attends
    assert [tuple(m.shape) for m in maps] == [(4, 6, 32, 32), (4, 6, 64, 64)]
    for weights in maps:
        assert torch.allclose(weights.sum(dim=1), torch.ones(4, *weights.shape[2:]), atol=1e-5)
        assert (weights[~text.mask] == 0).all()


# --- two branches


def test_both_branches_are_one_batch_with_noise_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small(unit_text=True)
    batch = batch_of(system)
    assert batch.text is not None
    seen: list[tuple[Text, Tensor]] = []
    forward = system.generator.forward

    def noted(text: Text, noise: Tensor) -> Any:
        seen.append((text, noise))
        return forward(text, noise)

    monkeypatch.setattr(system.generator, "forward", noted)
    draw = system.draw(batch)
    ((text, noise),) = seen
    assert [image.shape[0] for image in draw.images] == [8, 8] and noise.shape == (8, 8)
    assert (noise[:4] != noise[4:]).all()
    for half, branch in zip((slice(4), slice(4, 8)), (batch.text, *batch.further_texts), strict=True):
        width = branch.mask.shape[1]
        assert torch.equal(draw.text.sentence[half], branch.sentence)
        assert torch.equal(draw.text.words[half, :width], branch.words)
        assert torch.equal(draw.text.mask[half, :width], branch.mask)
        assert not draw.text.mask[half, width:].any() and not draw.text.words[half, width:].any()
    assert torch.equal(text.sentence, unit_scale(draw.text.sentence))
    assert torch.equal(text.words, unit_scale(draw.text.words))


def test_data_with_one_caption_at_a_time_are_refused_in_one_line() -> None:
    system = small()
    with pytest.raises(GanvasError, match=r"two captions of each image.*settings\.siamese=false"):
        system.draw(replace(batch_of(system), further_texts=[]))


def coded(system: SdGan, monkeypatch: pytest.MonkeyPatch, codes: Tensor) -> None:
    """All discriminators give these codes to the 2B generated images."""
    monkeypatch.setattr(SiameseDiscriminator, "code", lambda self, features: codes)


CODES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.3], [3.0, 0.5], [0.0, 0.0]])
"""Of two branches of three images: intra-class distances .3, .5 and 0, and with the next image's second
caption sqrt(9.25), 3 and .3."""
PULL = [0.3**2, 0.5**2, 0.1**2]
FAR = [math.sqrt(9.25), 3.0, 0.3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (sum(PULL) / 3 + 0.7**2 / 3) / 4),
        ({"same_share": 1.0}, sum(PULL) / 3 / 2),
        ({"same_share": 0.0}, 0.7**2 / 3 / 2),
        ({"alpha": 0.4, "same_share": 1.0}, (2 * 0.4**2 + 0.5**2) / 3 / 2),
        ({"epsilon": 4.0, "same_share": 0.0}, sum((4 - d) ** 2 for d in FAR) / 3 / 2),
        ({"divided_by": "dimensions"}, (sum(PULL) / 3 + 0.7**2 / 3) / 4 / 7),
        ({"pairs": "all", "same_share": 0.0}, (0.7**2 + 1.0) / 6 / 2),  # .3 and 0; the other four are far
    ],
    ids=str,
)
def test_intra_class_and_inter_class_pairs_are_compared(
    changes: dict[str, Any], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = small(**changes)
    coded(system, monkeypatch, CODES)
    batch = batch_of(system, 3)
    draw = system.draw(batch)
    for loss in (system.discriminator_loss, system.generator_loss):
        terms = loss(batch, draw).terms
        assert terms["contrast_16"].item() == terms["contrast_32"].item() == pytest.approx(expected, rel=1e-4)


def test_the_log_has_mean_and_deviation_of_the_distances_of_both_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = small()
    coded(system, monkeypatch, CODES)
    batch = batch_of(system, 3)
    terms = system.generator_loss(batch, system.draw(batch)).terms
    same, different = torch.tensor([0.3, 0.5, 0.0]), torch.tensor(FAR)
    for kind, distances in (("same", same), ("different", different)):
        assert terms[f"d_{kind}_16"].item() == pytest.approx(distances.mean().item(), rel=1e-4)
        spread = distances.std(unbiased=False).item()
        assert terms[f"d_{kind}_deviation_32"].item() == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("code_of", ["pooled", "map"])
def test_the_code_is_a_linear_map_of_a_discriminators_features(code_of: str) -> None:
    system = small(code_of=code_of)
    d = system.discriminators[-1]
    assert isinstance(d, SiameseDiscriminator) and d.comparator is not None
    features = torch.randn(3, d.trunk.channels, 4, 4)
    read = features.mean(dim=(2, 3)) if code_of == "pooled" else features.flatten(1)
    assert torch.equal(d.code(features), d.comparator(read)) and d.code(features).shape == (3, 7)


@pytest.mark.parametrize("player", ["both", "discriminator", "generator"])
def test_the_comparison_teaches_those_whom_it_should(player: str) -> None:
    """The difference that its weight makes, by network."""
    batches = {}
    for weight in (1.0, 3.0):
        system = small(contrastive_for=player, contrastive_weight=weight, alpha=0.0, epsilon=9.0)
        batch = batch_of(system)
        torch.manual_seed(2)
        draw = system.draw(batch)
        losses = {
            "discriminator": system.discriminator_loss(batch, draw),
            "generator": system.generator_loss(batch, draw),
        }
        batches[weight] = losses
    for turn in ("discriminator", "generator"):
        low, high = (batches[weight][turn] for weight in (1.0, 3.0))
        contrast = [value.item() for name, value in low.terms.items() if name.startswith("contrast")]
        assert len(contrast) == (2 if player in ("both", turn) else 0)
        assert (high.total - low.total).item() == pytest.approx(2 * sum(contrast), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("changes", [{"siamese": False}, {"contrastive_weight": 0.0}], ids=str)
def test_without_comparison_there_is_no_comparator(changes: dict[str, Any]) -> None:
    system = small(**changes)
    batch = batch_of(system)
    draw = system.draw(batch)
    assert len(draw.images[0]) == 4 * (1 if "siamese" in changes else 2)
    for loss in (system.discriminator_loss, system.generator_loss):
        assert not any(name.startswith(("contrast", "d_")) for name in loss(batch, draw).terms)
    assert not any("comparator" in name for name, _ in system.named_parameters())


def test_some_steps_bring_images_of_one_thing_together_and_drive_others_apart() -> None:
    """Comparator and generator on one batch and its noise, with nothing else to hear, reach the least loss:
    intra-class pairs are within alpha, inter-class ones epsilon apart.
    """
    system = small(image_size=16, stages=1, levels=("both",), unit_text=True)
    batch, (d,) = batch_of(system), system.discriminators
    assert isinstance(d, SiameseDiscriminator)
    networks = [system.generator, system.discriminators]
    optimizer = torch.optim.Adam([p for network in networks for p in network.parameters()], lr=5e-3)
    for _ in range(25):
        torch.manual_seed(0)
        loss, measured = system._contrast(d.code(d.features(system.draw(batch).images[-1])))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() == pytest.approx(0.1**2 / 4, rel=0.2)
    assert measured["d_same"] < 0.15 and measured["d_different"] > 0.9


# --- adversarial losses


def judging(monkeypatch: pytest.MonkeyPatch, logit: float = 0.0) -> list[Tensor]:
    """All discriminators answer ``logit``; the sentences that they were shown."""
    shown: list[Tensor] = []

    def judge(self: ConditionalHead, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        assert all(len(features) == len(sentence) for features, sentence in pairs)
        shown.extend(sentence for _, sentence in pairs)
        return [features.new_full((len(features),), logit) for features, _ in pairs]

    monkeypatch.setattr(ConditionalHead, "together", judge)
    monkeypatch.setattr(StackedDiscriminator, "judge_alone", lambda self, f: f.new_full((len(f),), logit))
    return shown


@pytest.mark.parametrize(
    "changes",
    [{}, {"unconditional": False}, {"siamese": False}, {"mismatched": "none"}, {"mismatched": "drawn"}],
    ids=str,
)
def test_discriminators_that_know_nothing_have_a_loss_of_two_log_two_each(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = small(**changes)
    judging(monkeypatch)
    batch = batch_of(system)
    losses = system.discriminator_loss(batch, system.draw(batch))
    contrast = sum(value.item() for name, value in losses.terms.items() if name.startswith("contrast"))
    assert losses.total.item() - contrast == pytest.approx(2 * math.log(2) * 2, rel=1e-5)


@pytest.mark.parametrize("siamese", [True, False])
def test_mismatched_pairs_have_the_next_images_captions_in_each_branch_or_the_drawn_one(
    siamese: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mismatched in ("neighbour", "drawn"):
        system = small(image_size=16, stages=1, mismatched=mismatched, siamese=siamese)
        shown = judging(monkeypatch)
        batch = batch_of(system)
        assert batch.wrong_text is not None
        draw = system.draw(batch)
        system.discriminator_loss(batch, draw)
        sentence = draw.text.sentence
        order = [1, 2, 3, 0, 5, 6, 7, 4] if siamese else [1, 2, 3, 0]
        wrong = sentence[order] if mismatched == "neighbour" else batch.wrong_text.sentence
        assert len(shown) == 3 and torch.equal(shown[2], wrong)
        assert torch.equal(shown[0], sentence) and torch.equal(shown[1], sentence)


def test_a_real_image_is_judged_as_in_two_branches() -> None:
    """Its features are computed once; doing it for each branch gives the same."""
    system = small(image_size=16, stages=1)
    batch = batch_of(system)
    draw = system.draw(batch)
    terms = system.discriminator_loss(batch, draw).terms
    (d,) = system.discriminators
    assert isinstance(d, SiameseDiscriminator)
    twice = d.features(torch.cat([batch.images, batch.images]))
    assert terms["real_16"].item() == pytest.approx(
        real_loss(d.judge(twice, draw.text.sentence)).item(), rel=1e-4
    )
    assert terms["uncond_real_16"].item() == pytest.approx(real_loss(d.judge_alone(twice)).item(), rel=1e-4)


def test_the_generator_hears_discriminators_comparison_damsm_and_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = small(damsm_weight=7.0, kl_weight=3.0, contrastive_weight=5.0).eval()
    batch = batch_of(system)
    assert batch.text is not None
    draw = system.draw(batch)
    seen: list[tuple[Any, ...]] = []

    def loss(images: Tensor, text: Text, labels: Any) -> Losses:
        seen.append((images, text, labels))
        return Losses(torch.tensor(float(2 * len(seen))), {"words": torch.tensor(2.0)})

    monkeypatch.setattr(system.damsm, "loss", loss)
    losses = system.generator_loss(batch, draw)
    expected = torch.tensor(0.0)
    for d, image in zip(system.discriminators, draw.images, strict=True):
        assert isinstance(d, SiameseDiscriminator)
        features = d.features(image)
        expected = expected + real_loss(d.judge(features, draw.text.sentence))
        expected = expected + real_loss(d.judge_alone(features))
    contrast = losses.terms["contrast_16"] + losses.terms["contrast_32"]
    kl = kl_loss(draw.condition.mean, draw.condition.log_variance)
    assert torch.allclose(losses.total, expected + 5 * contrast + 7 * 3 + 3 * kl)
    first, second = seen  # each branch by itself, so that captions of one image are no negatives
    for (images, text, labels), half in zip((first, second), (slice(4), slice(4, 8)), strict=True):
        assert torch.equal(images, draw.images[-1][half]) and labels is batch.labels
        assert torch.equal(text.words, draw.text.words[half])


def test_damsm_comes_first_and_the_gan_asks_for_two_captions_with_words() -> None:
    system = small(image_size=64, stages=3)
    damsm, gan = system.phases()
    assert (damsm.name, gan.name) == ("damsm", "gan")
    assert gan.words and gan.captions == 2 and list(gan.smaller) == [16, 32]
    assert small(siamese=False).phases()[-1].captions == 1
    trained = {id(p) for turn in gan.turns for m in turn.modules for p in m.parameters()}
    frozen = [*system.text_encoder.parameters(), *system.damsm.parameters()]
    assert frozen and not any(id(p) in trained for p in frozen)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "one image", "zero words", "one word", "identical"])
@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_losses_and_gradients_are_finite_for_any_batch(weighting: str, kind: str, bfloat16: bool) -> None:
    system = small(
        levels=("both",),
        weighting=weighting,
        damsm_weight=1.0,
        unit_text=True,
        pairs="all",
        starts_plain=True,
    )
    batch = batch_of(system, 1 if kind == "one image" else 4)
    assert batch.text is not None
    text, other = batch.text, batch.further_texts[0]
    if kind == "zero words":
        text, other = (Text(t.sentence * 0, t.words * 0, t.mask) for t in (text, other))
    elif kind == "one word":
        text, other = (Text(t.sentence, t.words[:, :1], t.mask[:, :1]) for t in (text, other))
    elif kind == "identical":
        text, other = (t.rows(torch.zeros(4, dtype=torch.long)) for t in (text, text))
        flat = [torch.zeros_like(image) for image in (*batch.smaller, batch.images)]
        batch = replace(batch, images=flat[-1], smaller=flat[:-1])
    batch = replace(batch, text=text, further_texts=[other])
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        draw = system.draw(batch)
        for loss in (system.discriminator_loss, system.generator_loss):
            losses = loss(batch, draw)
            losses.total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            assert losses.total.isfinite() and losses.total.dtype == torch.float32
            assert all(term.isfinite() for term in losses.terms.values())
    gradients = [p.grad for p in system.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_batch_of_one_has_intra_class_pairs_alone() -> None:
    system = small()
    batch = batch_of(system, 1)
    draw = system.draw(batch)
    terms = {**system.discriminator_loss(batch, draw).terms, **system.generator_loss(batch, draw).terms}
    assert "d_same_16" in terms
    assert not any(name.startswith(("wrong", "d_different")) for name in terms)
