"""From the command to the picture: ``ganvas generate`` with the model that ships, beside ``import torch``.

Both are processes of their own, started in turns, from the start of the program to its end. Seconds of the
clock and seconds of all cores are both in the file: where the machine does other work beside, the second ones
tell what the work itself takes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, interleave, machine, parser, ratio, run_script, summary, write_result

from ganvas.errors import GanvasError
from ganvas.models import DEFAULT, place_of
from ganvas.pipeline import load

CAPTION = "a smiling cat with heart eyes"
SECONDS = 1.0


class Side:
    """A command that is started again and again, with what all of its rounds took of the cores."""

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self.command, self.folder = [*command], folder
        self.core_seconds: list[float] = []

    def __call__(self) -> None:
        """Start it once, and wait for its end."""
        before = os.times()
        done = subprocess.run(self.command, cwd=self.folder, capture_output=True, text=True, check=False)
        after = os.times()
        if done.returncode:
            raise GanvasError(f"{' '.join(self.command)}: {done.stderr.strip()[-300:]}")
        user, system = (
            after.children_user - before.children_user,
            after.children_system - before.children_system,
        )
        self.core_seconds.append(user + system)


def measured(repeat: int, model: str) -> dict[str, Any]:
    """Both sides in interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "import torch": Side([sys.executable, "-c", "import torch"], folder),
            "generate": Side([*_ganvas(), "generate", "--model", model, CAPTION], folder),
            "import ganvas": Side([sys.executable, "-c", "import ganvas"], folder),
        }
        work: dict[str, Callable[[], None]] = dict(sides)
        clock = interleave(work, rounds=repeat, warmup=1, device=torch.device("cpu"))
    more = [b - a for a, b in zip(clock["import torch"], clock["generate"], strict=True)]
    cores = {name: statistics.median(side.core_seconds[1:]) for name, side in sides.items()}
    return {
        "sides": {name: {**summary(clock[name], 1), "core_seconds_median": cores[name]} for name in sides},
        "more_than_import_torch": {
            "seconds_of_medians": statistics.median(clock["generate"])
            - statistics.median(clock["import torch"]),
            "seconds_lowest_round": min(more),
            "seconds_highest_round": max(more),
            "core_seconds_of_medians": cores["generate"] - cores["import torch"],
        },
        "times_import_torch": ratio(clock["generate"], clock["import torch"]),
    }


def _ganvas() -> list[str]:
    """The installed command, where there is one."""
    script = Path(sys.executable).with_name("ganvas")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "ganvas"]


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__)
    options.add_argument("--model", default=DEFAULT, help=f"a model that ships, or a folder ({DEFAULT})")
    given = options.parse_args()
    if given.repeat < 1:
        raise GanvasError(f"--repeat {given.repeat}: should be at least 1")
    model, path = load(given.model, device="cpu"), place_of(given.model).resolve()
    began, facts = time.perf_counter(), machine(torch.device("cpu"))
    found = measured(given.repeat, str(path) if path.is_dir() and given.model != DEFAULT else given.model)
    more, load_average = found["more_than_import_torch"], facts.get("load_average_before")
    busy = load_average is not None and load_average > 1
    result = {
        "benchmark": "startup",
        "machine": facts,
        "protocol": {
            "caption": CAPTION,
            "model": given.model,
            "system": model.recipe.system,
            "image_size": model.image_size,
            "rounds": given.repeat,
            "interleaved": True,
            "seconds": "from the start of the process to its end",
            "machine_was_busy": busy,
        },
        **found,
        "bar": {"more_seconds_than_import_torch": SECONDS, "met": more["seconds_of_medians"] <= SECONDS},
        "seconds_in_all": time.perf_counter() - began,
    }
    for name, side in found["sides"].items():
        print(f"{name:<14} {side['seconds']['median']:.2f} s ({side['core_seconds_median']:.2f} s of cores)")
    print(f"more than import torch: {more['seconds_of_medians']:.2f} s (bar: {SECONDS:.1f} s)")
    if busy:
        print(f"the machine did other work (load average {load_average}): run this again on a quiet one")
    write_result(given.out or RESULTS / "startup.json", result)


if __name__ == "__main__":
    run_script(main)
