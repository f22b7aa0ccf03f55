"""AttnGAN whose first stages are trained before the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_attngan import CAPTIONS, batch_of, small_attngan
from torch import Tensor, nn

import ganvas
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.recipe import load_recipe
from ganvas.systems.attngan import AttnGan, InitialStage
from ganvas.training.loop import train


def small(**changes: Any) -> AttnGan:
    return small_attngan(**{"stages": 3, "early_stages": 2, **changes})


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_early_phase_asks_for_small_images_and_the_other_for_all() -> None:
    system = small()
    _, early, gan = system.phases()
    assert (early.name, early.image_size, list(early.smaller)) == ("early", 16, [8])
    assert (gan.name, gan.image_size, list(gan.smaller)) == ("gan", 32, [8, 16])


def test_the_early_phase_trains_the_first_stages_and_nothing_of_the_last() -> None:
    system = small()
    early = system.phases()[1]
    trained = {id(p) for turn in early.turns for m in turn.modules for p in m.parameters()}
    first = [
        system.generator.conditioning,
        system.generator.initial,
        system.generator.further[0],
        *system.generator.heads[:2],
        *system.discriminators[:2],
    ]
    assert trained == {id(p) for module in first for p in module.parameters()}


def test_early_losses_know_no_damsm_and_only_the_images_that_are_drawn() -> None:
    system = small(reconstruction_weight=1.0)
    early = system.phases()[1]
    batch = batch_of(system, sizes=[8, 16])
    draw = early.draw(batch)
    assert [tuple(image.shape[2:]) for image in draw.images] == [(8, 8), (16, 16)]
    discriminator, generator = (turn.loss(batch, draw) for turn in early.turns)
    sizes = {name.rsplit("_", 1)[1] for name in (*discriminator.terms, *generator.terms) if name != "kl"}
    assert sizes == {"8", "16"}
    assert not any(name.startswith("damsm") for name in generator.terms)
    generator.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in system.generator.further[1].parameters())
    assert all(p.grad is not None for p in system.generator.further[0].parameters())


def test_first_stages_draw_the_same_alone_as_before_the_others() -> None:
    system = small().eval()
    text, noise = system.embed(CAPTIONS), torch.randn(4, system.noise_dim)
    with torch.no_grad():
        alone = system.generator(text, noise, 2).images
        every = system.generator(text, noise).images
    assert len(alone) == 2 and len(every) == 3
    for first, second in zip(alone, every, strict=False):
        assert torch.equal(first, second)


def test_models_of_the_early_phase_draw_its_images() -> None:
    system = small().eval()
    _, early, gan = system.phases()
    text, noise = system.embed(CAPTIONS), torch.randn(4, system.noise_dim)
    assert len(system.generate(text, noise)) == 3
    assert early.start is not None and gan.start is not None
    early.start()
    assert [image.shape[2] for image in system.generate(text, noise)] == [8, 16]
    gan.start()
    assert [image.shape[2] for image in system.generate(text, noise)] == [8, 16, 32]


def test_without_it_there_is_no_such_phase_and_nothing_more_is_saved() -> None:
    system = small(early_stages=0)
    assert [phase.name for phase in system.phases()] == ["damsm", "gan"]
    assert not any(name.startswith("trained") for name in system.state_dict())


@pytest.mark.parametrize(("form", "early"), [("attentional", 3), ("attentional", -1), ("dcgan", 1)])
def test_as_many_as_there_are_or_more_is_one_line(form: str, early: int) -> None:
    with pytest.raises(GanvasError, match=r"^settings\.early_stages: should be"):
        small(form=form, early_stages=early)


@pytest.mark.parametrize(("width", "channels"), [(None, [16, 8, 4]), (16, [16, 8, 4]), (64, [64, 32, 4])])
def test_the_first_map_may_be_wider(width: int | None, channels: list[int]) -> None:
    stage = InitialStage(8, 4, 16, width)
    assert stage.fc.out_features == 2 * 16 * channels[0]
    convs = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.in_channels for conv in convs] == channels[:-1]
    assert [conv.out_channels // 2 for conv in convs] == channels[1:]
    assert stage(torch.randn(2, 5), torch.randn(2, 3)).shape == (2, 4, 16, 16)


TINY = [
    "data.image_size=16",
    "text.features=8",
    "text.embedding=4",
    "settings.stages=2",
    "settings.early_stages=1",
    "settings.generator_width=4",
    "settings.discriminator_width=4",
    "settings.noise_dim=4",
    "settings.condition_dim=4",
    "settings.damsm={image_encoder: scratch, width: 4}",
    "training.images={damsm: 4, early: 12, gan: 8}",
    "training.batch_size=4",
    "training.batch_sizes={}",
    "training.samples=2",
    "training.sample_every=8",
    "training.save_every=8",
    "training.log_every=1",
    "training.keep=9",
    "training.precision=float32",
]


def test_a_run_that_stops_in_the_early_phase_goes_on_as_if_it_had_not(store: Store, tmp_path: Path) -> None:
    whole = train(load_recipe("attngan-emoji", TINY), store, tmp_path / "whole")
    part = load_recipe("attngan-emoji", [*TINY, "training.images={damsm: 4, early: 8, gan: 0}"])
    halted = train(part, store, tmp_path / "halted")
    assert ganvas.load(halted.folder).generate(["a red apple"])[0].size == (8, 8)
    train(load_recipe("attngan-emoji", TINY), store, tmp_path / "halted")
    first, second = (ganvas.load(run.folder) for run in (whole, halted))
    assert first.generate(["a red apple"])[0].size == (16, 16)
    theirs = weights(second.system)
    for name, value in weights(first.system).items():
        assert torch.equal(value, theirs[name]), name
    assert {"early-00000012.png", "gan-00000008.png"} <= {path.name for path in whole.samples.iterdir()}
