"""ALR-GAN: its losses in the system, what each switch leaves out, and layouts of real images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.layers.layout import AdaptiveWeights
from ganvas.recipe import list_recipes, load_recipe
from ganvas.systems.alr_gan import AlrGan, AlrGanSettings, AlrLayoutSettings
from ganvas.systems.attngan import AttnGan, AttnGanSettings
from ganvas.systems.base import Batch
from ganvas.systems.damsm import DamsmSettings
from ganvas.systems.layout import LayoutSettings
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import BiLstmSettings

CAPTIONS = ["a red bird with a long blue tail", "bird", "a small green bird", "two birds"]
REDUCED: dict[str, Any] = {
    "stages": 3,
    "generator_width": 8,
    "discriminator_width": 4,
    "residual_blocks": 1,
    "noise_dim": 5,
    "condition_dim": 3,
    "damsm": DamsmSettings(image_encoder="scratch", width=4, regions=4),
}


def small(layout: dict[str, Any] | None = None, **changes: Any) -> AlrGan:
    torch.manual_seed(0)
    encoder = build(BiLstmSettings(features=8, embedding=4, num_words=6), CAPTIONS, None)
    settings = AlrGanSettings(**{**REDUCED, "layout": AlrLayoutSettings(**layout or {}), **changes})
    return AlrGan(settings, encoder, 32)


def batch_of(system: AttnGan, size: int = 4) -> Batch:
    torch.manual_seed(1)
    captions = (CAPTIONS * 2)[:size]
    full = 4 * torch.randn(size, 3, 8, 8)
    full = F.interpolate(full, size=system.image_size, mode="bilinear").tanh()
    images = [F.interpolate(full, size=side, mode="area") for side in system.sizes]
    with torch.no_grad():
        text, wrong = system.embed(captions), system.embed(captions[::-1])
    return Batch(
        images=images[-1], smaller=images[:-1], text=text, wrong_text=wrong, labels=torch.arange(size)
    )


def generator_terms(system: AttnGan, batch: Batch | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(2)
    batch = batch or batch_of(system)
    losses = system.generator_loss(batch, system.draw(batch))
    return losses.total, dict(losses.terms)


def names(system: AttnGan) -> set[str]:
    """The terms of layout refinement, without sizes."""
    return {
        name.rsplit("_", 1)[0]
        for name in generator_terms(system)[1]
        if name.startswith(("rec", "alr", "lvr"))
    }


ALR, LVR = {"alr_easy", "alr_hard", "alr_order"}, {"lvr_texture", "lvr_style"}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, {"rec"} | ALR | LVR),
        ({"alr_weight": 0}, {"rec"} | LVR),
        ({"lvr_weight": 0}, {"rec"} | ALR),
        ({"sr_weight": 0}, {"rec", "lvr_texture"} | ALR),
        ({"pr_weight": 0}, {"rec", "lvr_style"} | ALR),
        ({"weights": "none"}, ({"rec"} | ALR | LVR) - {"alr_order"}),
        ({"weights": "free"}, {"rec"} | ALR | LVR),
        ({"alr_weight": 0, "lvr_weight": 0}, set()),
    ],
    ids=str,
)
def test_each_part_can_be_left_out_with_its_parameters(layout: dict[str, Any], expected: set[str]) -> None:
    system = small(layout)
    assert names(system) == expected
    weighed = [m for m in system.refinement.modules() if isinstance(m, AdaptiveWeights)]
    assert len(weighed) == (4 if "alr_order" in expected else 0)
    assert len(system.refinement.encoders) == (2 if expected else 0)


def test_only_stages_that_attend_are_refined() -> None:
    terms = generator_terms(small())[1]
    assert {name for name in terms if name.startswith("rec")} == {"rec_16", "rec_32"}
    assert names(small(stages=1)) == set() and not small(stages=1).lays_out


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    layout = {"alr_weight": 3, "lvr_weight": 5, "pr_weight": 7, "sr_weight": 11, "reconstruction_weight": 13}
    system = small(layout, damsm_weight=17, kl_weight=19, adversarial_weight=0.25)
    total, terms = generator_terms(system)
    weights = {"matching": 0.25, "uncond": 0.25, "damsm": 17, "kl": 19, "rec": 13, "alr": 3}
    weights |= {"lvr_texture": 5 * 7, "lvr_style": 5 * 11}
    expected = 0.0
    for name, value in terms.items():
        (weight,) = (weight for start, weight in weights.items() if name.startswith(start))
        expected += weight * value.item()
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_without_both_losses_it_is_attngan_with_half_the_adversarial_weight() -> None:
    system = small({"alr_weight": 0, "lvr_weight": 0})
    torch.manual_seed(0)
    plain = AttnGan(
        AttnGanSettings(**REDUCED, adversarial_weight=0.5, mismatched="none"), system.text_encoder, 32
    )
    assert set(plain.state_dict()) == set(system.state_dict())
    plain.load_state_dict(system.state_dict())
    assert torch.equal(generator_terms(plain)[0], generator_terms(system)[0])


def test_attngan_can_have_its_losses_by_a_setting() -> None:
    torch.manual_seed(0)
    encoder = build(BiLstmSettings(features=8, embedding=4, num_words=6), CAPTIONS, None)
    system = AttnGan(
        AttnGanSettings(**REDUCED, layout=LayoutSettings(alr_weight=1, lvr_weight=1)), encoder, 32
    )
    assert names(system) == {"rec"} | ALR | LVR
    recipe = load_recipe("attngan-emoji", ["settings.layout.lvr_weight=1"])
    assert recipe.settings.layout.is_on and not load_recipe("attngan-emoji").settings.layout.is_on


def test_discriminators_have_no_mismatched_pair_unless_asked() -> None:
    for mismatched, expected in (("none", False), ("neighbour", True)):
        system = small(mismatched=mismatched)
        batch = batch_of(system)
        terms = system.discriminator_loss(batch, system.draw(batch)).terms
        assert ("wrong_32" in terms) == expected


def gradients(system: AlrGan, start: str) -> set[str]:
    """Submodules that the terms beginning with ``start`` move."""
    system.zero_grad()
    _, terms = generator_terms(system)
    torch.stack([value for name, value in terms.items() if name.startswith(start)]).sum().backward()  # type: ignore[no-untyped-call]
    moved = [n for n, p in system.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    return {".".join(name.split(".")[:2]) for name in moved}


def test_reconstruction_trains_encoders_and_the_stages_that_images_pass_through() -> None:
    moved = gradients(small(), "rec")
    assert moved == {"refinement.encoders", "generator.further", "generator.heads"}


@pytest.mark.parametrize("start", ["alr", "lvr"])
def test_real_images_are_targets_unless_they_are_drawn_to_generated_ones_too(start: str) -> None:
    moved = gradients(small(), start)
    assert "refinement.encoders" not in moved and {"generator.initial", "generator.further"} <= moved
    assert "refinement.encoders" in gradients(small({"detached": False}), start)


def test_running_statistics_are_those_of_generated_images() -> None:
    system = small()
    batch = batch_of(system)
    torch.manual_seed(2)
    draw = system.draw(batch)
    after_draw = {name: value.clone() for name, value in system.generator.named_buffers()}
    system.generator_loss(batch, draw)
    assert after_draw
    assert all(torch.equal(v, after_draw[name]) for name, v in system.generator.named_buffers())


@pytest.mark.parametrize(("share", "rows"), [(1.0, 4), (0.5, 2), (0.3, 2), (0.01, 1)])
def test_a_share_of_the_batch_is_its_first_images(share: float, rows: int) -> None:
    """What lies beyond them means nothing."""
    system = small({"share": share})
    batch = batch_of(system)
    values = []
    for blank in (False, True):
        changed = batch
        if blank:
            images = batch.images.clone()
            images[rows:] = 0
            changed = replace(batch, images=images)
        terms = generator_terms(system, changed)[1]
        values.append(torch.stack([v for n, v in terms.items() if n.startswith(("rec", "alr", "lvr"))]))
    assert torch.equal(*values)


def test_layouts_of_real_images_have_the_form_of_those_of_generated_ones() -> None:
    for over in ("words", "places"):
        system = small(attention_over=over).eval()
        assert system.lays_out
        with torch.no_grad():
            text = system.embed(CAPTIONS)
            generated = system.attention(text, torch.randn(4, system.noise_dim))
            images = torch.randn(4, 3, 32, 32).tanh()
            real = system.layout(images, text)
        assert [m.shape for m in real] == [m.shape for m in generated]
        for maps in (*real, *generated):
            assert torch.allclose(maps.sum(dim=1), torch.ones(4, *maps.shape[2:]), atol=1e-5)
            assert not maps[~text.mask].any()
        with torch.no_grad():
            other = system.layout(-images, text)
        assert not torch.allclose(real[-1], other[-1])


def test_attngan_finds_no_layouts_of_real_images() -> None:
    system = small({"alr_weight": 0, "lvr_weight": 0})
    with pytest.raises(NotImplementedError, match="no layouts of real images"):
        system.layout(torch.zeros(4, 3, 32, 32), system.embed(CAPTIONS))


def test_a_model_keeps_its_encoders_of_real_images() -> None:
    system = small()
    assert "refinement" not in system.training_only
    gan = system.phases()[-1]
    assert list(gan.averaged) == [system.generator, system.refinement] == list(gan.turns[1].modules)


def test_training_draws_layouts_to_those_of_real_images() -> None:
    """With the discriminators and DAMSM silent, some steps on one batch lower every loss."""
    layout = {"norm": "root-mean-square", "gamma": 0.05}
    system = small(layout, damsm_weight=0, kl_weight=0, adversarial_weight=0).requires_grad_(False)
    batch = batch_of(system)
    modules = torch.nn.ModuleList([system.generator, system.refinement]).requires_grad_(True)
    optimizer = torch.optim.Adam(modules.parameters(), lr=3e-3)
    seen = []
    for _ in range(30):
        torch.manual_seed(2)
        losses = system.generator_loss(batch, system.draw(batch))
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append({name: value.item() for name, value in losses.terms.items()})
    for name in ("rec_32", "lvr_texture_32", "rec_16", "lvr_texture_16"):
        assert seen[-1][name] < 0.8 * seen[0][name], name


@pytest.mark.parametrize("weights", ["normalised", "none"])
def test_alr_alone_makes_layouts_alike(weights: str) -> None:
    layout = {"norm": "root-mean-square", "weights": weights, "lvr_weight": 0, "reconstruction_weight": 0}
    silent = {"damsm_weight": 0, "kl_weight": 0, "adversarial_weight": 0}
    system = small(layout, unit_text=True, **silent).requires_grad_(False)
    batch = batch_of(system)
    modules = torch.nn.ModuleList([system.generator, system.refinement]).requires_grad_(True)
    optimizer = torch.optim.Adam(modules.parameters(), lr=3e-3)
    assert batch.text is not None
    unlike = []
    for _ in range(30):
        torch.manual_seed(2)
        draw = system.draw(batch)
        with torch.no_grad():
            text = system._scaled(batch.text)
            real = system.refinement.layout(system.generator, batch.images, text)
            theta = system.generator.further[0].attention(  # type: ignore[union-attr,operator]
                draw.features[0], text.words, text.mask
            )
            unlike.append((real[0] - theta.weights).abs().mean().item())
        losses = system.generator_loss(batch, draw)
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert unlike[0] > 0.02 and unlike[-1] < 0.7 * unlike[0], unlike


def padded(text: Text, by: int) -> Text:
    """With so many words more that mean nothing."""
    junk = torch.randn(len(text.words), by, text.words.shape[2])
    mask = torch.cat([text.mask, torch.zeros(len(text.mask), by, dtype=torch.bool)], dim=1)
    return Text(text.sentence, torch.cat([text.words, junk], dim=1), mask)


@pytest.mark.parametrize("over", ["words", "places"])
@pytest.mark.parametrize("by", [1, 30])
def test_masked_words_change_nothing_for_any_padding(by: int, over: str) -> None:
    system = small(attention_over=over, damsm_weight=0).requires_grad_(False)
    batch = batch_of(system)
    assert batch.text is not None
    longer = replace(batch, text=padded(batch.text, by))
    (total, terms), (other, other_terms) = generator_terms(system, batch), generator_terms(system, longer)
    assert other.item() == pytest.approx(total.item(), rel=1e-4)
    for name, value in terms.items():
        assert other_terms[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["zero text", "same images", "one word", "one image"])
@pytest.mark.parametrize("over", ["words", "places"])
def test_losses_are_finite_for_degenerate_batches(case: str, bfloat16: bool, over: str) -> None:
    system = small({"gamma": 0.02}, attention_over=over)
    if case == "one image":
        system.eval()
        system.generator.further.train()
    batch = batch_of(system, 1 if case == "one image" else 4)
    assert batch.text is not None
    if case == "zero text":
        batch = replace(batch, text=Text(*(x * 0 for x in batch.text[:2]), batch.text.mask))
    if case == "same images":
        images = [x[:1].expand_as(x) * 0 for x in (*batch.smaller, batch.images)]
        batch = replace(batch, images=images[-1], smaller=images[:-1])
    if case == "one word":
        with torch.no_grad():
            batch = replace(batch, text=system.embed(["bird"] * 4))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses = system.generator_loss(batch, system.draw(batch))
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.isfinite() and all(x.isfinite() for x in losses.terms.values())
    found = [p.grad for p in system.generator.parameters() if p.grad is not None]
    assert found and all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize(
    "changes",
    [
        {"alr_weight": -1},
        {"gamma": -0.1},
        {"weight_floor": 1.0},
        {"share": 0.0},
        {"share": 1.5},
        {"pr_weight": 0, "sr_weight": 0},
    ],
    ids=str,
)
def test_impossible_settings_are_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(GanvasError, match=next(iter(changes))) as refused:
        AlrLayoutSettings(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"), [({"form": "dcgan"}, "form=dcgan"), ({"mask_compat": True}, "mask_compat")]
)
def test_what_does_not_go_together_is_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GanvasError, match=words):
        AlrGanSettings(attention_over="places", **changes)


RECIPES = [name for name in list_recipes() if name.startswith("alr-gan")]
VARIANTS = [(name, variant) for name in RECIPES for variant in load_recipe(name).variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_of_a_recipe_builds_at_full_size_and_changes_something(name: str, variant: str) -> None:
    plain = load_recipe(name)
    recipe = load_recipe(name, plain.variants[variant])
    with torch.device("meta"):
        system = build_system(recipe, captions=CAPTIONS)
    assert isinstance(system, AlrGan) and len(system.sizes) == 3
    assert recipe.settings != plain.settings
