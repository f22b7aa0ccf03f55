"""What the benchmarks share: stand-ins, the loop's own step, interleaved rounds, a file that says all."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks on standard error otherwise

import torch
from torch import Tensor

from ganvas import __version__
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe, load_recipe
from ganvas.systems import find
from ganvas.systems.base import Phase, System
from ganvas.text import build
from ganvas.text.encoder import Text, TextEncoder
from ganvas.training.device import make_fabric
from ganvas.training.loop import Job, PhaseRun

RESULTS = Path(__file__).parent / "results"
NUM_WORDS = 16
"""T of the stand-in words."""


class StandIn(TextEncoder):
    """A frozen encoder of the right widths that gives random vectors at once: in training the real one is
    frozen too, and its vectors are cached.
    """

    trained_here = False

    def __init__(self, sentence_dim: int, word_dim: int) -> None:
        super().__init__()
        self.sentence_dim, self.word_dim = sentence_dim, word_dim
        self.table = torch.nn.Parameter(torch.randn(256, sentence_dim), requires_grad=False)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """One token a caption."""
        return torch.tensor([[sum(caption.encode()) % 256] for caption in captions])

    def forward(self, tokens: Tensor) -> Text:
        """Rows of a random table; the words are all zero."""
        words = self.table.new_zeros(len(tokens), NUM_WORDS, self.word_dim)
        return Text(self.table[tokens[:, 0]], words, words.new_ones(words.shape[:2], dtype=torch.bool))

    def files(self) -> dict[str, str]:
        """None."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A recipe's system with a stand-in text encoder, and the phase that trains its generator."""

    recipe: Recipe
    system: System
    number: int
    """Of the phase."""
    phase: Phase

    def loop(self, store: Any = None) -> PhaseRun:
        """The training loop at this phase, with its optimizers, averages and precision; in training mode."""
        fabric = make_fabric(self.recipe.training)
        job = Job(self.recipe, store, cast(Any, None), fabric, self.system, lambda: False)
        self.system.requires_grad_(False)
        run = PhaseRun(job, self.number, self.phase)
        run._set_modes()
        return run


def make_bench(recipe: Recipe, device: torch.device, text_dims: tuple[int, int] | None = None) -> Bench:
    """Build the system of a recipe, real widths, the same random weights in every call.

    Args:
        recipe: which.
        device: where.
        text_dims: widths of sentences and words; by default those of the recipe's encoder, which is made for
            them and may have to be fetched.

    Raises:
        GanvasError: the recipe trains no generator.
    """
    if recipe.text is None:
        raise GanvasError(f"recipe {recipe.name}: trains no generator; choose one that does")
    if text_dims is None:
        with torch.device("meta"):
            like = build(recipe.text, ["a caption"], None)
        text_dims = like.sentence_dim, like.word_dim
    torch.manual_seed(0)
    encoder = StandIn(*text_dims)
    system = find(recipe.system).build(recipe.settings, encoder, recipe.data.image_size)
    layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    system.to(device).to(memory_format=layout)
    for number, phase in enumerate(system.phases()):
        if phase.generates and not phase.trains_text and len(phase.turns) > 1:
            budget = replace(recipe.training, images={phase.name: 10**9})
            return Bench(recipe=replace(recipe, training=budget), system=system, number=number, phase=phase)
    raise GanvasError(f"recipe {recipe.name}: trains no generator; choose one that does")


def interleave(
    sides: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds that each side takes, one figure a round; sides take turns, so that the machine's moods hit all
    alike. A pause of some seconds before each lets workers of another side come to rest.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, work in sides.items():
            time.sleep(pause)
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if number >= warmup:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for what was started on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def summary(seconds: Sequence[float], count: int) -> dict[str, Any]:
    """Median, extremes and all rounds in seconds, and how many of ``count`` a second the median means."""
    median = statistics.median(seconds)
    return {
        "seconds": {
            "median": median,
            "min": min(seconds),
            "max": max(seconds),
            "rounds": list(seconds),
        },
        "images_per_second": count / median,
    }


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as fast the second is: of the medians, and the extremes over rounds."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    value = statistics.median(slow) / statistics.median(fast)
    return {"of_medians": value, "lowest_round": min(each), "highest_round": max(each)}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "ganvas": __version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    if hasattr(os, "getloadavg"):
        facts["load_average_before"] = round(os.getloadavg()[0], 2)
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        facts = dict(
            (part.strip() for part in line.split(":", 1))
            for line in info.read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
        )
        name = facts.get("model name")
        if name:
            numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
            return f"{name} ({', '.join(numbers)})" if numbers else name
    return platform.processor() or platform.machine()


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=about)
    options.add_argument("--batch", type=int, default=64, help="images a batch (64)")
    options.add_argument("--repeat", type=int, default=7, help="rounds; medians are reported (7)")
    options.add_argument("--threads", type=int, help="threads that torch computes with (its own choice)")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    options.add_argument("--out", type=Path, help="JSON to write (benchmarks/results/NAME.json)")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of the recipe"
    )
    return options


def open_recipe(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe with the options' overrides; threads are set on the way.

    Raises:
        GanvasError: an option is out of range, or the recipe is wrong.
    """
    if options.batch < 2:
        raise GanvasError(f"--batch {options.batch}: should be at least 2")
    for key in ("repeat", "threads"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise GanvasError(f"--{key} {value}: should be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    own = [f"training.batch_size={options.batch}", "training.num_devices=1"]
    return load_recipe(name, [*options.set, f"training.device={options.device}", *own])


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON file, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


def run_script(main: Callable[[], None]) -> None:
    """Run a script; a user's mistake is one line and exit status 2."""
    try:
        main()
    except GanvasError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
