"""What every system promises, checked over the registry."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ganvas.systems import find, list_systems
from ganvas.systems.alr_gan import AlrGanSettings
from ganvas.systems.attngan import AttnGanSettings
from ganvas.systems.base import Batch, Phase, System
from ganvas.systems.classifier import ClassifierSettings
from ganvas.systems.damsm import DamsmSettings
from ganvas.systems.gan_int_cls import GanIntClsSettings
from ganvas.systems.joint_embedding import JointEmbeddingSettings
from ganvas.systems.retriever import RetrieverSettings
from ganvas.systems.sd_gan_networks import SdGanSettings
from ganvas.systems.stackgan_networks import StackGanSettings
from ganvas.systems.stackgan_v2 import StackGanV2Settings
from ganvas.systems.xmc_gan_networks import XmcGanSettings
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import CharCnnRnnSettings

CAPTIONS = ["a red apple", "a blue bird on a branch", "the flag of Japan", "x"]

_EMBEDDING = JointEmbeddingSettings(image_width=4)
SMALL: dict[str, Any] = {
    "alr-gan": AlrGanSettings(
        stages=2,
        generator_width=4,
        discriminator_width=4,
        residual_blocks=1,
        condition_dim=6,
        damsm=DamsmSettings(image_encoder="scratch", width=4, regions=4),
    ),
    "attngan": AttnGanSettings(
        stages=2,
        generator_width=4,
        discriminator_width=4,
        residual_blocks=1,
        condition_dim=6,
        damsm=DamsmSettings(image_encoder="scratch", width=4, regions=4),
    ),
    "classifier": ClassifierSettings(
        width=4, dropout=0.0, heads=("class", "style"), labels={"class": ("a", "b"), "style": ("x", "y", "z")}
    ),
    "damsm": DamsmSettings(image_encoder="scratch", width=4, regions=4),
    "gan-int-cls": GanIntClsSettings(
        generator_width=4, discriminator_width=4, projection=8, style_width=4, joint_embedding=_EMBEDDING
    ),
    "retriever": RetrieverSettings(joint_embedding=_EMBEDDING),
    "sd-gan": SdGanSettings(
        stages=2,
        generator_width=4,
        discriminator_width=4,
        residual_blocks=1,
        condition_dim=6,
        starts_plain=False,
        alpha=0.0,
        epsilon=10.0,
        damsm=DamsmSettings(image_encoder="scratch", width=4, regions=4),
    ),
    "stackgan": StackGanSettings(
        stages=2,
        generator_width=8,
        discriminator_width=8,
        condition_dim=6,
        projection=8,
        joint_embedding=_EMBEDDING,
    ),
    "stackgan++": StackGanV2Settings(
        stages=2, generator_width=4, discriminator_width=4, condition_dim=6, joint_embedding=_EMBEDDING
    ),
    "xmc-gan": XmcGanSettings(
        generator_width=4,
        discriminator_width=4,
        noise_dim=6,
        condition_dim=5,
        head_layers=1,
        frozen="damsm",
        damsm=DamsmSettings(image_encoder="scratch", width=4, regions=4),
    ),
}
GENERATING = [name for name in list_systems() if find(name).system.generates]


def small_system(name: str, image_size: int = 32, **changes: Any) -> System:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=8, embedding=16), None, None)
    return find(name).build(replace(SMALL[name], **changes), encoder, image_size)


def small_batch(system: System, size: int = 4) -> Batch:
    text = system.embed(CAPTIONS[:size])
    frozen = Text(*(part.detach() for part in text))
    images = torch.randn(size, 3, system.image_size, system.image_size).tanh()
    sides = max((phase.smaller for phase in system.phases()), key=len)
    smaller = [F.interpolate(images, size=side, mode="area") for side in sides]
    return Batch(
        images=images,
        smaller=smaller,
        wrong_smaller=[image.roll(1, 0) for image in smaller],
        tokens=system.text_encoder.tokenize(CAPTIONS[:size]),
        text=frozen,
        further_texts=[frozen.rows(torch.arange(size).flip(0))],
        wrong_text=frozen.rows(torch.arange(size).roll(1)),
        wrong_images=images.roll(1, 0),
        labels=torch.arange(size),
        targets=torch.tensor([[0, 2], [1, -1], [1, 0], [-1, 1]])[:size],
    )


def sized(batch: Batch, phase: Phase) -> Batch:
    """The batch with its images at the side that the phase asks for."""
    if phase.image_size is None:
        return batch
    images = F.interpolate(batch.images, size=phase.image_size, mode="area")
    return replace(batch, images=images, wrong_images=images.roll(1, 0))


def test_every_system_has_small_settings_here() -> None:
    assert set(SMALL) == set(list_systems())


@pytest.mark.parametrize("image_size", [16, 32, 64, 128])
@pytest.mark.parametrize("name", GENERATING)
def test_generated_images_have_the_size_asked_for_and_lie_between_minus_one_and_one(
    name: str, image_size: int
) -> None:
    system = small_system(name, image_size).eval()
    with torch.no_grad():
        images = system.generate(system.embed(CAPTIONS), torch.randn(4, system.noise_dim))
    assert images[-1].shape == (4, 3, image_size, image_size)
    assert images[-1].abs().max() <= 1


@pytest.mark.parametrize("name", GENERATING)
def test_generation_is_deterministic_and_follows_noise_and_caption(name: str) -> None:
    system = small_system(name).eval()
    noise = torch.randn(4, system.noise_dim)
    with torch.no_grad():
        text = system.embed(CAPTIONS)
        first, again = system.generate(text, noise)[-1], system.generate(text, noise)[-1]
        other_noise = system.generate(text, noise + 1)[-1]
        other_text = system.generate(system.embed(CAPTIONS[::-1]), noise)[-1]
    assert torch.equal(first, again)
    assert not torch.allclose(first, other_noise, atol=0)  # what a fresh network draws may be faint
    assert not torch.allclose(first, other_text, atol=0)


@pytest.mark.parametrize("name", list_systems())
def test_every_turn_reaches_all_of_its_parameters_and_no_others(name: str) -> None:
    system = small_system(name).train().requires_grad_(False)
    for key, parameter in system.named_parameters():
        if key == "discriminator.logit.bias":
            parameter.fill_(2.0)  # real and generated images' hinges cancel where no logit passes a margin
    whole = small_batch(system)
    for phase in system.phases():
        batch = sized(whole, phase)
        for turn in phase.turns:
            every = [module for t in phase.turns for module in t.modules]
            for module in every:
                module.requires_grad_(True)
            draw = phase.draw(batch)
            for module in every:
                module.requires_grad_(False)
            mine = {id(p) for module in turn.modules for p in module.parameters()}
            for module in turn.modules:
                module.requires_grad_(True)
            losses = turn.loss(batch, draw)
            losses.total.backward()
            for parameter_name, parameter in system.named_parameters():
                got = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
                assert got == (id(parameter) in mine), f"{phase.name}/{turn.name}: {parameter_name}"
            system.zero_grad(set_to_none=True)
            system.requires_grad_(False)


@pytest.mark.parametrize("name", list_systems())
def test_losses_are_finite_and_near_in_bfloat16(name: str) -> None:
    system = small_system(name).train()
    whole = small_batch(system)
    for phase in system.phases():
        batch = sized(whole, phase)
        for turn in phase.turns:
            values = []
            for enabled in (False, True):
                twin = copy.deepcopy(system)
                at = [p.name for p in system.phases()].index(phase.name)
                twin_phase = twin.phases()[at]
                twin_turn = next(t for t in twin_phase.turns if t.name == turn.name)
                torch.manual_seed(1)
                with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                    losses = twin_turn.loss(batch, twin_phase.draw(batch))
                assert all(torch.isfinite(value) for value in (losses.total, *losses.terms.values()))
                assert losses.total.dtype == torch.float32
                values.append(losses.total.item())
            assert values[1] == pytest.approx(values[0], rel=0.1, abs=0.02), f"{phase.name}/{turn.name}"


@pytest.mark.parametrize("name", list_systems())
def test_phases_have_names_of_their_own_and_average_only_children(name: str) -> None:
    system = small_system(name)
    phases = system.phases()
    assert len({phase.name for phase in phases}) == len(phases)
    children = {id(child) for child in system.children()}
    assert all(id(module) in children for phase in phases for module in phase.averaged)
    assert set(system.training_only) <= {child for child, _ in system.named_children()}
