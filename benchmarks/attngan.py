"""AttnGAN at 256 px, bird settings: Ganvas against AttnGAN written plainly (``plain_attngan.py``).

    python benchmarks/attngan.py
    python benchmarks/attngan.py --device cuda --batch 16

Both sides have the same weights, batches and noise, and before anything is timed their losses are compared.
A step is everything: generator, three discriminators, DAMSM with Inception, the optimizers, the moving
average. Sides take turns; medians of rounds. Peak memory is that of a process of its own for each side.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from against_plain import Case, add_memory_option, measure, memory_of, take_over_stacked
from common import RESULTS, open_recipe, parser, run_script, write_result
from inputs import Inputs
from plain_attngan import PlainStep

from ganvas.convert.attngan import GENERATOR
from ganvas.convert.tables import load
from ganvas.recipe import Recipe
from ganvas.systems.attngan import stage_sizes
from ganvas.training.device import choose_device

RECIPE = "attngan-cub"
RANDOM_INCEPTION = ["settings.damsm.weights=random", "settings.damsm.align_corners=false"]


def take_over(plain: PlainStep, system: Any) -> None:
    load(GENERATOR, plain.generator.state_dict(), system.generator)
    take_over_stacked(plain, system)


def make_case(recipe: Recipe, batch_size: int) -> Case:
    device, size = choose_device(recipe.training.device), recipe.data.image_size
    sizes = stage_sizes(size, None)
    return Case(
        what=f"AttnGAN, bird settings, {size} px",
        recipe=recipe,
        inputs=Inputs(batch_size, device, sizes=sizes, noise_dim=200),
        device=device,
        plain=lambda: PlainStep(recipe.settings, sizes, device),
        take_over=take_over,
    )


def main() -> None:
    """Measure, and write the result."""
    options_parser = parser(__doc__.split("\n", 1)[0] if __doc__ else None)
    options_parser.set_defaults(batch=8, repeat=5)
    add_memory_option(options_parser)
    options = options_parser.parse_args()
    options.set = [*RANDOM_INCEPTION, *options.set]
    case = make_case(open_recipe(RECIPE, options), options.batch)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, case)))
        return
    result = measure(case, options.repeat, sys.argv[1:])
    write_result(options.out or RESULTS / f"attngan-{case.device.type}.json", result)


if __name__ == "__main__":
    run_script(main)
