"""A system against the same written plainly: equal losses first, then seconds in turns, then peak memory."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from common import Bench, interleave, machine, make_bench, ratio, summary, synchronize
from inputs import Inputs
from speed import count_flops, matmul_peak, most_expensive
from torch import Tensor, nn

from ganvas.convert.attngan import DISCRIMINATOR
from ganvas.convert.damsm_image import TABLE as IMAGE_ENCODER
from ganvas.convert.tables import Table, load
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe
from ganvas.systems.base import System
from ganvas.training.device import choose_precision, make_fabric

BARS = {"train": 2.5, "generate": 1.8}
TOLERANCE = 2e-3
"""Relative, between the losses of both sides in float32."""

Work = Callable[[], Any]


class Plain(Protocol):
    """A system written plainly, with its training step."""

    generator: nn.Module

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Update everything once; the losses of the discriminators and of the generator."""

    def generate(self, inputs: Inputs) -> Tensor:
        """Images at full size."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared."""

    what: str
    recipe: Recipe
    inputs: Inputs
    device: torch.device
    plain: Callable[[], Plain]
    """The plain side, with fresh weights."""
    take_over: Callable[[Any, System], None]
    """Give the plain side's weights to ours."""
    steps: int = 1
    """Of our loop, to one update of every network."""

    def make_plain(self) -> Plain:
        """The plain side, always with the same weights."""
        torch.manual_seed(0)
        return self.plain()

    def make_ours(self, plain: Plain, precision: str = "auto") -> Bench:
        """Our side with the plain one's weights, and with the inputs' noise."""
        training = replace(self.recipe.training, precision=precision)  # type: ignore[arg-type]
        text = self.inputs.texts[0]
        dims = text.sentence.shape[1], text.words.shape[2]
        bench = make_bench(replace(self.recipe, training=training), self.device, dims)
        self.take_over(plain, bench.system)
        bench.system.draw_noise = lambda like: self.inputs.noise  # type: ignore[method-assign]
        return bench

    def our_work(self, bench: Bench) -> Work:
        """The training loop's own steps, as many as one update of every network takes."""
        run, first = bench.loop(), iter(range(1, 10**9, self.steps))
        batch = self.inputs.batch(self.recipe.training.channels_last)

        def work() -> dict[str, Tensor]:
            start = next(first)
            return [run._step(step, batch) for step in range(start, start + self.steps)][-1]

        return work


def take_over_stacked(plain: Any, system: Any, discriminator: Table = DISCRIMINATOR) -> None:
    """The weights of the discriminators and of DAMSM's image encoder."""
    for ours, theirs in zip(system.discriminators, plain.discriminators, strict=True):
        load(discriminator, theirs.state_dict(), ours)
    load(IMAGE_ENCODER, plain.image_encoder.state_dict(), system.damsm.image_encoder)


def differences(case: Case) -> dict[str, float]:
    """How far the losses of one step are apart, relative, both in float32.

    Raises:
        GanvasError: further than rounding explains.
    """
    plain = case.make_plain()
    ours = case.our_work(case.make_ours(plain, "float32"))
    return losses_apart(ours(), plain(case.inputs))


def losses_apart(terms: Mapping[str, Tensor], plain: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The same of what both sides gave for their first step."""
    found = {}
    for name, exact in zip(("discriminator_loss", "generator_loss"), plain, strict=True):
        found[name] = abs(terms[name].item() - exact.item()) / abs(exact.item())
        if not found[name] < TOLERANCE:
            raise GanvasError(f"the sides do not compute the same: {name} is {found[name]:.1e} off")
    return found


def measure_training(case: Case, rounds: int) -> dict[str, Any]:
    """The step on both sides, and ours in float32 too.

    The first step of each is not timed: their losses are compared, and the plain one's operations counted.
    """
    plain, auto = case.make_plain(), choose_precision("auto", case.device)
    exact = case.our_work(case.make_ours(plain, "float32"))
    works: dict[str, Work] = {"plain": lambda: plain(case.inputs), "ganvas": exact}
    if auto != "float32":
        works |= {"ganvas": case.our_work(case.make_ours(plain)), "ganvas float32": exact}
    peak = matmul_peak(case.device)
    losses: list[tuple[Tensor, Tensor]] = []
    flops = count_flops(lambda: losses.append(works["plain"]()))
    apart = losses_apart(exact(), losses[0])
    works["ganvas"]()
    seconds = interleave(works, rounds=rounds, warmup=0, device=case.device)
    median = summary(seconds["ganvas"], len(case.inputs))["seconds"]["median"]
    return {
        "losses_apart": apart,
        "precision": auto,
        **_compared(case, seconds, "train"),
        "gflop_an_image": flops / len(case.inputs) / 1e9,
        "matmul_peak_tflops": peak,
        "share_of_peak": flops / median / 1e12 / peak[auto],
        "most_expensive": most_expensive(works["ganvas"], case.device),
    }


def measure_generating(case: Case, rounds: int) -> dict[str, Any]:
    """A batch of images on both sides, ours in both precisions."""
    auto, plain = choose_precision("auto", case.device), case.make_plain()
    works: dict[str, Work] = {"plain": plain_images(case, plain)}
    for name, precision in (("ganvas float32", "float32"), ("ganvas", auto)):
        works[name] = our_images(case, plain, precision)
    apart = (works["plain"]() - works["ganvas float32"]()).abs().max()
    if not float(apart) < TOLERANCE:
        raise GanvasError(f"the sides do not generate the same: {float(apart):.1e} off")
    works["ganvas"]()
    seconds = interleave(works, rounds=rounds, warmup=0, device=case.device)
    return {
        "precision": auto,
        **_compared(case, seconds, "generate"),
        "largest_difference_float32": float(apart),
    }


def plain_images(case: Case, plain: Plain) -> Work:
    """A batch by the plain side, in evaluation mode."""
    plain.generator.eval()

    @torch.inference_mode()
    def work() -> Tensor:
        return plain.generate(case.inputs)

    return work


def our_images(case: Case, plain: Plain, precision: str) -> Work:
    """A batch by ours, in evaluation mode."""
    bench = case.make_ours(plain, precision)
    fabric, system, text = make_fabric(bench.recipe.training), bench.system.eval(), case.inputs.all_captions()

    @torch.inference_mode()
    def work() -> Tensor:
        with fabric.autocast():
            return system.generate(text, case.inputs.noise)[-1]

    return work


def _compared(case: Case, seconds: Mapping[str, list[float]], what: str) -> dict[str, Any]:
    rows = len(case.inputs)
    return {
        "sides": {name: summary(found, rows) for name, found in seconds.items()},
        "ratios": {
            name: ratio(seconds["plain"], found) for name, found in seconds.items() if name != "plain"
        },
        "bar": BARS[what],
    }


def peak_memory(arguments: Sequence[str]) -> dict[str, float]:
    """MiB that each side's step adds to its process at most, an image; in processes of their own, which are
    this script with these arguments.
    """
    found = {}
    for side in ("plain", "ganvas"):
        command = [sys.executable, sys.argv[0], *arguments, "--memory-of", side]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GanvasError(f"--memory-of {side}: failed ({done.stderr.strip().splitlines()[-1]})")
        found[side] = float(json.loads(done.stdout.splitlines()[-1]))
    return found


def memory_of(side: str, case: Case) -> float:
    """MiB an image that two steps take beyond weights and inputs."""
    plain: Plain | None = case.make_plain()
    work: Work
    if side == "ganvas":
        work = case.our_work(case.make_ours(plain))
        plain = None
    else:
        work = lambda: plain(case.inputs)  # noqa: E731 - the name is declared above
    before = _used(case.device)
    work()
    work()
    return (_peak(case.device) - before) / len(case.inputs) / 2**20


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


def add_memory_option(options: argparse.ArgumentParser) -> None:
    """For the processes that ``peak_memory`` starts."""
    options.add_argument("--memory-of", choices=("plain", "ganvas"), help=argparse.SUPPRESS)


def measure(case: Case, rounds: int, arguments: Sequence[str]) -> dict[str, Any]:
    """Everything, for the file, and printed for a reader.

    Args:
        case: what is compared.
        rounds: of which medians are taken.
        arguments: that make the same case in another process.
    """
    result = {
        "what": f"{case.what}: Ganvas against the same written plainly",
        "machine": machine(case.device),
        "batch": len(case.inputs),
        "train": measure_training(case, rounds),
        "generate": measure_generating(case, rounds),
        "memory_mib_an_image": peak_memory(arguments),
    }
    for what in ("train", "generate"):
        for name, side in result[what]["sides"].items():
            times = result[what]["ratios"].get(name, {"of_medians": 1.0})["of_medians"]
            print(f"{what:<9} {name:<15} {side['images_per_second']:8.2f} images/s  {times:5.2f} times plain")
    print(f"memory    {result['memory_mib_an_image']} MiB an image")
    return result
