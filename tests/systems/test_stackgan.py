"""StackGAN against its paper and the official codes' numbers."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import outcome
from torch import nn

from ganvas.building import build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.layers.conditioning import ConditioningAugmentation
from ganvas.pipeline import load
from ganvas.recipe import Recipe, load_recipe, resolve
from ganvas.systems.base import Batch
from ganvas.systems.stackgan import StackGan
from ganvas.systems.stackgan_networks import Discriminator, StackGanSettings, Stage1, Stage2
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import CharCnnRnnSettings
from ganvas.training.loop import train

FORMS = ["tensorflow", "pytorch"]
pytestmark = pytest.mark.usefixtures("single_threaded")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(image_size: int = 32, **changes: Any) -> StackGan:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=8, embedding=16), None, None)
    widths = {"generator_width": 8, "discriminator_width": 4, "condition_dim": 6, "projection": 8}
    return StackGan(StackGanSettings(**{"stages": 2, **widths, **changes}), encoder, image_size)


def text_of(size: int, dim: int = 16) -> Text:
    sentence = torch.randn(size, dim)
    return Text(sentence, sentence.new_zeros(size, 0, 0), sentence.new_zeros(size, 0).bool())


def batch_of(size: int, image_size: int) -> Batch:
    images = torch.randn(size, 3, image_size, image_size).tanh()
    return Batch(images=images, text=text_of(size), wrong_text=text_of(size), wrong_images=images.roll(1, 0))


def stage_batch(system: StackGan, number: int, size: int = 4) -> Batch:
    return batch_of(size, system.stage_sizes[number - 1])


def indifferent(system: StackGan, number: int) -> None:
    """All logits of a stage's discriminator become zero."""
    d = system.discriminator(number)
    for head in (d.conditional.logit, d.unconditional):
        if head is not None:
            for parameter in head.parameters():
                nn.init.zeros_(parameter)


# --- networks

COCO = {"form": "pytorch", "generator_width": 192, "discriminator_width": 96, "residual_blocks": 2}


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, (14_264_192, 26_290_080, 4_029_824, 48_603_520)),
        ({"form": "pytorch"}, (10_301_248, 26_290_080, 5_715_713, 71_269_122)),
        (COCO, (20_020_832, 37_130_480, 12_407_425, 159_889_538)),
    ],
    ids=["TensorFlow", "PyTorch", "COCO"],
)
def test_the_networks_have_the_official_numbers_of_parameters(
    settings: dict[str, Any], parameters: tuple[int, ...]
) -> None:
    s = StackGanSettings(**settings)
    with torch.device("meta"):
        networks = (
            Stage1(s, 1024, 64),
            Stage2(s, 1024, 64, 256),
            Discriminator(s, 1024, 64, stage=1),
            Discriminator(s, 1024, 256, stage=2),
        )
    assert tuple(count(network) for network in networks) == parameters


@pytest.mark.parametrize(
    ("image_size", "settings", "sizes"),
    [
        (256, {}, [64, 256]),
        (128, {}, [64, 128]),
        (64, {}, [64]),
        (64, {"stages": 2}, [32, 64]),
        (16, {"stages": 2}, [8, 16]),
        (256, {"stages": 1}, [256]),
        (256, {"stage1_size": 32}, [32, 256]),
        (128, {"stage1_size": 16}, [16, 128]),
    ],
)
def test_stages_follow_the_image_size_unless_they_are_given(
    image_size: int, settings: dict[str, Any], sizes: list[int]
) -> None:
    system = small(image_size, **{"stages": None, **settings}).eval()
    assert system.stage_sizes == sizes
    with torch.no_grad():
        images = system.generate(text_of(1), torch.randn(1, system.noise_dim))
    assert [image.shape[-1] for image in images] == sizes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stages": 3}, "settings.stages: should be 1 or 2, not 3"),
        ({"stages": 2, "stage1_size": 24}, "settings.stage1_size: should be a power of two"),
        ({"stages": 2, "stage1_size": 64}, "below 64 px, not 64"),
        ({"stages": 1, "stage1_size": 32}, "leave 32 out"),
    ],
)
def test_stages_that_cannot_be_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(GanvasError) as refused:
        small(64, **settings)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_the_first_stage_has_its_official_width_below_the_image_whatever_its_size(
    form: str, size: int
) -> None:
    settings = StackGanSettings(form=form, generator_width=8)  # type: ignore[arg-type]
    stage = Stage1(settings, 16, size)
    (last,) = (m for m in stage.image if isinstance(m, nn.Conv2d))
    assert last.in_channels == (8 if form == "tensorflow" else 4)
    assert stage.project.out_features == 16 * 8 * min(8, size // 8)


@pytest.mark.parametrize(("image_size", "blocks"), [(256, 4), (128, 2), (64, 2)])
def test_stage_two_has_four_residual_blocks_at_256_pixels_and_two_below(image_size: int, blocks: int) -> None:
    assert len(small(image_size).generator(2).residual) == blocks  # type: ignore[arg-type]
    assert len(small(image_size, residual_blocks=3).generator(2).residual) == 3  # type: ignore[arg-type]


def test_a_form_is_a_preset_that_single_settings_override() -> None:
    mixed = StackGanSettings(form="pytorch", activation="leaky", unconditional=False).resolved()
    assert (mixed.activation, mixed.unconditional) == ("leaky", False)
    assert (mixed.scale, mixed.judges, mixed.stage1) == ("log-variance", "mean", "plain")
    assert mixed.resolved() == mixed
    birds = StackGanSettings().resolved()
    assert (birds.activation, birds.scale, birds.epsilon) == ("leaky", "log-deviation", "truncated")


def test_the_third_activation_is_missing_in_the_first_discriminator_alone() -> None:
    def activations(third: bool, stage: int, size: int) -> int:
        d = Discriminator(StackGanSettings(third_activation=third), 16, size, stage=stage)
        return sum(isinstance(m, nn.LeakyReLU) for m in d.trunk.modules())

    with torch.device("meta"):
        assert activations(True, 1, 64) - activations(False, 1, 64) == 1
        assert activations(True, 2, 256) == activations(False, 2, 256)


def test_convolutions_begin_within_two_deviations_where_the_form_is_tensorflow() -> None:
    for form, cut in (("tensorflow", True), ("pytorch", False)):
        stage = Stage1(StackGanSettings(form=form, generator_width=8), 16, 64)  # type: ignore[arg-type]
        weights = torch.cat([m.weight.flatten() for m in stage.modules() if isinstance(m, nn.Conv2d)])
        assert (weights.abs().max() <= 0.04) == cut
        assert weights.std().item() == pytest.approx(0.0176 if cut else 0.02, rel=0.05)


# --- noise and conditions


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 100 + 6 + 6),
        ({"stages": 1}, 100 + 6),
        ({"stage2_text": False}, 100 + 6),
        ({"augmentation": False}, 100),
    ],
)
def test_noise_has_an_epsilon_for_each_conditioning_augmentation(
    settings: dict[str, Any], width: int
) -> None:
    system = small(**settings)
    assert system.noise_dim == width
    assert system.draw_noise(torch.empty(3, 1)).shape == (3, width)


@pytest.mark.parametrize("form", FORMS)
def test_epsilon_is_truncated_in_the_tensorflow_form_and_z_never(form: str) -> None:
    noise = small(form=form).draw_noise(torch.empty(4000, 1))
    z, epsilon = noise[:, :100], noise[:, 100:]
    assert z.abs().max() > 3 and z.std().item() == pytest.approx(1, abs=0.02)
    assert (epsilon.abs().max() <= 2) == (form == "tensorflow")
    assert epsilon.std().item() == pytest.approx(0.88 if form == "tensorflow" else 1, abs=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_without_epsilon_the_condition_is_the_mean(form: str) -> None:
    system = small(form=form).eval()
    condition = system.stage1(torch.randn(3, 16), torch.randn(3, 100), torch.zeros(3, 6)).condition
    assert torch.equal(condition.sample, condition.mean)


def test_without_text_stage_two_sees_the_caption_in_the_small_image_alone() -> None:
    sentence, other, epsilon = torch.randn(2, 16), torch.randn(2, 16), torch.randn(2, 6)
    for reads in (True, False):
        system = small(stage2_text=reads).eval()
        drawn = system.stage1(sentence, torch.randn(2, 100), epsilon)
        stage2 = system.generator(2)
        first, second = (stage2(drawn, text, epsilon).images for text in (sentence, other))
        assert torch.equal(first, second) != reads


# --- losses


@pytest.mark.parametrize("mismatch", ["text", "shift", "image"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_losses_at_zero_logits(form: str, number: int, mismatch: str) -> None:
    """D: ln 2 (1 + 1/2 + 1/2), or ln 2 (2/2 + 3/3); G: ln 2 for each head, and the KL term."""
    system = small(form=form, mismatch=mismatch)
    indifferent(system, number)
    batch = stage_batch(system, number)
    drawn = system.draw(number, batch)
    judged = system.discriminator_loss(number, batch, drawn)
    made = system.generator_loss(number, batch, drawn)
    assert judged.total.item() == pytest.approx(2 * math.log(2), abs=1e-6)
    heads = 2 if form == "pytorch" and number == 2 else 1
    kl = made.terms[f"kl_{system.stage_sizes[number - 1]}"].item()
    assert made.total.item() == pytest.approx(heads * math.log(2) + 2 * kl, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_terms_weigh_as_in_the_form(form: str) -> None:
    system = small(form=form)
    batch = stage_batch(system, 2)
    total, terms = system.discriminator_loss(2, batch, system.draw(2, batch))
    real, wrong, fake = (terms[f"{name}_32"] for name in ("real", "wrong", "fake"))
    expected = real + (wrong + fake) / 2
    if form == "pytorch":
        expected = (real + terms["uncond_real_32"]) / 2 + (wrong + fake + terms["uncond_fake_32"]) / 3
    assert torch.isclose(total, expected)
    assert len(terms) == (5 if form == "pytorch" else 3)


@pytest.mark.parametrize(("form", "second"), [("tensorflow", 0.5), ("pytorch", 1.0)])
@pytest.mark.parametrize("weight", [1.0, 2.0])
@pytest.mark.parametrize("number", [1, 2])
def test_the_kl_term_in_closed_form(form: str, second: float, weight: float, number: int) -> None:
    """mu = 1 costs 1/2, a log variance of 1 (log deviation of 1/2) costs 0.3591409."""
    system = small(form=form, kl_weight=weight)
    indifferent(system, number)
    reads = system.generator(number).condition
    assert isinstance(reads, ConditioningAugmentation)
    nn.init.zeros_(reads.fc.weight)
    with torch.no_grad():
        reads.fc.bias.copy_(torch.tensor([1.0] * 6 + [second] * 6))
    batch = stage_batch(system, number)
    total, terms = system.generator_loss(number, batch, system.draw(number, batch))
    kl = 0.5 + 0.3591409
    assert terms[f"kl_{batch.images.shape[-1]}"].item() == pytest.approx(kl, abs=1e-5)
    heads = len(terms) - 1
    assert total.item() == pytest.approx(heads * math.log(2) + weight * kl, abs=1e-5)


@pytest.mark.parametrize("settings", [{"augmentation": False}, {"stage2_text": False}])
def test_a_stage_without_augmentation_has_no_kl_term(settings: dict[str, Any]) -> None:
    system = small(**settings)
    batch = stage_batch(system, 2)
    assert set(system.generator_loss(2, batch, system.draw(2, batch)).terms) == {"matching_32"}


@pytest.mark.parametrize("form", FORMS)
def test_a_mismatched_image_and_a_mismatched_caption_make_the_same_pair(form: str) -> None:
    by_text, by_image = (small(form=form, mismatch=kind).eval() for kind in ("text", "image"))
    batch = stage_batch(by_text, 2)
    assert batch.text is not None
    order = torch.arange(4).roll(1)
    swapped = replace(batch, wrong_text=batch.text.rows(order.argsort()), wrong_images=batch.images[order])
    drawn = by_text.draw(2, swapped)
    wrong = [s.discriminator_loss(2, swapped, drawn).terms["wrong_32"] for s in (by_text, by_image)]
    assert torch.isclose(*wrong, atol=1e-5)


def test_shifted_pairs_take_the_next_caption_of_the_batch() -> None:
    system = small(mismatch="shift").eval()
    batch = stage_batch(system, 1)
    assert batch.text is not None
    d = system.discriminator(1)
    logits = d.judge(d.features(batch.images)[:-1], batch.text.sentence[1:])
    terms = system.discriminator_loss(1, batch, system.draw(1, batch)).terms
    assert torch.isclose(terms["wrong_16"], nn.functional.softplus(logits).mean(), atol=1e-6)


def test_discriminators_that_judge_means_see_neither_epsilon_nor_sentence() -> None:
    system = small(form="pytorch").eval()
    batch = stage_batch(system, 1)
    drawn = system.draw(1, batch)
    moved = drawn._replace(condition=drawn.condition._replace(sample=drawn.condition.sample + 5))
    other = replace(batch, text=text_of(4))
    losses = [
        system.discriminator_loss(1, *case).terms["real_16"]
        for case in ((batch, drawn), (batch, moved), (other, drawn))
    ]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    total, _ = system.discriminator_loss(1, batch, drawn)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in system.stage1.parameters())


def test_redrawn_noise_makes_other_images_for_the_generator() -> None:
    for redraws in (True, False):
        system = small(redraw_noise=redraws).train()
        batch = stage_batch(system, 1)
        drawn = system.draw(1, batch)
        once, twice = (system.generator_loss(1, batch, drawn).total for _ in range(2))
        assert torch.equal(once, twice) != redraws


def test_one_sided_smoothing_moves_only_the_real_targets() -> None:
    hard, soft = (small(form="pytorch", real_label=label).eval() for label in (1.0, 0.9))
    batch = stage_batch(hard, 2)
    drawn = hard.draw(2, batch)
    first, second = (s.discriminator_loss(2, batch, drawn).terms for s in (hard, soft))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {
        "real_32",
        "uncond_real_32",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mismatch", ["text", "shift", "image"])
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_one_gives_finite_losses_and_images(form: str, mismatch: str, dtype: torch.dtype) -> None:
    """Of Stage-I's seed there is no batch statistic of one: it is used, not trained."""
    system = small(form=form, mismatch=mismatch).train()
    system.stage1.eval()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for number in (1, 2):
            batch = stage_batch(system, number, size=1)
            drawn = system.draw(number, batch)
            for loss in (system.discriminator_loss, system.generator_loss):
                total, terms = loss(number, batch, drawn)
                assert total.dtype == torch.float32 and torch.isfinite(total)
                assert all(torch.isfinite(term) for term in terms.values())
        system.eval()
        for caption in ("x", "a long caption " * 40):
            text = system.embed([caption])
            assert all(
                torch.isfinite(i).all() for i in system.generate(text, system.draw_noise(torch.empty(1)))
            )


# --- stages in training


def test_stage_one_is_held_still_while_stage_two_trains() -> None:
    for statistics in ("running", "batch"):
        system = small(stage1_statistics=statistics).train()
        system.stage1.eval()
        before = {name: value.clone() for name, value in system.stage1.state_dict().items()}
        drawn = system.draw(2, stage_batch(system, 2))
        assert not system.stage1.training and drawn.images.requires_grad
        after = system.stage1.state_dict()
        changed = {name for name in after if not after[name].equal(before[name])}
        assert bool(changed) == (statistics == "batch")
        assert all("running" in name or "num_batches" in name for name in changed)
        drawn.images.sum().backward()
        assert all(p.grad is None for p in system.stage1.parameters())


def tiny_stackgan(**images: int) -> Recipe:
    return resolve(
        {
            "name": "tiny",
            "system": "stackgan",
            "data": {"set": "emoji", "image_size": 16},
            "text": {"encoder": "char-cnn-rnn", "channels": 8, "embedding": 16},
            "settings": {
                "stages": 2,
                "generator_width": 8,
                "discriminator_width": 4,
                "joint_embedding": {"image_width": 4},
            },
            "training": {
                "images": images,
                "batch_size": 4,
                "device": "cpu",
                "precision": "float32",
                "log_every": 3,
                "sample_every": 8,
                "samples": 2,
                "save_every": 8,
            },
        }
    )


def test_a_model_draws_with_the_stages_that_are_trained_and_a_run_goes_on_from_one_to_two(
    store: Store, tmp_path: Path
) -> None:
    whole = train(tiny_stackgan(text=8, stage1=12, stage2=12), store, tmp_path / "whole").folder
    log = (whole / "log.csv").read_text()
    assert "discriminator_real_8" in log and "generator_kl_16" in log
    first = train(tiny_stackgan(text=8, stage1=12), store, tmp_path / "first").folder
    assert load(first, device="cpu").generate(["a red ball"])[0].size == (8, 8)
    for number, further in enumerate(({"text": 8, "stage1": 12, "stage2": 12}, {"stage2": 12})):
        folder = shutil.copytree(first, tmp_path / str(number))
        train(tiny_stackgan(**further), store, folder)
        assert load(folder, device="cpu").generate(["a red ball"])[0].size == (16, 16)
        assert outcome(folder) == outcome(whole)


# --- the paper's ablation

ABLATION = {
    "Stage-I 64, no CA": ([64], False, 0),
    "Stage-I 64, CA": ([64], True, 1),
    "Stage-I 256, no CA": ([256], False, 0),
    "Stage-I 256, CA": ([256], True, 1),
    "StackGAN 128, CA, text once": ([64, 128], True, 1),
    "StackGAN 128, no CA, text twice": ([64, 128], False, 0),
    "StackGAN 128, CA, text twice": ([64, 128], True, 2),
    "StackGAN 256, CA, text once": ([64, 256], True, 1),
    "StackGAN 256, no CA, text twice": ([64, 256], False, 0),
}


def test_the_birds_recipe_has_every_row_of_the_papers_ablation() -> None:
    assert load_recipe("stackgan-cub").variants.keys() == ABLATION.keys()


@pytest.mark.parametrize("row", ABLATION)
def test_a_row_of_the_ablation_is_what_its_name_says(row: str) -> None:
    sizes, augments, epsilons = ABLATION[row]
    recipe = load_recipe("stackgan-cub", load_recipe("stackgan-cub").variants[row])
    with torch.device("meta"):
        system = build_system(recipe)
    assert isinstance(system, StackGan)
    assert system.stage_sizes == sizes and recipe.data.stored_size == sizes[-1] * 76 // 64
    assert isinstance(system.stage1.condition, ConditioningAugmentation) == augments
    assert system.noise_dim == 100 + 128 * epsilons
    assert system.stage2 is None or (system.stage2.condition is None) == ("once" in row)
    budgets = {name for name, images in recipe.training.images.items() if images}
    assert budgets == {phase.name for phase in system.phases()}
