"""AttnGAN against its paper and the official code's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_attngan import CAPTIONS, batch_of, small_attngan
from torch import Tensor, nn

from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.layers.conditioning import kl_loss
from ganvas.layers.stacked_discriminator import ConditionalHead, StackedDiscriminator
from ganvas.losses.adversarial import real_loss
from ganvas.recipe import list_recipes, load_recipe
from ganvas.systems.attngan import AttnGan, AttnGanSettings, Generator, stage_sizes
from ganvas.systems.base import Losses
from ganvas.systems.damsm import DamsmSettings

COCO: dict[str, Any] = {"generator_width": 48, "discriminator_width": 96, "residual_blocks": 3}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 7_084_592), (COCO, 13_811_456), ({"form": "dcgan"}, 6_638_960)],
    ids=["CUB", "COCO", "AttnDCGAN"],
)
def test_the_generator_has_the_official_number_of_parameters(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        assert count(Generator(AttnGanSettings(**changes), 256, 256, 256)) == parameters


@pytest.mark.parametrize(
    ("recipe", "overrides", "parameters"),
    [
        ("attngan-cub", [], [6_313_730, 19_424_002, 71_858_946]),
        ("attngan-coco", [], [13_304_450, 42_800_258, 160_774_274]),
        ("attngan-cub", ["settings.form=dcgan"], [71_850_753]),
    ],
    ids=["CUB", "COCO", "AttnDCGAN"],
)
def test_the_recipes_have_discriminators_with_the_official_number_of_parameters(
    recipe: str, overrides: list[str], parameters: list[int]
) -> None:
    with torch.device("meta"):
        system = build_system(load_recipe(recipe, overrides), captions=CAPTIONS)
    assert isinstance(system, AttnGan)
    assert [count(d) for d in system.discriminators] == parameters


RECIPES = [name for name in list_recipes() if name.startswith("attngan")]
VARIANTS = [(name, variant) for name in RECIPES for variant in load_recipe(name).variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_of_a_recipe_builds_at_full_size_and_changes_something(name: str, variant: str) -> None:
    plain = load_recipe(name)
    recipe = load_recipe(name, plain.variants[variant])
    with torch.device("meta"):
        system = build_system(recipe, captions=CAPTIONS)
    assert isinstance(system, AttnGan) and system.sizes[-1] == recipe.data.image_size
    assert {phase.name for phase in system.phases()} == set(recipe.training.images)
    same = (recipe.settings, recipe.data) == (plain.settings, plain.data)
    assert not same


@pytest.mark.parametrize(
    ("image_size", "stages", "sizes"),
    [
        (256, None, [64, 128, 256]),
        (128, None, [64, 128]),
        (64, None, [64]),
        (16, None, [16]),
        (64, 3, [16, 32, 64]),
        (256, 1, [256]),
        (16, 2, [8, 16]),
    ],
)
def test_stages_follow_the_image_size_unless_they_are_given(
    image_size: int, stages: int | None, sizes: list[int]
) -> None:
    assert stage_sizes(image_size, stages) == sizes


@pytest.mark.parametrize("stages", [0, 4])
def test_an_impossible_number_of_stages_is_one_line(stages: int) -> None:
    with pytest.raises(GanvasError, match=rf"settings\.stages: should be 1 to 3 for 32 px.*not {stages}"):
        stage_sizes(32, stages)


def test_every_stage_draws_an_image_and_its_features_have_one_width() -> None:
    system = small_attngan(image_size=64, stages=3).eval()
    with torch.no_grad():
        text, noise = system.embed(CAPTIONS), torch.randn(4, system.noise_dim)
        images = system.generate(text, noise)
        _, features = system.generator.features(text, noise)
    assert [image.shape[-1] for image in images] == [16, 32, 64] == system.sizes
    assert [tuple(h.shape[1:]) for h in features] == [(4, 16, 16), (4, 32, 32), (4, 64, 64)]


def test_zero_epsilon_conditions_on_the_mean_and_other_epsilon_does_not() -> None:
    system = small_attngan().eval()
    assert system.noise_dim == 5 + 3
    noise = torch.randn(4, 8)
    noise[:, 5:] = 0
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        condition, _ = system.generator.features(text, noise)
        assert torch.equal(condition.sample, condition.mean)
        other = noise.clone()
        other[:, 5:] = 1
        moved, _ = system.generator.features(text, other)
        assert torch.allclose(moved.sample, moved.mean + (moved.log_variance / 2).exp())
        assert not torch.allclose(system.generate(text, noise)[-1], system.generate(text, other)[-1])


def test_attention_maps_have_the_side_of_the_stage_before_and_sum_to_one_over_real_words() -> None:
    system = small_attngan(image_size=64, stages=3).eval()
    assert system.attends
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        maps = system.attention(text, torch.randn(4, system.noise_dim))
    assert [tuple(m.shape) for m in maps] == [(4, 6, 16, 16), (4, 6, 32, 32)]
    for weights in maps:
        assert torch.allclose(weights.sum(dim=1), torch.ones(4, *weights.shape[2:]), atol=1e-6)
        assert (weights[~text.mask] == 0).all()
    assert (maps[0][1, 0] == 1).all()  # a caption of one word


def alone_and_together(system: AttnGan) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        noise = torch.randn(4, system.noise_dim)
        together = system.generate(system.embed(CAPTIONS), noise)[-1]
        each = [system.generate(system.embed(CAPTIONS[i : i + 1]), noise[i : i + 1])[-1] for i in range(4)]
    return torch.cat(each), together


def test_an_image_does_not_depend_on_the_other_captions_of_its_batch() -> None:
    alone, together = alone_and_together(small_attngan().eval())
    assert torch.allclose(alone, together, atol=1e-5)


def test_with_the_official_mask_it_does() -> None:
    alone, together = alone_and_together(small_attngan(mask_compat=True).eval())
    assert not torch.allclose(alone, together, atol=1e-3)


def test_words_beyond_the_limit_are_not_read() -> None:
    system = small_attngan().eval()
    long = "a red bird with a long " + "tail " * 50
    with torch.no_grad():
        noise = torch.randn(1, system.noise_dim)
        cut = system.generate(system.embed(["a red bird with a long"]), noise)[-1]
        assert torch.allclose(system.generate(system.embed([long]), noise)[-1], cut, atol=1e-6)


def judging(system: AttnGan, monkeypatch: pytest.MonkeyPatch, logit: float = 0.0) -> list[Tensor]:
    """All discriminators answer ``logit``; the sentences that they were shown."""
    shown: list[Tensor] = []

    def judge(self: ConditionalHead, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        shown.extend(sentence for _, sentence in pairs)
        return [features.new_full((len(features),), logit) for features, _ in pairs]

    monkeypatch.setattr(ConditionalHead, "together", judge)
    monkeypatch.setattr(StackedDiscriminator, "judge_alone", lambda self, f: f.new_full((len(f),), logit))
    return shown


@pytest.mark.parametrize(
    "changes",
    [{}, {"unconditional": False}, {"form": "dcgan"}, {"mismatched": "none"}, {"mismatched": "drawn"}],
    ids=str,
)
def test_discriminators_that_know_nothing_have_a_loss_of_two_log_two_each(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = small_attngan(**changes)
    judging(system, monkeypatch)
    batch = batch_of(system)
    losses = system.discriminator_loss(batch, system.draw(batch))
    assert losses.total.item() == pytest.approx(2 * math.log(2) * len(system.sizes), rel=1e-5)


def test_real_terms_weigh_a_half_and_wrong_ones_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_attngan(stages=1)
    judging(system, monkeypatch, logit=1.0)
    batch = batch_of(system)
    losses = system.discriminator_loss(batch, system.draw(batch))
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    names = ["real_32", "uncond_real_32", "fake_32", "wrong_32", "uncond_fake_32"]
    assert set(losses.terms) == set(names)
    assert [losses.terms[name].item() for name in names] == pytest.approx([right] * 2 + [wrong] * 3)
    assert losses.total.item() == pytest.approx(2 * right / 2 + 3 * wrong / 3)


def test_real_labels_may_be_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_attngan(stages=1, real_label=0.9)
    judging(system, monkeypatch, logit=2.0)
    batch = batch_of(system)
    terms = system.discriminator_loss(batch, system.draw(batch)).terms
    smoothed = math.log(1 + math.exp(-2)) + 0.1 * 2  # softplus(-x) + (1 - label) x
    assert terms["real_32"].item() == pytest.approx(smoothed, rel=1e-5)
    assert terms["uncond_real_32"].item() == pytest.approx(smoothed, rel=1e-5)


def test_mismatched_pairs_are_the_next_caption_of_the_batch_or_the_drawn_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for mismatched in ("neighbour", "drawn"):
        system = small_attngan(stages=1, mismatched=mismatched)
        shown = judging(system, monkeypatch)
        batch = batch_of(system)
        assert batch.text is not None and batch.wrong_text is not None
        system.discriminator_loss(batch, system.draw(batch))
        sentence = batch.text.sentence
        wrong = sentence[[1, 2, 3, 0]] if mismatched == "neighbour" else batch.wrong_text.sentence
        assert len(shown) == 3 and torch.equal(shown[2], wrong)
        assert torch.equal(shown[0], sentence) and torch.equal(shown[1], sentence)


def test_the_generator_hears_every_discriminator_and_damsm_on_the_largest_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = small_attngan(damsm_weight=7.0, kl_weight=3.0).eval()
    batch = batch_of(system)
    assert batch.text is not None
    draw = system.draw(batch)
    seen: list[tuple[Any, ...]] = []

    def loss(images: Tensor, text: Any, labels: Any) -> Losses:
        seen.append((images, text, labels))
        return Losses(torch.tensor(2.0), {"words": torch.tensor(2.0)})

    monkeypatch.setattr(system.damsm, "loss", loss)
    losses = system.generator_loss(batch, draw)
    expected = torch.tensor(0.0)
    for d, image in zip(system.discriminators, draw.images, strict=True):
        assert isinstance(d, StackedDiscriminator)
        features = d.features(image)
        expected = expected + real_loss(d.judge(features, batch.text.sentence))
        expected = expected + real_loss(d.judge_alone(features))
    kl = kl_loss(draw.condition.mean, draw.condition.log_variance)
    assert torch.allclose(losses.total, expected + 7 * 2 + 3 * kl)
    ((images, text, labels),) = seen
    assert images is draw.images[-1] and text is batch.text and labels is batch.labels
    assert set(losses.terms) == {
        *("matching_16", "uncond_16", "matching_32", "uncond_32", "damsm_words", "kl"),
    }


def test_without_weight_damsm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_attngan(damsm_weight=0.0)
    monkeypatch.setattr(system.damsm, "loss", None)
    batch = batch_of(system)
    assert system.generator_loss(batch, system.draw(batch)).total.isfinite()


def test_reconstruction_is_the_mean_difference_from_the_real_image_at_every_stage() -> None:
    system = small_attngan(reconstruction_weight=3.0)
    batch = batch_of(system)
    draw = system.draw(batch)
    found = system.generator_loss(batch, draw)
    missed = [
        (fake - real).abs().mean()
        for fake, real in zip(draw.images, [*batch.smaller, batch.images], strict=True)
    ]
    for size, value in zip(system.sizes, missed, strict=True):
        torch.testing.assert_close(found.terms[f"reconstruction_{size}"], value)
    plain = small_attngan()
    plain.load_state_dict(system.state_dict())
    without = plain.generator_loss(batch, draw)
    assert not any(name.startswith("reconstruction") for name in without.terms)
    torch.testing.assert_close(found.total - without.total, 3 * torch.stack(missed).sum())


def test_damsm_moves_the_generator_through_words() -> None:
    """With discriminators that are silent, some steps on one batch lower DAMSM's loss."""
    system = small_attngan(stages=1, image_size=16, damsm_weight=1.0, kl_weight=0.0)
    system.requires_grad_(False).eval()
    system.generator.train().requires_grad_(True)
    batch = batch_of(system)
    assert batch.text is not None
    noise = system.draw_noise(batch.text.sentence)
    optimizer = torch.optim.Adam(system.generator.parameters(), lr=5e-3)
    values = []
    for _ in range(40):
        images = system.generate(batch.text, noise)[-1]
        loss = system.damsm.loss(images, batch.text, batch.labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert min(values[-5:]) < 0.6 * values[0]


def test_the_dcgan_form_has_one_image_one_discriminator_and_no_residual_blocks() -> None:
    system = small_attngan(image_size=64, stages=3, form="dcgan", residual_blocks=2)
    assert system.sizes == [64] and len(system.discriminators) == 1
    assert not any(type(m).__name__ == "ResidualBlock" for m in system.generator.modules())
    batch = batch_of(system)
    assert set(system.discriminator_loss(batch, system.draw(batch)).terms) == {
        "real_64",
        "fake_64",
        "wrong_64",
    }
    assert len(system.attention(system.embed(CAPTIONS), torch.randn(4, system.noise_dim))) == 2


def test_damsm_comes_first_and_the_gan_asks_for_words_and_smaller_images() -> None:
    system = small_attngan(image_size=64, stages=3)
    damsm, gan = system.phases()
    assert (damsm.name, gan.name) == ("damsm", "gan")
    assert gan.words and not gan.trains_text and list(gan.smaller) == [16, 32]
    assert list(gan.averaged) == [system.generator]
    trained = {id(p) for turn in gan.turns for m in turn.modules for p in m.parameters()}
    frozen = [*system.text_encoder.parameters(), *system.damsm.parameters()]
    assert frozen and not any(id(p) in trained for p in frozen)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("one_class", [False, True], ids=["many classes", "one class"])
def test_losses_are_finite_for_any_batch(size: int, one_class: bool, bfloat16: bool) -> None:
    system = small_attngan()
    if size == 1:
        system.eval()  # one row has no variance to be normalised by
    batch = batch_of(system, size)
    if one_class:
        batch = replace(batch, labels=torch.zeros(size, dtype=torch.long))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        draw = system.draw(batch)
        for loss in (system.discriminator_loss, system.generator_loss):
            losses = loss(batch, draw)
            losses.total.backward(retain_graph=True)
            assert losses.total.isfinite() and all(term.isfinite() for term in losses.terms.values())
    gradients = [p.grad for p in system.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_batch_of_one_has_no_mismatched_pair() -> None:
    system = small_attngan().eval()
    batch = batch_of(system, 1)
    terms = system.discriminator_loss(batch, system.draw(batch)).terms
    assert set(terms) == {
        f"{name}_{s}" for name in ("real", "fake", "uncond_real", "uncond_fake") for s in (16, 32)
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_encoder": "scratch"}, "trained from scratch"),
        ({"image_encoder": "inception"}, "Inception-v3, trained on ImageNet and frozen"),
        ({"image_encoder": "inception", "weights": "some/where/here.pt"}, "with the weights of here.pt"),
    ],
)
def test_the_model_card_says_what_damsm_started_from(settings: dict[str, Any], words: str) -> None:
    with torch.device("meta"):
        (fact,) = small_attngan(damsm=DamsmSettings(**settings)).facts()
    assert fact.startswith("DAMSM's image encoder: ") and words in fact
