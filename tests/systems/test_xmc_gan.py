"""XMC-GAN against its paper and the official code's numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.layers.frozen_network import FrozenNetwork
from ganvas.layers.self_modulation import AttentionalSelfModulation, SelfModulation
from ganvas.losses.contrastive import vector_contrast, word_contrast
from ganvas.recipe import list_recipes, load_recipe
from ganvas.systems.base import Batch, Losses
from ganvas.systems.damsm import DamsmSettings
from ganvas.systems.xmc_gan import XmcGan
from ganvas.systems.xmc_gan_networks import Discriminator, Generator, XmcGanSettings
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import BiLstmSettings

CAPTIONS = ["a red bird with a long blue tail", "bird", "a small green bird", "two birds"]
TERMS = ("sentence", "word", "image", "frozen")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(image_size: int = 32, **changes: Any) -> XmcGan:
    torch.manual_seed(0)
    encoder = build(BiLstmSettings(features=8, embedding=4, num_words=6), CAPTIONS, None)
    settings = XmcGanSettings(
        **{
            "generator_width": 4,
            "discriminator_width": 4,
            "noise_dim": 5,
            "condition_dim": 3,
            "frozen": "damsm",
            "damsm": DamsmSettings(image_encoder="scratch", width=4, regions=4),
            **changes,
        }
    )
    return XmcGan(settings, encoder, image_size)


def batch_of(system: XmcGan, size: int = 4) -> Batch:
    torch.manual_seed(1)
    with torch.no_grad():
        text = system.embed((CAPTIONS * 2)[:size])
    images = torch.randn(size, 3, system.image_size, system.image_size).tanh()
    return Batch(images=images, text=text)


@pytest.mark.parametrize(
    ("image_size", "gf", "generator", "discriminator"),
    [
        (256, 96, 92_865_539, 99_415_585),
        (128, 96, 78_507_779, 87_911_713),
        (256, 64, 44_443_267, 99_415_585),
    ],
)
def test_both_networks_have_the_official_number_of_parameters(
    image_size: int, gf: int, generator: int, discriminator: int
) -> None:
    settings = XmcGanSettings(generator_width=gf)
    with torch.device("meta"):
        assert count(Generator(settings, 768, 768, image_size)) == generator
        assert count(Discriminator(settings, 768, 768, image_size)) == discriminator


RECIPES = [name for name in list_recipes() if name.startswith("xmc-gan")]
VARIANTS = [(name, variant) for name in RECIPES for variant in load_recipe(name).variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_of_a_recipe_builds_at_full_size_and_changes_something(name: str, variant: str) -> None:
    plain = load_recipe(name)
    recipe = load_recipe(name, plain.variants[variant])
    assert (recipe.settings, recipe.data) != (plain.settings, plain.data)
    if recipe.settings.frozen == "lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    if recipe.text.encoder == "transformer":
        recipe = load_recipe(name, [*plain.variants[variant], "text.encoder=bilstm"])
        recipe = replace(
            recipe, settings=replace(recipe.settings, damsm=DamsmSettings(image_encoder="scratch"))
        )
    with torch.device("meta"):
        system = build_system(recipe, captions=CAPTIONS)
    assert isinstance(system, XmcGan) and system.image_size == recipe.data.image_size


def test_the_paper_s_ablations_are_all_listed() -> None:
    rows = {frozenset(name.split(" + ")) for name in load_recipe("xmc-gan-coco").variants}
    for row in ("none", "S", "W", "D", "VGG", "S + W", "D + VGG", "S + W + VGG"):
        assert frozenset(row.split(" + ")) in rows


@pytest.mark.parametrize("side", [8, 16, 32])
def test_blocks_from_the_attention_s_side_on_are_modulated_by_place(side: int) -> None:
    system = small(64, attention_side=side)
    kinds = [type(block.first) for block in system.generator.blocks] + [type(system.generator.last)]
    sides = [4, 8, 16, 32, 64]
    assert kinds == [AttentionalSelfModulation if s >= side else SelfModulation for s in sides]
    (maps,) = system.eval().attention(system.embed(CAPTIONS), torch.randn(4, 5))
    assert maps.shape[2:] == (side, side)
    assert torch.allclose(maps.sum(dim=1), torch.ones(4, side, side), atol=1e-5)


def test_without_attention_words_are_not_read() -> None:
    system = small(attention=False).eval()
    text, noise = system.embed(CAPTIONS), torch.randn(4, 5)
    other = text._replace(words=torch.randn_like(text.words))
    with torch.no_grad():
        assert torch.equal(*(system.generate(t, noise)[0] for t in (text, other)))
    assert not system.attends
    with pytest.raises(NotImplementedError):
        system.attention(text, noise)


def test_with_attention_they_are_and_padding_is_not() -> None:
    system = small().eval()
    text, noise = system.embed(CAPTIONS), torch.randn(4, 5)
    moved = torch.randn_like(text.words)
    padding = torch.where(text.mask[..., None], text.words, moved)
    with torch.no_grad():
        plain = system.generate(text, noise)[0]
        assert torch.equal(plain, system.generate(text._replace(words=padding), noise)[0])
        assert not torch.allclose(plain, system.generate(text._replace(words=moved), noise)[0], atol=1e-4)


def test_the_first_map_is_made_of_z_or_of_the_sentence_too() -> None:
    assert small().generator.start.in_features == 5
    assert small(first_input="both").generator.start.in_features == 5 + 3


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_contrastive_heads_have_so_many_hidden_layers(layers: int) -> None:
    d = small(head_layers=layers).discriminator
    assert sum(isinstance(m, nn.ReLU) for m in d.image_head) == layers
    assert sum(isinstance(m, nn.ReLU) for m in d.region_head) == layers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_layers": 3}, "settings.head_layers: should be 0, 1 or 2, not 3"),
        ({"attention_side": 12}, "settings.attention_side: should be a power of two"),
        ({"attention_side": 64}, "settings.attention_side: should be at most the image's 32 px"),
        ({"temperature": 0.0}, "settings.temperature: should be greater than 0"),
    ],
)
def test_impossible_settings_are_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GanvasError, match=words):
        small(**changes)


def test_the_discriminator_s_loss_is_hinge_and_the_contrasts_of_real_pairs_alone() -> None:
    system = small(sentence_weight=2.0, word_weight=3.0).eval()
    batch = batch_of(system)
    assert batch.text is not None
    draw = system.draw(batch)
    losses = system.discriminator_loss(batch, draw)
    d, text = system.discriminator, batch.text
    real, fake = d(batch.images, text.sentence), d(draw.images, text.sentence)
    hinge = (1 - real.logits).relu().mean() + (1 + fake.logits).relu().mean()
    sentence = vector_contrast(real.image, real.sentence).loss
    word = word_contrast(d.regions(real.middle), text.words, text.mask).loss
    assert torch.allclose(losses.total, hinge + 2 * sentence + 3 * word, atol=1e-5)
    assert set(losses.terms) == {"real", "fake", "sentence", "word", "sentence_accuracy", "word_accuracy"}


def test_the_generator_s_loss_is_the_sum_of_its_weighted_parts() -> None:
    weights = {"sentence_weight": 2.0, "word_weight": 3.0, "image_weight": 5.0, "frozen_weight": 7.0}
    system = small(**weights).eval()
    batch = batch_of(system)
    assert batch.text is not None and system.damsm is not None
    draw = system.draw(batch)
    losses = system.generator_loss(batch, draw)
    d, text, encoder = system.discriminator, batch.text, system.damsm.image_encoder
    real, fake = d(batch.images, text.sentence), d(draw.images, text.sentence)
    parts = {
        "sentence": vector_contrast(fake.image, fake.sentence).loss,
        "word": word_contrast(d.regions(fake.middle), text.words, text.mask).loss,
        "image": vector_contrast(fake.image, real.image).loss,
        "frozen": vector_contrast(encoder(draw.images).code, encoder(batch.images).code).loss,
    }
    total = -fake.logits.mean()
    for name, value in parts.items():
        assert torch.allclose(losses.terms[name], value, atol=1e-5), name
        total = total + weights[f"{name}_weight"] * value
    assert torch.allclose(losses.total, total, rtol=1e-4)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_without_weight_is_left_out(name: str) -> None:
    system = small(**{f"{name}_weight": 0.0})
    batch = batch_of(system)
    draw = system.draw(batch)
    for losses in (system.discriminator_loss(batch, draw), system.generator_loss(batch, draw)):
        assert not any(term.startswith(name) for term in losses.terms)


def test_the_perceptual_loss_is_zero_for_the_same_images_and_the_contrast_is_not() -> None:
    for kind in ("l2", "contrastive"):
        system = small(frozen_loss=kind).eval()
        batch = batch_of(system)
        draw = system.draw(batch)._replace(images=batch.images)
        value = system.generator_loss(batch, draw).terms["frozen"]
        assert (value == 0) == (kind == "l2")


def test_the_generator_s_turn_comes_every_second_step_and_the_text_encoder_first() -> None:
    system = small()
    damsm, gan = system.phases()
    assert damsm.trains_text and gan.words and list(gan.averaged) == [system.generator]
    assert [turn.every for turn in gan.turns] == [1, 2]
    assert [turn.adam.learning_rate for turn in gan.turns] == [4e-4, 1e-4]


def test_a_trained_text_encoder_needs_no_damsm() -> None:
    encoder = build(BiLstmSettings(features=8, embedding=4), CAPTIONS)
    encoder.trained_here = False
    system = XmcGan(XmcGanSettings(generator_width=2, discriminator_width=2, frozen_weight=0), encoder, 16)
    assert [phase.name for phase in system.phases()] == ["gan"] and system.damsm is None
    assert system.training_only == ("discriminator",)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", ["usual", "zero", "identical"])
def test_losses_and_gradients_are_finite_for_any_batch(size: int, kind: str, bfloat16: bool) -> None:
    system = small(unit_text=True).eval()
    batch = batch_of(system, size)
    assert batch.text is not None
    if kind == "zero":
        text = Text(*(torch.zeros_like(x) for x in batch.text[:2]), batch.text.mask)
        batch = replace(batch, text=text, images=torch.zeros_like(batch.images))
    elif kind == "identical":
        batch = replace(batch, images=batch.images[:1].expand(size, -1, -1, -1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        draw = system.draw(batch)
        found: list[Losses] = [system.discriminator_loss(batch, draw), system.generator_loss(batch, draw)]
    for losses in found:
        losses.total.backward()  # type: ignore[no-untyped-call]
        assert all(torch.isfinite(v) for v in (losses.total, *losses.terms.values()))
    for parameter in (*system.generator.parameters(), *system.discriminator.parameters()):
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
def test_each_contrast_can_be_lowered_by_the_generator(name: str) -> None:
    """Against encoders that are held still, on one batch and noise."""
    system = small(16, temperature=0.01).requires_grad_(False)  # untrained features are much alike
    system.damsm.eval()  # type: ignore[union-attr]
    batch, noise = batch_of(system), torch.randn(4, 5)
    system.generator.requires_grad_(True)
    optimizer, values = torch.optim.Adam(system.generator.parameters(), lr=1e-2), []
    for _ in range(40):
        assert batch.text is not None
        draw = system.draw(batch)._replace(images=system.generator(batch.text, noise))
        loss = system.generator_loss(batch, draw).terms[name]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [("resnet50", 25_557_032, 1000), ("vgg19", 143_667_240, 1000), ("lite0", None, 1280)],
)
def test_frozen_networks_are_nobody_s_parameters_and_pass_gradients_on(
    name: Any, parameters: int | None, features: int
) -> None:
    if name == "lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    with torch.device("meta" if name == "vgg19" else "cpu"):
        frozen = FrozenNetwork(name, "random", 64)
        images = torch.zeros(2, 3, 32, 32, requires_grad=True)
    frozen.start()
    assert not list(frozen.parameters()) and not frozen.state_dict()
    found: Tensor = frozen(images)
    assert found.shape == (2, features)
    found.sum().backward()
    assert images.grad is not None and images.grad.shape == images.shape
    if parameters is not None:
        assert count(frozen._hidden[0]) == parameters
    assert frozen.double()._hidden[0] is frozen._hidden[0]
    assert next(frozen._hidden[0].parameters()).dtype == torch.float64


def test_a_frozen_network_takes_larger_images_in_bfloat16_too() -> None:
    frozen = FrozenNetwork("resnet50", "random", 32)
    images = torch.rand(1, 3, 64, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        frozen(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.any()


def test_weights_of_a_frozen_network_come_from_a_file_of_torchvision_s_names(tmp_path: Any) -> None:
    torch.manual_seed(0)
    theirs = FrozenNetwork("resnet50", "random", 32)
    torch.save(theirs._hidden[0].state_dict(), tmp_path / "weights.pth")
    ours = FrozenNetwork("resnet50", str(tmp_path / "weights.pth"), 32)
    images = torch.randn(1, 3, 32, 32).tanh()
    assert not torch.allclose(ours(images), theirs(images))
    ours.start()
    assert torch.equal(ours(images), theirs(images))
    torch.save({"x": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(GanvasError, match="holds no weights"):
        ours.start()
