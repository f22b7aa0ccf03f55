"""StackGAN++ against its paper and the official code's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.stacked_discriminator import ConditionalHead, StackedDiscriminator, Trunk
from ganvas.losses.color_consistency import color_consistency_loss
from ganvas.systems.base import Batch, Losses
from ganvas.systems.stackgan_v2 import Generator, NextStage, StackGanV2, StackGanV2Settings, stage_sizes
from ganvas.text import build
from ganvas.text.encoder import NoText, Text
from ganvas.text.settings import CharCnnRnnSettings


def small(*, captions: bool = True, image_size: int = 32, **changes: Any) -> StackGanV2:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=8, embedding=16)) if captions else NoText()
    settings = StackGanV2Settings(
        **{
            "stages": 3,
            "noise_dim": 10,
            "condition_dim": 6,
            "generator_width": 8,
            "discriminator_width": 4,
            **changes,
        }
    )
    return StackGanV2(settings, encoder, image_size)


def batch_of(size: int, system: StackGanV2) -> Batch:
    def text() -> Text:
        sentence = torch.randn(size, system.text_encoder.sentence_dim)
        return Text(sentence, sentence.new_zeros(size, 0, 0), sentence.new_zeros(size, 0).bool())

    images = torch.randn(size, 3, system.image_size, system.image_size).tanh()
    smaller = [F.interpolate(images, size=side, mode="area") for side in system.sizes[:-1]]
    return Batch(
        images=images,
        smaller=smaller,
        text=text(),
        wrong_text=text(),
        wrong_images=images.roll(1, 0),
        wrong_smaller=[small.roll(1, 0) for small in smaller],
    )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def silence(system: StackGanV2) -> StackGanV2:
    """All logits zero."""
    for discriminator in system.discriminators:
        assert isinstance(discriminator, StackedDiscriminator)
        if discriminator.conditional is not None:
            nn.init.zeros_(discriminator.conditional.logit.weight)
        if discriminator.unconditional is not None:
            nn.init.zeros_(discriminator.unconditional.weight)
    return system


# --- the networks


@pytest.mark.parametrize(
    ("changes", "sentence_dim", "parameters"), [({}, 1024, 21_239_696), ({}, 0, 16_472_208)]
)
def test_the_generators_have_the_official_number_of_parameters(
    changes: dict[str, Any], sentence_dim: int, parameters: int
) -> None:
    with torch.device("meta"):
        generator = Generator(StackGanV2Settings(**changes), sentence_dim, [64, 128, 256])
    assert count(generator) == parameters


@pytest.mark.parametrize(
    ("captions", "parameters"),
    [(True, [5_723_906, 18_834_178, 71_269_122]), (False, [2_765_569, 15_875_841, 68_310_785])],
)
def test_the_discriminators_have_the_official_number_of_parameters(
    captions: bool, parameters: list[int]
) -> None:
    encoder = build(CharCnnRnnSettings(channels=8)) if captions else NoText()
    with torch.device("meta"):
        system = StackGanV2(StackGanV2Settings(), encoder, 256)
    assert [count(discriminator) for discriminator in system.discriminators] == parameters


@pytest.mark.parametrize(
    ("image_size", "stages", "sizes"),
    [
        (16, None, [16]),
        (64, None, [64]),
        (128, None, [64, 128]),
        (256, None, [64, 128, 256]),
        (256, 4, [32, 64, 128, 256]),
        (64, 3, [16, 32, 64]),
        (64, 1, [64]),
        (16, 2, [8, 16]),
    ],
)
def test_the_number_of_stages_follows_the_size_or_the_setting(
    image_size: int, stages: int | None, sizes: list[int]
) -> None:
    assert stage_sizes(image_size, stages) == sizes


@pytest.mark.parametrize(("image_size", "stages"), [(64, 5), (64, 0), (16, 3)])
def test_impossible_numbers_of_stages_are_one_line(image_size: int, stages: int) -> None:
    with pytest.raises(GanvasError, match=r"settings\.stages: .* at most \d") as refused:
        small(image_size=image_size, stages=stages)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_branch_gives_an_image_small_to_large(stages: int, captions: bool) -> None:
    system = small(stages=stages, captions=captions).eval()
    text = system.embed(["a red apple", "x"])
    images = system.generate(text, torch.randn(2, system.noise_dim))
    assert [tuple(image.shape) for image in images] == [
        (2, 3, 32 >> i, 32 >> i) for i in reversed(range(stages))
    ]
    assert len(system.discriminators) == stages


def test_the_first_stage_has_the_official_width_whatever_its_size() -> None:
    for image_size, stages in ((256, 3), (64, 3), (64, 2)):
        with torch.device("meta"):
            generator = Generator(StackGanV2Settings(), 1024, stage_sizes(image_size, stages))
        widths = [head.get_submodule("0").in_channels for head in generator.heads]
        assert widths == [64, 32, 16][:stages]


def test_a_stage_joins_condition_and_features_as_if_they_were_concatenated() -> None:
    system = small(stages=2).eval()
    stage = system.generator.further[0]
    assert isinstance(stage, NextStage)
    features, condition = torch.randn(2, 8, 16, 16), torch.randn(2, 6)
    tiled = condition[:, :, None, None].expand(-1, -1, 16, 16)
    joined = F.conv2d(torch.cat([features, tiled], dim=1), stage.join.weight, padding=1)
    expected = stage.up(stage.residual(stage.joined(joined)))
    torch.testing.assert_close(stage(features, condition), expected, rtol=1e-4, atol=1e-5)


# --- the condition


def test_noise_is_that_of_the_image_and_that_of_the_condition() -> None:
    system = small().eval()
    assert system.noise_dim == 10 + 6
    text = system.embed(["a red apple"])
    noise = torch.zeros(3, 16)
    noise[1, 0] = noise[2, 15] = 1
    generated = system.generator(text.sentence.expand(3, -1), noise)
    assert generated.condition is not None
    assert torch.equal(generated.condition.sample[0], generated.condition.mean[0])
    assert torch.equal(generated.condition.sample[1], generated.condition.mean[1])
    assert not torch.equal(generated.condition.sample[2], generated.condition.mean[2])
    first, of_z, of_epsilon = generated.images[-1]
    assert not torch.allclose(first, of_z) and not torch.allclose(first, of_epsilon)


def test_without_augmentation_the_condition_is_its_mean_and_no_divergence_is_counted() -> None:
    system = small(augmentation=False)
    assert system.noise_dim == 10
    batch = batch_of(4, system)
    draw = system.draw(batch)
    assert draw.condition is not None and torch.equal(draw.condition.sample, draw.condition.mean)
    assert "kl" not in system.generator_loss(batch, draw).terms


def test_the_condition_is_trained_by_the_generators_turn_and_not_by_the_discriminators() -> None:
    system = small(kl_weight=0.0)
    batch = batch_of(4, system)
    draw = system.draw(batch)
    assert draw.condition is not None
    draw.condition.mean.retain_grad()
    assert system.generator.augmentation is not None
    fc = system.generator.augmentation.fc
    system.discriminator_loss(batch, draw).total.backward()  # type: ignore[no-untyped-call]
    assert fc.weight.grad is None
    for p in system.generator.first.parameters():
        assert p.grad is None
    system.generator_loss(batch, draw).total.backward()  # type: ignore[no-untyped-call]
    assert fc.weight.grad is not None and fc.weight.grad.abs().sum() > 0


# --- the losses


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 6 * math.log(2)),
        ({"mismatch": "image"}, 6 * math.log(2)),
        ({"wrong_is_real": False}, 5 * math.log(2)),
        ({"mismatch": "image", "wrong_is_real": False}, 5 * math.log(2)),
        ({"mismatch": "none"}, 4 * math.log(2)),
        ({"unconditional_weight": 0.5}, 4.5 * math.log(2)),
        ({"unconditional_weight": 0.0}, 2 * math.log(2)),
        ({"unconditional_weight": 0.0, "mismatch": "none"}, 2 * math.log(2)),
        ({"captions": False}, 2 * math.log(2)),
    ],
)
def test_each_discriminators_loss_at_zero_logits(changes: dict[str, Any], expected: float) -> None:
    system = silence(small(**changes))
    batch = batch_of(4, system)
    losses = system.discriminator_loss(batch, system.draw(batch))
    assert losses.total.item() == pytest.approx(3 * expected, abs=1e-5)  # 6 ln 2 = 4.1589 for each of three


@pytest.mark.parametrize(
    ("changes", "logarithms"),
    [
        ({}, 6),
        ({"unconditional_weight": 0.5}, 4.5),
        ({"unconditional_weight": 0.0}, 3),
        ({"captions": False}, 3),
        ({"branches": "last"}, 2),
    ],
)
def test_the_generators_loss_at_zero_logits(changes: dict[str, Any], logarithms: float) -> None:
    system = silence(small(kl_weight=0.0, **changes))
    batch = batch_of(4, system)
    losses = system.generator_loss(batch, system.draw(batch))
    assert losses.total.item() == pytest.approx(logarithms * math.log(2), abs=1e-5)


def test_every_term_is_logged_by_name_and_side() -> None:
    system = small(color_weight=50.0)
    batch = batch_of(4, system)
    draw = system.draw(batch)
    names = [f"{uncond}{kind}_{side}" for uncond in ("", "uncond_") for kind in ("real", "fake")
             for side in (8, 16, 32)]  # fmt: skip
    assert set(system.discriminator_loss(batch, draw).terms) == {*names, "wrong_8", "wrong_16", "wrong_32"}
    assert set(system.generator_loss(batch, draw).terms) == {
        *(f"{kind}_{side}" for kind in ("matching", "uncond") for side in (8, 16, 32)),
        *("kl", "color_16", "color_32"),
    }


def test_the_mismatched_pair_is_the_same_made_by_text_or_by_image() -> None:
    """With running statistics, images rolled one way are captions rolled the other."""
    by_text, by_image = small(mismatch="text").eval(), small(mismatch="image").eval()
    batch = batch_of(4, by_text)
    assert batch.text is not None
    swapped = replace(batch, wrong_text=batch.text.rows(torch.arange(4).roll(-1)))
    draw = by_text.draw(swapped)
    ours, theirs = (s.discriminator_loss(swapped, draw) for s in (by_text, by_image))
    for side in (8, 16, 32):
        torch.testing.assert_close(ours.terms[f"wrong_{side}"], theirs.terms[f"wrong_{side}"])
        torch.testing.assert_close(ours.terms[f"uncond_real_{side}"], theirs.terms[f"uncond_wrong_{side}"])
    torch.testing.assert_close(ours.total, theirs.total)


def test_the_generators_total_is_its_terms_weighted() -> None:
    system = small(color_weight=50.0)
    batch = batch_of(4, system)
    draw = system.draw(batch)
    losses = system.generator_loss(batch, draw)
    weights = {"kl": 2.0, "color_16": 50.0, "color_32": 50.0}
    expected = sum(weights.get(name, 1.0) * value for name, value in losses.terms.items())
    torch.testing.assert_close(losses.total, expected)
    pair = color_consistency_loss(draw.images[1], draw.images[0], mean_weight=1, covariance_weight=5)
    torch.testing.assert_close(losses.terms["color_16"], pair)


def test_the_features_of_a_real_image_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small()
    calls: list[int] = []
    once = Trunk.together

    def counted(self: Trunk, batches: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(batches))
        return once(self, batches)

    monkeypatch.setattr(Trunk, "together", counted)
    batch = batch_of(4, system)
    system.discriminator_loss(batch, system.draw(batch))
    assert calls == [2] * 3  # real and generated, for three branches


# --- rows of the ablation


def test_the_row_g3_has_one_image_and_one_discriminator_at_full_size() -> None:
    system = small(branches="last")
    assert len(system.discriminators) == len(system.generator.heads) == 1
    phase = system.phases()[-1]
    assert not phase.smaller
    batch = batch_of(4, system)
    assert [tuple(image.shape) for image in system.draw(batch).images] == [(4, 3, 32, 32)]


def test_without_joint_terms_discriminators_have_no_unconditional_head() -> None:
    system = small(unconditional_weight=0.0)
    assert all(d.unconditional is None for d in system.discriminators)
    batch = batch_of(4, system)
    draw = system.draw(batch)
    losses = system.discriminator_loss(batch, draw), system.generator_loss(batch, draw)
    assert not any("uncond" in name for each in losses for name in each.terms)


# --- without captions


def test_without_captions_the_noise_is_the_condition_and_images_are_judged_alone() -> None:
    system = small(captions=False)
    assert system.noise_dim == 10
    assert all(d.conditional is None for d in system.discriminators)
    assert [phase.name for phase in system.phases()] == ["gan"]
    first, other = system.embed(["a red apple"]), system.embed(["another"])
    noise = torch.randn(1, 10)
    system.eval()
    assert torch.equal(system.generate(first, noise)[-1], system.generate(other, noise)[-1])


def test_with_captions_the_text_encoder_is_trained_first_and_the_batch_has_all_sides() -> None:
    text, gan = small(mismatch="image").phases()
    assert text.trains_text and text.image_size == 32 and gan.name == "gan" and gan.image_size is None
    assert small(image_size=128).phases()[0].image_size == 64
    assert list(gan.smaller) == [8, 16] and gan.wrong_images
    assert not small().phases()[-1].wrong_images


# --- batches at the edge


def losses_of(system: StackGanV2, size: int) -> list[Losses]:
    batch = batch_of(size, system)
    draw = system.draw(batch)
    return [system.discriminator_loss(batch, draw), system.generator_loss(batch, draw)]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"mismatch": "image", "color_weight": 50.0}, {"captions": False, "color_weight": 50.0}]
)
@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_of_one_is_finite_in_value_and_gradient(
    size: int, changes: dict[str, Any], bfloat16: bool
) -> None:
    system = small(**changes).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses = losses_of(system, size)
    for each in losses:
        each.total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert all(value.isfinite() and value.dtype == torch.float32 for value in each.terms.values())
    tensors: list[Tensor] = [p.grad for p in system.parameters() if p.grad is not None]
    tensors += [buffer for buffer in system.buffers() if buffer.is_floating_point()]
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("caption", ["x", "a " * 500, "?", "鳥"])
def test_captions_of_any_length_give_an_image(caption: str) -> None:
    system = small().eval()
    image = system.generate(system.embed([caption]), torch.randn(1, system.noise_dim))[-1]
    assert image.isfinite().all()


def test_real_labels_may_be_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ConditionalHead, "together", lambda self, pairs: [f.new_full((len(f),), 2.0) for f, _ in pairs]
    )
    system = small(real_label=0.9)
    batch = batch_of(4, system)
    terms = system.discriminator_loss(batch, system.draw(batch)).terms
    smoothed = math.log(1 + math.exp(-2)) + 0.1 * 2  # softplus(-x) + (1 - label) x
    assert all(terms[f"real_{size}"].item() == pytest.approx(smoothed, rel=1e-5) for size in system.sizes)
    assert terms[f"fake_{system.sizes[0]}"].item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-5)
