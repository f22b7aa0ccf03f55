"""SD-GAN, ALR-GAN and XMC-GAN at 256 px: Ganvas against the same written plainly (``plain_*.py``).

    python benchmarks/newest.py sd-gan
    python benchmarks/newest.py alr-gan
    python benchmarks/newest.py xmc-gan --batch 4 --repeat 3
    python benchmarks/newest.py xmc-gan --size 128 --batch 2 --repeat 1

Bird settings with DAMSM's Inception for the first two, COCO settings with VGG-19 for the third, whose step is
two of its discriminator and one of its generator. Both sides have the same weights, batches and noise, and
before anything is timed their losses are compared. A step is everything: all networks, losses, optimizers,
the moving average. Sides take turns; medians of rounds. Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from against_plain import Case, add_memory_option, measure, memory_of, take_over_stacked
from attngan import RANDOM_INCEPTION
from common import RESULTS, open_recipe, parser, run_script, write_result
from inputs import Inputs
from plain_alr_gan import PlainAlrStep
from plain_sd_gan import PlainSdStep
from plain_xmc_gan import PlainXmcStep

from ganvas.convert.attngan import DISCRIMINATOR, GENERATOR
from ganvas.convert.tables import Rule, Table, load
from ganvas.recipe import Recipe
from ganvas.systems.attngan import stage_sizes
from ganvas.training.device import choose_device


def alr_gan(recipe: Recipe, batch_size: int) -> Case:
    """Both sides of ALR-GAN."""
    device, sizes = choose_device(recipe.training.device), stage_sizes(recipe.data.image_size, None)

    def take_over(plain: PlainAlrStep, system: Any) -> None:
        load(GENERATOR, plain.generator.state_dict(), system.generator)
        system.refinement.load_state_dict(plain.further.state_dict())
        take_over_stacked(plain, system)

    return Case(
        what=f"ALR-GAN, bird settings, {sizes[-1]} px",
        recipe=recipe,
        inputs=Inputs(batch_size, device, sizes=sizes, noise_dim=200),
        device=device,
        plain=lambda: PlainAlrStep(recipe.settings, sizes, device),
        take_over=take_over,
    )


def sd_gan(recipe: Recipe, batch_size: int) -> Case:
    """Both sides of SD-GAN, with two captions of each image."""
    device, sizes = choose_device(recipe.training.device), stage_sizes(recipe.data.image_size, None)

    def take_over(plain: PlainSdStep, system: Any) -> None:
        theirs = plain.generator.state_dict()
        named = {k.replace(".block.", ".branch.").replace(".img.", "."): v for k, v in theirs.items()}
        system.generator.load_state_dict(named)
        take_over_stacked(plain, system, COMPARING)

    return Case(
        what=f"SD-GAN, bird settings, {sizes[-1]} px",
        recipe=recipe,
        inputs=Inputs(batch_size, device, sizes=sizes, noise_dim=200, captions=2),
        device=device,
        plain=lambda: PlainSdStep(recipe.settings, sizes, device),
        take_over=take_over,
    )


def xmc_gan(recipe: Recipe, batch_size: int) -> Case:
    """Both sides of XMC-GAN, with captions as BERT gives them."""
    device, size = choose_device(recipe.training.device), recipe.data.image_size

    def take_over(plain: PlainXmcStep, system: Any) -> None:
        theirs, ours = plain.generator.state_dict(), system.generator.state_dict()
        # ours has linear maps where 1x1 convolutions make gamma and beta of a map of conditions
        system.generator.load_state_dict({k: v.view(ours[k].shape) for k, v in theirs.items()})
        system.discriminator.load_state_dict(plain.discriminator.state_dict())
        system.frozen._hidden[0].load_state_dict(plain.frozen.state_dict())

    s: Any = recipe.settings
    return Case(
        what=f"XMC-GAN, COCO settings, {size} px, {s.frozen}",
        recipe=recipe,
        inputs=Inputs(
            batch_size, device, sizes=[size], noise_dim=s.noise_dim, text_dim=BERT, num_words=BERT_WORDS
        ),
        device=device,
        plain=lambda: PlainXmcStep(s, BERT, size, device),
        take_over=take_over,
        steps=s.discriminator_steps,
    )


@dataclass(frozen=True)
class Entry:
    """A system that is compared."""

    recipe: str
    overrides: list[str]
    case: Callable[[Recipe, int], Case]


BERT, BERT_WORDS = 768, 17
COMPARING = Table("SD-GAN discriminator", (*DISCRIMINATOR.rules, Rule(r"(comparator\..+)", r"\1")))
SYSTEMS = {
    "sd-gan": Entry("sd-gan-cub", [*RANDOM_INCEPTION, "settings.damsm_weight=5"], sd_gan),
    "alr-gan": Entry("alr-gan-cub", RANDOM_INCEPTION, alr_gan),
    "xmc-gan": Entry("xmc-gan-coco", ["settings.frozen_weights=random"], xmc_gan),
}


def main() -> None:
    """Measure, and write the result."""
    options_parser = parser(__doc__.split("\n", 1)[0] if __doc__ else None)
    options_parser.set_defaults(batch=8, repeat=3)
    options_parser.add_argument("system", choices=list(SYSTEMS))
    options_parser.add_argument("--size", type=int, default=256, help="side of the images, pixels (256)")
    add_memory_option(options_parser)
    options = options_parser.parse_args()
    entry = SYSTEMS[options.system]
    options.set = [*entry.overrides, f"data.image_size={options.size}", *options.set]
    case = entry.case(open_recipe(entry.recipe, options), options.batch)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, case)))
        return
    result = measure(case, options.repeat, sys.argv[1:])
    write_result(options.out or RESULTS / f"{options.system}-{case.device.type}.json", result)


if __name__ == "__main__":
    run_script(main)
