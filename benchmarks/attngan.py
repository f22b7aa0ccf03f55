"""AttnGAN at 256 px, bird settings: Ganvas against AttnGAN written plainly (``plain_attngan.py``).

    python benchmarks/attngan.py
    python benchmarks/attngan.py --device cuda --batch 16

Both sides have the same weights, batches and noise, and before anything is timed their losses are compared.
A step is everything: generator, three discriminators, DAMSM with Inception, the optimizers, the moving
average. Sides take turns; medians of rounds. Peak memory is that of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import (
    RESULTS,
    Bench,
    interleave,
    machine,
    make_bench,
    open_recipe,
    parser,
    ratio,
    run_script,
    summary,
    synchronize,
    write_result,
)
from plain_attngan import PlainStep
from speed import count_flops, matmul_peak, most_expensive
from torch import Tensor

from ganvas.convert.attngan import DISCRIMINATOR, GENERATOR
from ganvas.convert.damsm_image import TABLE as IMAGE_ENCODER
from ganvas.convert.tables import load as load_weights
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe
from ganvas.systems.attngan import AttnGan
from ganvas.systems.base import Batch
from ganvas.text.encoder import Text
from ganvas.training.device import choose_device, choose_precision, make_fabric

RECIPE = "attngan-cub"
BARS = {"train": 2.5, "generate": 1.8}
NUM_WORDS, FEWEST = 18, 5
TOLERANCE = 2e-3
"""Relative, between the losses of both sides in float32."""

Work = Callable[[], Any]


class Inputs:
    """One batch in the shapes of training, the same for both sides.

    Args:
        batch_size: B.
        device: where.
    """

    def __init__(self, batch_size: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(1)
        self.images = [
            torch.randn(batch_size, 3, size, size, generator=draw).tanh().to(device)
            for size in (64, 128, 256)
        ]
        self.sentence = torch.randn(batch_size, 256, generator=draw).to(device)
        lengths = torch.randint(FEWEST, NUM_WORDS + 1, (batch_size, 1), generator=draw)
        lengths[0] = NUM_WORDS
        self.mask = (torch.arange(NUM_WORDS) < lengths).to(device)
        self.words = torch.randn(batch_size, NUM_WORDS, 256, generator=draw).to(device) * self.mask[..., None]
        self.noise = torch.randn(batch_size, 200, generator=draw).to(device)

    def batch(self, channels_last: bool) -> Batch:
        """As the loop gets it; every image is of a class of its own."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = [image.contiguous(memory_format=layout) for image in self.images]
        return Batch(
            images=images[-1],
            smaller=images[:-1],
            text=Text(self.sentence, self.words, self.mask),
            labels=torch.arange(len(self.mask), device=self.mask.device),
        )


def plain_side(inputs: Inputs, device: torch.device) -> tuple[PlainStep, Work]:
    """The plain networks, always with the same weights, and their step."""
    torch.manual_seed(0)
    step = PlainStep(device)
    words = inputs.words.transpose(1, 2).contiguous()
    return step, lambda: step(inputs.images, inputs.sentence, words, inputs.mask, inputs.noise)


def our_bench(recipe: Recipe, plain: PlainStep, device: torch.device) -> Bench:
    """Our system with the plain side's weights."""
    bench = make_bench(recipe, device)
    system = bench.system
    assert isinstance(system, AttnGan)
    load_weights(GENERATOR, plain.generator.state_dict(), system.generator)
    for ours, theirs in zip(system.discriminators, plain.discriminators, strict=True):
        load_weights(DISCRIMINATOR, theirs.state_dict(), ours)
    load_weights(IMAGE_ENCODER, plain.image_encoder.state_dict(), system.damsm.image_encoder)
    return bench


def our_side(recipe: Recipe, plain: PlainStep, inputs: Inputs, device: torch.device) -> Work:
    """The training loop's own step."""
    bench = our_bench(recipe, plain, device)
    run, steps = bench.loop(), iter(range(1, 10**9))
    batch = inputs.batch(recipe.training.channels_last)
    return lambda: run._step(next(steps), batch)


def differences(recipe: Recipe, inputs: Inputs, device: torch.device) -> dict[str, float]:
    """How far the losses of one step are apart, relative, both in float32.

    Raises:
        GanvasError: further than rounding explains.
    """
    plain, step = plain_side(inputs, device)
    exact = replace(recipe, training=replace(recipe.training, precision="float32"))
    bench = our_bench(exact, plain, device)
    bench.system.draw_noise = lambda like: inputs.noise  # type: ignore[method-assign]
    terms = bench.loop()._step(1, inputs.batch(recipe.training.channels_last))
    found = {}
    for name, theirs in zip(("discriminator_loss", "generator_loss"), step(), strict=True):
        ours, exact_loss = terms[name].item(), theirs.item()
        found[name] = abs(ours - exact_loss) / abs(exact_loss)
        if not found[name] < TOLERANCE:
            raise GanvasError(f"the sides do not compute the same: {name} is {found[name]:.1e} off")
    return found


def generating(recipe: Recipe, inputs: Inputs, device: torch.device, precision: str) -> tuple[Work, Work]:
    """A batch of images by both sides, in evaluation mode."""
    plain, _ = plain_side(inputs, device)
    training = replace(recipe.training, precision=precision)  # type: ignore[arg-type]
    bench = our_bench(replace(recipe, training=training), plain, device)
    theirs, ours = plain.generator.eval(), bench.system.eval()
    fabric = make_fabric(training)
    words = inputs.words.transpose(1, 2).contiguous()
    z, epsilon = inputs.noise.tensor_split([100], dim=1)
    text = Text(inputs.sentence, inputs.words, inputs.mask)

    @torch.inference_mode()
    def plain_work() -> Tensor:
        return theirs(z, epsilon, inputs.sentence, words, inputs.mask)[0][-1]

    @torch.inference_mode()
    def our_work() -> Tensor:
        with fabric.autocast():
            return ours.generate(text, inputs.noise)[-1]

    return plain_work, our_work


def measure_training(recipe: Recipe, inputs: Inputs, device: torch.device, rounds: int) -> dict[str, Any]:
    """The step on both sides, and ours in float32 too."""
    plain, plain_work = plain_side(inputs, device)
    auto = choose_precision("auto", device)
    works = {"plain": plain_work, "ganvas": our_side(recipe, plain, inputs, device)}
    if auto != "float32":
        exact = replace(recipe, training=replace(recipe.training, precision="float32"))
        works["ganvas float32"] = our_side(exact, plain, inputs, device)
    peak = matmul_peak(device)
    seconds = interleave(works, rounds=rounds, warmup=1, device=device)
    rows = len(inputs.mask)
    flops = count_flops(works["plain"])
    median = summary(seconds["ganvas"], rows)["seconds"]["median"]
    return {
        "precision": auto,
        "sides": {name: summary(found, rows) for name, found in seconds.items()},
        "ratios": {
            name: ratio(seconds["plain"], found) for name, found in seconds.items() if name != "plain"
        },
        "bar": BARS["train"],
        "gflop_an_image": flops / rows / 1e9,
        "matmul_peak_tflops": peak,
        "share_of_peak": flops / median / 1e12 / peak[auto],
        "most_expensive": {name: most_expensive(works[name], device) for name in ("plain", "ganvas")},
    }


def measure_generating(recipe: Recipe, inputs: Inputs, device: torch.device, rounds: int) -> dict[str, Any]:
    """A batch of images on both sides, ours in both precisions."""
    auto, rows = choose_precision("auto", device), len(inputs.mask)
    works: dict[str, Work] = {}
    for name, precision in (("ganvas float32", "float32"), ("ganvas", auto)):
        works["plain"], works[name] = generating(recipe, inputs, device, precision)
    apart = (works["plain"]() - works["ganvas float32"]()).abs().max()
    if not float(apart) < TOLERANCE:
        raise GanvasError(f"the sides do not generate the same: {float(apart):.1e} off")
    seconds = interleave(works, rounds=rounds, warmup=1, device=device)
    return {
        "precision": auto,
        "sides": {name: summary(found, rows) for name, found in seconds.items()},
        "ratios": {
            name: ratio(seconds["plain"], found) for name, found in seconds.items() if name != "plain"
        },
        "bar": BARS["generate"],
        "largest_difference_float32": float(apart),
    }


def peak_memory(options: argparse.Namespace) -> dict[str, float]:
    """MiB that each side's step adds to its process at most, an image; in processes of their own."""
    found = {}
    for side in ("plain", "ganvas"):
        command = [sys.executable, __file__, "--memory-of", side, "--batch", str(options.batch)]
        command += ["--device", options.device]
        if options.threads:
            command += ["--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GanvasError(f"--memory-of {side}: failed ({done.stderr.strip().splitlines()[-1]})")
        found[side] = float(json.loads(done.stdout.splitlines()[-1]))
    return found


def memory_of(side: str, recipe: Recipe, inputs: Inputs, device: torch.device) -> float:
    """MiB an image that two steps take beyond weights and inputs."""
    plain, work = plain_side(inputs, device)
    if side == "ganvas":
        work = our_side(recipe, plain, inputs, device)
        del plain
    before = _used(device)
    work()
    work()
    return (_peak(device) - before) / len(inputs.mask) / 2**20


def _used(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    # not ru_maxrss, which a process that starts another one hands down to it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def report(result: Mapping[str, Any]) -> None:
    """The figures, for a reader."""
    for what in ("train", "generate"):
        for name, side in result[what]["sides"].items():
            times = result[what]["ratios"].get(name, {"of_medians": 1.0})["of_medians"]
            print(f"{what:<9} {name:<15} {side['images_per_second']:8.2f} images/s  {times:5.2f} times plain")
    print(f"memory    {result['memory_mib_an_image']} MiB an image")


def main() -> None:
    """Measure, and write the result."""
    options_parser = parser(__doc__.split("\n", 1)[0] if __doc__ else None)
    options_parser.set_defaults(batch=8, repeat=5)
    options_parser.add_argument("--memory-of", choices=("plain", "ganvas"), help=argparse.SUPPRESS)
    options = options_parser.parse_args()
    recipe = open_recipe(RECIPE, options)
    recipe = replace(
        recipe,
        settings=replace(
            recipe.settings, damsm=replace(recipe.settings.damsm, weights="random", align_corners=False)
        ),
    )
    device = choose_device(options.device)
    inputs = Inputs(options.batch, device)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, recipe, inputs, device)))
        return
    result = {
        "what": "AttnGAN, bird settings, 256 px: Ganvas against AttnGAN written plainly",
        "machine": machine(device),
        "batch": options.batch,
        "losses_apart": differences(recipe, inputs, device),
        "train": measure_training(recipe, inputs, device, options.repeat),
        "generate": measure_generating(recipe, inputs, device, options.repeat),
        "memory_mib_an_image": peak_memory(options),
    }
    report(result)
    write_result(options.out or RESULTS / f"attngan-{device.type}.json", result)


if __name__ == "__main__":
    run_script(main)
