"""Systems that read sentences at unit scale see their direction alone; others see their length too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ganvas.building import build_system
from ganvas.recipe import load_recipe
from ganvas.systems.base import Batch, Phase, System
from ganvas.text.encoder import Text

CAPTIONS = ["a red bird", "a blue hat", "two green apples", "a small dog"]
WIDTHS = ["settings.generator_width=4", "settings.discriminator_width=4", "settings.damsm_weight=0"]
RECIPES = {
    "gan-int-cls-emoji": WIDTHS[:2],
    "stackgan-emoji": [*WIDTHS[:2], "settings.judges=sentence"],
    "stackgan-v2-emoji": WIDTHS[:2],
    "attngan-emoji": WIDTHS,
    "sd-gan-emoji": WIDTHS,
}


def losses_of(name: str, unit_text: bool, factor: float) -> list[Tensor]:
    """Those of both networks, when all that captions say is multiplied."""
    widths = [*RECIPES[name], "data.image_size=32", "settings.stages=null"]
    if name == "gan-int-cls-emoji":
        widths = widths[:-1]
    recipe = load_recipe(name, [*widths, f"settings.unit_text={str(unit_text).lower()}"])
    torch.manual_seed(0)
    system = build_system(recipe, captions=CAPTIONS).eval()
    phase = next(phase for phase in system.phases() if phase.generates)
    torch.manual_seed(1)
    with torch.no_grad():
        batch = batch_of(system, phase, factor)
        torch.manual_seed(2)
        draw = phase.draw(batch)
        return [turn.loss(batch, draw).total for turn in phase.turns]


def batch_of(system: System, phase: Phase, factor: float) -> Batch:
    def text(captions: list[str]) -> Text:
        read = system.embed(captions)
        return Text(factor * read.sentence, factor * read.words, read.mask)

    side = phase.image_size or system.image_size
    images = torch.randn(4, 3, side, side).tanh()
    more: dict[str, Any] = {}
    if phase.wrong_images:
        more["wrong_images"] = images.flip(0)
    return Batch(
        images=images,
        smaller=[torch.randn(4, 3, s, s).tanh() for s in phase.smaller],
        text=text(CAPTIONS),
        wrong_text=text(CAPTIONS[::-1]),
        further_texts=[text(CAPTIONS) for _ in range(phase.captions - 1)],
        labels=torch.arange(4),
        **more,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_length_of_what_captions_say_matters_unless_it_is_read_at_unit_scale(name: str) -> None:
    once, twice = losses_of(name, True, 1.0), losses_of(name, True, 2.0)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    plain = zip(losses_of(name, False, 1.0), losses_of(name, False, 2.0), strict=True)
    assert any((a - b).abs() > 1e-4 for a, b in plain)
