"""How fast a recipe trains and generates, against the same model in plain float32.

One run measures, in interleaved rounds, the training loop's own step with everything that Ganvas does for
speed, the same step with precision or memory layout changed alone, and a plain step: float32, contiguous,
unfused Adam, and weight gradients for the discriminator while the generator is updated. All of them compute
the losses through the same module, so what the losses themselves save (real features computed once for the
matching and the mismatched pair) is on both sides, and not in the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import (
    NUM_WORDS,
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
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from ganvas.errors import GanvasError
from ganvas.pipeline import Model
from ganvas.recipe import Recipe
from ganvas.systems.base import Batch
from ganvas.text.encoder import Text
from ganvas.training.average import Average
from ganvas.training.device import choose_device, choose_precision, make_fabric

PEAK_PRODUCTS = 8
"""Matrix products of each size, before the rounds and again after them; the best counts."""
BAR = 1.5
"""The training step should be at least this many times as fast as the plain one."""

Work = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to compute the same thing."""

    what: str
    precision: str
    channels_last: bool
    plain: bool = False
    """The plain step instead of the loop's; generating, the two do not differ."""

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe in this side's precision and layout."""
        own: dict[str, Any] = {"precision": self.precision, "channels_last": self.channels_last}
        return replace(recipe, training=replace(recipe.training, **own))

    def facts(self) -> dict[str, str]:
        """For the JSON file."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return {"what": self.what, "precision": self.precision, "layout": layout}


def sides(auto: str) -> dict[str, Side]:
    """What is compared; ``auto`` is the precision that the device is faster at."""
    step = "the training loop's step"
    found = {
        "plain": Side(
            what="plain step: unfused Adam, discriminator weight gradients in the generator's turn",
            precision="float32",
            channels_last=False,
            plain=True,
        ),
        "float32 contiguous": Side(what=step, precision="float32", channels_last=False),
    }
    if auto != "float32":
        found["float32 channels_last"] = Side(what=step, precision="float32", channels_last=True)
        found[f"{auto} contiguous"] = Side(what=step, precision=auto, channels_last=False)
    found["ganvas"] = Side(what=f"{step}, precision auto", precision=auto, channels_last=True)
    return found


def compared(auto: str) -> dict[str, tuple[str, str]]:
    """Ratios by name: which side, over which."""
    pairs = {
        "all": ("plain", "ganvas"),
        "step alone": ("plain", "float32 contiguous"),
        "layout alone": (f"{auto} contiguous", "ganvas"),
    }
    return pairs if auto == "float32" else {**pairs, "precision alone": ("float32 channels_last", "ganvas")}


def random_batch(bench: Bench, device: torch.device) -> Batch:
    """Random images and text vectors in the shapes that training sees."""
    rows, size = bench.recipe.training.batch_size, bench.recipe.data.image_size
    last = bench.recipe.training.channels_last
    layout = torch.channels_last if last else torch.contiguous_format

    def images() -> torch.Tensor:
        return torch.randn(rows, 3, size, size).tanh().to(device).contiguous(memory_format=layout)

    wrong = images() if bench.phase.wrong_images else None
    labels = torch.arange(rows, device=device)
    text, wrong_text = random_text(bench, device), random_text(bench, device)
    return Batch(images=images(), text=text, wrong_text=wrong_text, wrong_images=wrong, labels=labels)


def random_text(bench: Bench, device: torch.device) -> Text:
    """Random vectors as wide as those of the recipe's text encoder."""
    encoder, rows = bench.system.text_encoder, bench.recipe.training.batch_size
    words = torch.randn(rows, NUM_WORDS, encoder.word_dim)
    mask = torch.ones(rows, NUM_WORDS, dtype=torch.bool)
    return Text(torch.randn(rows, encoder.sentence_dim), words, mask).to(device)


def training_work(recipe: Recipe, side: Side, device: torch.device) -> Work:
    """One training step of a side."""
    bench = make_bench(side.recipe(recipe), device)
    batch = random_batch(bench, device)
    if side.plain:
        return plain_step(bench, batch)
    run, steps = bench.loop(), iter(range(1, 10**9))

    def work() -> None:
        run._step(next(steps), batch)

    return work


def plain_step(bench: Bench, batch: Batch) -> Work:
    """The same step as one writes it down first; the moving average is kept as in the loop."""
    phase, training = bench.phase, bench.recipe.training
    bench.system.eval().requires_grad_(False)
    optimizers = {}
    for turn in phase.turns:
        parameters = []
        for module in turn.modules:
            parameters += list(module.train().requires_grad_(True).parameters())
        rate, betas = turn.adam.learning_rate, turn.adam.betas
        optimizers[turn.name] = torch.optim.Adam(parameters, rate, betas, foreach=False, fused=False)
    average = Average(bench.system, phase.averaged, training.ema_half_life)

    def work() -> None:
        draw = phase.draw(batch)
        for turn in phase.turns:
            optimizers[turn.name].zero_grad()
            turn.loss(batch, draw).total.backward()
            optimizers[turn.name].step()
        average.update(training.batch_size, 10**6)

    return work


def generating_work(recipe: Recipe, side: Side, device: torch.device) -> Work:
    """One batch of generated images of a side."""
    bench = make_bench(side.recipe(recipe), device)
    fabric, system = make_fabric(bench.recipe.training), bench.system.eval()
    text = random_text(bench, device)
    noise = system.draw_noise(text.sentence)

    def work() -> None:
        with torch.inference_mode(), fabric.autocast():
            system.generate(text, noise)

    return work


def model_work(recipe: Recipe, device: torch.device) -> Work:
    """One batch through ``Model.generate_arrays``, as users call it, the text encoder a stand-in."""
    bench = make_bench(replace(recipe, training=replace(recipe.training, channels_last=False)), device)
    model = Model(bench.system.eval().requires_grad_(False), bench.recipe, {}, device)
    captions = [f"caption {i}" for i in range(recipe.training.batch_size)]

    def work() -> None:
        list(model.generate_arrays(captions, batch_size=len(captions)))

    return work


def repeated(work: Work, times: int) -> Work:
    """The same work several times, as one visit."""

    def visit() -> None:
        for _ in range(times):
            work()

    return visit


def peak_sizes(device: torch.device) -> tuple[int, ...]:
    """Sides of the matrices that are multiplied."""
    return (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192)


def matmul_peak(device: torch.device) -> dict[str, float]:
    """The best rate of square matrix products, TFLOP/s, for both precisions."""
    result = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        best = 0.0
        for size in peak_sizes(device):
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            for _ in range(PEAK_PRODUCTS):
                synchronize(device)
                began = time.perf_counter()
                a @ b
                synchronize(device)
                best = max(best, 2 * size**3 / (time.perf_counter() - began))
        result[name] = best / 1e12
    return result


def count_flops(work: Work) -> int:
    """Floating-point operations of convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def most_expensive(work: Work, device: torch.device) -> list[dict[str, Any]]:
    """The five operators with the largest self time in one call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        synchronize(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    return [
        {
            "operator": event.key,
            "calls": event.count,
            "milliseconds": getattr(event, key) / 1000,
            "share": getattr(event, key) / total,
        }
        for event in events[:5]
    ]


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Say what is being measured."""
    with Console(stderr=True).status(what):
        yield


def measure_training(recipe: Recipe, device: torch.device, repeat: int, steps: int) -> dict[str, Any]:
    """The training step on all sides."""
    auto, batch = choose_precision("auto", device), recipe.training.batch_size
    ways = sides(auto)
    works = {name: training_work(recipe, side, device) for name, side in ways.items()}
    visits = {name: repeated(work, steps) for name, work in works.items()}
    before = matmul_peak(device)
    seconds = {
        name: [visit / steps for visit in found]
        for name, found in interleave(visits, rounds=repeat, warmup=1, device=device).items()
    }
    peak = {name: max(before[name], after) for name, after in matmul_peak(device).items()}
    found = {name: {**side.facts(), **summary(seconds[name], batch)} for name, side in ways.items()}
    for name in ("plain", "ganvas"):
        flops, median = count_flops(works[name]), found[name]["seconds"]["median"]
        rate = flops / median / 1e12
        reached = {"gflop": flops / 1e9, "share_of_peak": rate / peak[ways[name].precision]}
        found[name] |= reached
    return {
        "bar": {"at_least": BAR, "ratio": "all"},
        "ratios": {name: ratio(seconds[a], seconds[b]) for name, (a, b) in compared(auto).items()},
        "sides": found,
        "matmul_peak_tflops": {
            "what": f"best of {2 * PEAK_PRODUCTS} products of each size, half before the rounds, half after",
            "sizes": list(peak_sizes(device)),
            **peak,
        },
        "profile_of_ganvas": most_expensive(works["ganvas"], device),
    }


def measure_generation(recipe: Recipe, device: torch.device, repeat: int, steps: int) -> dict[str, Any]:
    """Generating a batch on all sides, and as users call it."""
    auto, batch = choose_precision("auto", device), recipe.training.batch_size
    ways = sides(auto)
    del ways["float32 contiguous"]  # generating, it is the plain side
    visits = {name: repeated(generating_work(recipe, side, device), steps) for name, side in ways.items()}
    visits["Model.generate_arrays"] = repeated(model_work(recipe, device), steps)
    seconds = {
        name: [visit / steps for visit in found]
        for name, found in interleave(visits, rounds=repeat, warmup=1, device=device).items()
    }
    found: dict[str, Any] = {name: summary(each, batch) for name, each in seconds.items()}
    for name, side in ways.items():
        found[name] = {**side.facts(), "what": "System.generate in inference mode", **found[name]}
    found["Model.generate_arrays"]["what"] = "as users call it, to uint8 arrays; its own precision and layout"
    pairs = {"all": "ganvas", "as users call it": "Model.generate_arrays"}
    return {"ratios": {k: ratio(seconds["plain"], seconds[v]) for k, v in pairs.items()}, "sides": found}


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    for part in ("step", "generation"):
        table = Table(title=f"{result['recipe']}: {part}, batch {result['protocol']['batch']}")
        for column in ("side", "ms", "images/s", "times plain", "of matmul peak"):
            table.add_column(column, justify="left" if column == "side" else "right")
        found = result[part]["sides"]
        for name, side in found.items():
            median = side["seconds"]["median"]
            share = f"{side['share_of_peak']:.0%}" if "share_of_peak" in side else ""
            times = f"{found['plain']['seconds']['median'] / median:.2f}"
            table.add_row(name, f"{1000 * median:.1f}", f"{side['images_per_second']:,.0f}", times, share)
        Console().print(table)
    ratios = ", ".join(f"{name} {each['of_medians']:.2f}" for name, each in result["step"]["ratios"].items())
    print(f"step, times as fast: {ratios} (bar: all at least {BAR})")
    for row in result["step"]["profile_of_ganvas"]:
        print(f"  {row['share']:5.1%}  {row['operator']} ({row['calls']} calls)")


def main() -> None:
    """Measure, write, print."""
    options = parser(__doc__)
    options.add_argument("recipe", help="name of a recipe that ships, or a path")
    options.add_argument("--steps", type=int, default=2, help="steps of a side in each round (2)")
    asked = options.parse_args()
    recipe = open_recipe(asked.recipe, asked)
    if asked.steps < 1:
        raise GanvasError(f"--steps {asked.steps}: should be at least 1")
    device = choose_device(recipe.training.device)
    result: dict[str, Any] = {
        "benchmark": "speed",
        "recipe": recipe.name,
        "machine": machine(device),
        "protocol": {
            "batch": asked.batch,
            "image_size": recipe.data.image_size,
            "rounds": asked.repeat,
            "steps_a_round": asked.steps,
            "warmup_rounds": 1,
            "order": "sides take turns in every round; medians over rounds",
            "inputs": "random images, random text vectors of the encoder's width (it is frozen and cached)",
            "flop": "convolutions and matrix products of one step, by torch.utils.flop_counter",
            "on_both_sides": "losses through the same module, real features once, moving average",
            "overrides": asked.set,
        },
    }
    with saying("training step"):
        result["step"] = measure_training(recipe, device, asked.repeat, asked.steps)
    with saying("generation"):
        result["generation"] = measure_generation(recipe, device, asked.repeat, asked.steps)
    show(result)
    write_result(asked.out or RESULTS / f"speed-{recipe.name}.json", result)


if __name__ == "__main__":
    run_script(main)
