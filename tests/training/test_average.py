"""The moving average of networks."""

from __future__ import annotations

import pytest
import torch

from ganvas.systems.gan_int_cls import GanIntCls, GanIntClsSettings
from ganvas.text import build
from ganvas.text.settings import CharCnnRnnSettings
from ganvas.training.average import Average


def small_system() -> GanIntCls:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=4, embedding=4), None, None)
    settings = GanIntClsSettings(generator_width=4, discriminator_width=4, projection=4, style_width=4)
    return GanIntCls(settings, encoder, 16)


@torch.no_grad()
def shift(system: GanIntCls, by: float) -> None:
    for tensor in (*system.generator.parameters(), *system.generator.buffers()):
        tensor.add_(by)


def test_the_average_has_a_generator_of_its_own_and_shares_the_rest() -> None:
    system = small_system()
    average = Average(system, [system.generator], 100)
    assert average.system.generator is not system.generator
    assert average.system.discriminator is system.discriminator
    assert average.system.text_encoder is system.text_encoder
    assert not average.system.generator.training


def test_after_one_half_life_half_of_a_change_has_arrived() -> None:
    system = small_system()
    average = Average(system, [system.generator], half_life=100)
    before = {k: v.clone() for k, v in average.system.generator.state_dict().items()}
    shift(system, 1)
    for _ in range(10):
        average.update(10, images_seen=1_000_000)
    for name, value in average.system.generator.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, before[name] + 0.5, atol=1e-4), name
        else:
            assert torch.equal(value, before[name] + 1), name  # counters are taken over as they are


def test_early_in_a_run_the_half_life_is_a_twentieth_of_the_images_seen() -> None:
    system = small_system()
    average = Average(system, [system.generator], half_life=1_000_000)
    before = average.system.generator.start.weight.clone()
    shift(system, 1)
    average.update(10, images_seen=200)  # half-life 10
    assert torch.allclose(average.system.generator.start.weight, before + 0.5, atol=1e-5)


def test_a_half_life_of_zero_follows_at_once() -> None:
    system = small_system()
    average = Average(system, [system.generator], half_life=0)
    shift(system, 1)
    average.update(10, images_seen=1_000_000)
    assert torch.equal(average.system.generator.start.weight, system.generator.start.weight)


def test_settling_gives_the_averaged_weights_to_the_live_networks() -> None:
    system = small_system()
    average = Average(system, [system.generator], 100)
    kept = average.system.generator.start.weight.clone()
    shift(system, 1)
    average.settle()
    assert torch.equal(system.generator.start.weight, kept)


def test_the_state_of_an_average_round_trips() -> None:
    system = small_system()
    average = Average(system, [system.generator], 100)
    shift(system, 1)
    average.update(10, 1_000_000)
    other = Average(small_system(), [], 100)
    assert other.state_dict() == {}
    system = small_system()
    other = Average(system, [system.generator], 100)
    other.load_state_dict(average.state_dict())
    pairs = zip(other.state_dict().values(), average.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_only_whole_children_of_a_system_are_averaged() -> None:
    system = small_system()
    with pytest.raises(AssertionError, match="children"):
        Average(system, [system.generator.project], 100)
