"""GAN-INT-CLS against its paper and the official code's numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ganvas.systems.base import Batch
from ganvas.systems.gan_int_cls import (
    Discriminator,
    Draw,
    GanIntCls,
    GanIntClsSettings,
    Generator,
    StyleEncoder,
)
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import CharCnnRnnSettings


def official(**changes: Any) -> GanIntClsSettings:
    """The official layers, biases counted."""
    return GanIntClsSettings(convolution_bias=True, **changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(**changes: Any) -> GanIntCls:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=8, embedding=16), None, None)
    settings = GanIntClsSettings(
        generator_width=4, discriminator_width=4, projection=8, style_width=4, **changes
    )
    return GanIntCls(settings, encoder, 32)


def batch_of(size: int, dim: int = 16, image_size: int = 32) -> Batch:
    def text() -> Text:
        sentence = torch.randn(size, dim)
        return Text(sentence, sentence.new_zeros(size, 0, 0), sentence.new_zeros(size, 0).bool())

    images = torch.randn(size, 3, image_size, image_size).tanh()
    return Batch(images=images, text=text(), wrong_text=text(), wrong_images=images.roll(1, 0))


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 18_909_699),
        ({"generator_width": 196}, 41_107_551),
        ({"projection": 256}, 21_138_051),
    ],
    ids=["CUB", "COCO", "default of main_cls"],
)
def test_the_generator_has_the_official_number_of_parameters(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        assert count(Generator(official(**changes), 1024, 64)) == parameters


@pytest.mark.parametrize(
    ("width", "projection_norm", "parameters"),
    [(64, True, 4_032_321), (128, True, 15_568_129), (196, False, 36_190_301)],
    ids=["CUB", "flowers", "COCO"],
)
def test_the_discriminator_has_the_official_number_of_parameters(
    width: int, projection_norm: bool, parameters: int
) -> None:
    settings = official(discriminator_width=width, projection_norm=projection_norm)
    with torch.device("meta"):
        assert count(Discriminator(settings, 1024, 64)) == parameters


def test_the_generator_matches_its_layers_written_out() -> None:
    settings = GanIntClsSettings(generator="plain", generator_width=4, projection=8)
    generator = Generator(settings, 16, 32).eval()
    noise, sentence = torch.randn(3, 100), torch.randn(3, 16)
    seed = torch.cat([noise, generator.project(sentence)], dim=1)[:, :, None, None]
    x = generator.start(seed)
    for layer in generator.layers:
        x = layer(x)
    assert torch.allclose(generator(noise, sentence), x, atol=1e-5)


def test_the_discriminator_head_is_a_convolution_over_the_whole_map() -> None:
    discriminator = Discriminator(official(discriminator_width=4, projection=8), 16, 32).eval()
    features, sentence = torch.randn(3, 16, 4, 4), torch.randn(3, 16)
    text = discriminator.project(sentence)[:, :, None, None].expand(-1, -1, 4, 4)
    expected = discriminator.head(discriminator.joint(torch.cat([features, text], dim=1))).flatten()
    assert torch.allclose(discriminator.judge(features, sentence), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_plain_networks_have_no_residual_units(name: str) -> None:
    residual = getattr(small(), name)
    plain = getattr(small(**{name: "plain"}), name)
    assert count(plain) < count(residual)
    assert not any(type(m).__name__ == "Bottleneck" for m in plain.modules())


def test_third_activation_and_projection_norm_are_the_quirks_of_the_interpolating_script() -> None:
    with torch.device("meta"):
        usual = Discriminator(GanIntClsSettings(), 1024, 64)
        quirky = Discriminator(GanIntClsSettings(third_activation=False, projection_norm=True), 1024, 64)

    def activations(module: nn.Module) -> int:
        return sum(isinstance(m, nn.LeakyReLU) for m in module.modules())

    assert activations(usual.trunk) - activations(quirky.trunk) == 1
    assert any(isinstance(m, nn.BatchNorm1d) for m in quirky.project)


@pytest.mark.parametrize(("matching_aware", "expected"), [(True, 2 * math.log(2)), (False, 2 * math.log(2))])
@pytest.mark.parametrize("mismatch", ["text", "image"])
def test_the_discriminator_loss_at_zero_logits(matching_aware: bool, mismatch: str, expected: float) -> None:
    system = small(matching_aware=matching_aware, mismatch=mismatch)
    nn.init.zeros_(system.discriminator.head.weight)
    batch = batch_of(4)
    losses = system.discriminator_loss(batch, system.draw(batch))
    assert losses.total.item() == pytest.approx(expected, abs=1e-6)  # ln 2 (1 + 1/2 + 1/2) = 1.3863
    assert ("wrong" in losses.terms) == matching_aware


def test_real_wrong_and_fake_weigh_one_and_half_and_half() -> None:
    system = small()
    batch = batch_of(4)
    losses = system.discriminator_loss(batch, system.draw(batch))
    terms = losses.terms
    expected = terms["real"] + terms["wrong"] / 2 + terms["fake"] / 2
    assert torch.isclose(losses.total, expected)


def test_the_mismatched_image_and_the_mismatched_text_make_the_same_pair() -> None:
    """An image with another's caption, or that other image with this caption: one batch holds both."""
    by_text, by_image = small(mismatch="text").eval(), small(mismatch="image").eval()
    batch = batch_of(4)
    assert batch.text is not None
    order = torch.arange(4).roll(1)  # row i has image i - 1, so its text is that of image i + 1
    swapped = Batch(
        images=batch.images,
        text=batch.text,
        wrong_text=batch.text.rows(order.argsort()),
        wrong_images=batch.images[order],
    )
    draw = by_text.draw(swapped)
    wrong_text = by_text.discriminator_loss(swapped, draw).terms["wrong"]
    wrong_image = by_image.discriminator_loss(swapped, draw).terms["wrong"]
    assert torch.isclose(wrong_text, wrong_image, atol=1e-5)


def test_interpolation_adds_half_a_batch_of_averaged_rows() -> None:
    system = small()
    batch = batch_of(64)
    assert batch.text is not None
    sentence = batch.text.sentence
    draw = system.draw(batch)
    assert draw.sentence.shape[0] == draw.images.shape[0] == 96
    assert torch.equal(draw.sentence[:64], sentence)
    assert torch.allclose(draw.sentence[64:], (sentence[:32] + sentence[32:]) / 2)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_odd_batches_are_interpolated_as_far_as_they_pair(size: int) -> None:
    system = small()
    batch = batch_of(size)
    losses = system.generator_loss(batch, system.draw(batch))
    assert torch.isfinite(losses.total)
    assert len(system.draw(batch).images) == size + size // 2


def test_beta_mixes_the_pair() -> None:
    system = small(beta=0.25)
    sentence = torch.randn(4, 16)
    assert torch.allclose(system.interpolate(sentence), 0.25 * sentence[:2] + 0.75 * sentence[2:])


def test_extrapolation_stays_on_the_line_through_both_captions() -> None:
    system = small(extrapolate=True)
    sentence = torch.randn(4, 16)
    steps = (system.interpolate(sentence) - sentence[:2]) / (sentence[2:] - sentence[:2])
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-3)
    assert steps.abs().max() <= 1


def test_without_interpolation_the_generator_sees_the_batch_alone() -> None:
    system = small(interpolation=False)
    batch = batch_of(6)
    draw = system.draw(batch)
    assert len(draw.images) == 6
    assert set(system.generator_loss(batch, draw).terms) == {"matching"}


def test_the_interpolated_rows_carry_their_weight() -> None:
    batch = batch_of(4)
    losses = {}
    for weight in (0.0, 1.0):
        system = small(interpolation_weight=weight).eval()
        torch.manual_seed(0)
        losses[weight] = system.generator_loss(batch, system.draw(batch))
    terms = losses[1.0].terms
    assert torch.isclose(losses[0.0].total, terms["matching"] * 4 / 6)
    assert torch.isclose(losses[1.0].total, (4 * terms["matching"] + 2 * terms["interpolated"]) / 6)


def test_one_sided_smoothing_moves_only_the_real_target() -> None:
    batch = batch_of(4)
    hard, soft = small().eval(), small(real_label=0.9).eval()
    draw = hard.draw(batch)
    first, second = hard.discriminator_loss(batch, draw).terms, soft.discriminator_loss(batch, draw).terms
    assert torch.equal(first["fake"], second["fake"])
    assert torch.equal(first["wrong"], second["wrong"])
    assert not torch.equal(first["real"], second["real"])


def test_redrawn_noise_makes_other_images_for_the_generator() -> None:
    batch = batch_of(4)
    system = small(redraw_noise=True)
    draw = system.draw(batch)
    once, twice = (system.generator_loss(batch, draw).total for _ in range(2))
    assert not torch.equal(once, twice)
    shared = small()
    draw = shared.draw(batch)
    assert torch.equal(shared.generator_loss(batch, draw).total, shared.generator_loss(batch, draw).total)


def test_uniform_noise_lies_between_minus_one_and_one() -> None:
    noise = small(noise="uniform").draw_noise(torch.empty(1000, 1))
    assert noise.shape == (1000, 100)
    assert noise.abs().max() <= 1
    assert noise.std() == pytest.approx(1 / math.sqrt(3), abs=0.02)


@pytest.mark.parametrize("squared", [True, False])
def test_the_style_loss_is_the_norm_or_its_square(squared: bool) -> None:
    system = small(squared_style=squared)
    nn.init.zeros_(system.style_encoder.head[-1].weight)
    nn.init.zeros_(system.style_encoder.head[-1].bias)
    noise = torch.full((4, 100), 0.3)
    draw = Draw(noise, torch.randn(4, 16), torch.randn(4, 3, 32, 32))
    norm = 0.3 * 10
    expected = norm**2 if squared else norm
    assert system.style_loss(batch_of(4), draw).total.item() == pytest.approx(expected, rel=1e-5)


def test_the_style_encoder_gives_noise_for_images() -> None:
    encoder = StyleEncoder(GanIntClsSettings(style_width=4, noise_dim=7), 64)
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_the_four_systems_of_the_paper_are_two_switches() -> None:
    batch = batch_of(4)
    for matching_aware in (False, True):
        for interpolation in (False, True):
            system = small(matching_aware=matching_aware, interpolation=interpolation)
            draw = system.draw(batch)
            d, g = system.discriminator_loss(batch, draw), system.generator_loss(batch, draw)
            assert ("wrong" in d.terms) == matching_aware
            assert ("interpolated" in g.terms) == interpolation
