"""Two processes on one machine: equal weights, different images, stopping together."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_runs import tiny_recipe, tiny_tree

from ganvas.data.store import Store
from ganvas.pipeline import load
from ganvas.training.checkpoint import list_checkpoints
from ganvas.training.run import open_run

SPY = """
import hashlib, json, os, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from ganvas.training import loop

seen = []
real = loop.PhaseRun._step


def step(self, number, batch):
    terms = real(self, number, batch)
    weights = hashlib.sha256()
    for parameter in self.job.system.parameters():
        weights.update(parameter.detach().contiguous().numpy().tobytes())
    images = [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in batch.images]
    seen.append([self.phase.name, number, weights.hexdigest(), images])
    Path(os.environ["SPY"], f"rank{self.job.fabric.global_rank}.json").write_text(json.dumps(seen))
    return terms


loop.PhaseRun._step = step
from ganvas.cli import main

main()
"""


@pytest.fixture
def spied(store: Store, tmp_path: Path) -> list[str | Path]:
    """A command that trains the tiny recipe, each rank noting what it sees."""
    (tmp_path / "spied.py").write_text(SPY)
    return [
        sys.executable,
        tmp_path / "spied.py",
        "train",
        tmp_path / "tiny.yaml",
        "--data",
        store.path,
        "--out",
    ]


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "SPY": str(folder)}


def write_recipe(folder: Path, **training: object) -> None:
    tree = tiny_tree(num_devices=2, **training)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))


def notes(folder: Path) -> Iterator[tuple[list[object], list[object]]]:
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    return zip(first, second, strict=True)


def test_an_interrupt_that_one_rank_sees_stops_both_and_both_go_on_with_equal_weights_and_other_images(
    spied: list[str | Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write_recipe(tmp_path, images={"text": 4, "gan": 4_000_000}, log_every=3)
    with subprocess.Popen([*spied, run], env=environment(tmp_path), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.decode())
            if line.startswith(b"captions: 28 of 28"):
                process.send_signal(signal.SIGINT)  # to the first rank alone
    assert process.returncode == 130, said
    assert [line for line in said if line.startswith("ganvas: ")] == said[-1:]
    assert "stopped at phase gan" in said[-1]
    reached = int(list_checkpoints(run / "checkpoints")[-1].name[-8:])
    assert reached % 3 == 0, "ranks ask each other when a row of the log is due"

    budget = 4 * (reached + 3)
    write_recipe(tmp_path, images={"text": 4, "gan": budget, "style": 8}, log_every=1)
    done = subprocess.run(
        [*spied, run], env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("trained: ") == 1 and done.stderr.count(f"gan: {budget} of {budget} images") == 1
    weights_seen, steps = set(), []
    for (phase, step, weights, images), (phase2, step2, weights2, images2) in notes(tmp_path):
        assert (phase, step, weights) == (phase2, step2, weights2)
        assert len(images) == len(images2) == 2 and not set(images) & set(images2)
        weights_seen.add(weights)
        steps.append((phase, step))
    assert steps == [
        ("gan", reached + 1),
        ("gan", reached + 2),
        ("gan", reached + 3),
        ("style", 1),
        ("style", 2),
    ]
    assert len(weights_seen) == len(steps), "every step moved the weights"
    with (run / "log.csv").open(newline="") as file:
        rows = [(row["phase"], int(row["step"])) for row in csv.DictReader(file)]
    assert rows[-5:] == steps and len(rows) == len(set(rows))
    assert load(run, device="cpu").trained == {"text": 4, "gan": budget, "style": 8}


def test_what_stops_the_first_rank_stops_the_other_and_is_one_line(
    store: Store, spied: list[str | Path], tmp_path: Path
) -> None:
    run, images = tmp_path / "run", {"text": 4, "gan": 4_000_000}
    write_recipe(tmp_path, images=images)
    open_run(run, tiny_recipe(num_devices=2, images=images), store)
    (run / "model").write_text("in the way of the model folder")
    done = subprocess.run(
        [*spied, run], env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1, done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("ganvas: ")]
    assert len(ours) == 1 and str(run / "model") in ours[0] and "the last good checkpoint" in ours[0]
    assert "Traceback" not in done.stderr


def test_a_phase_ends_for_all_ranks_when_the_first_ones_seconds_are_over(
    spied: list[str | Path], tmp_path: Path
) -> None:
    images = {"text": 4, "gan": 4_000_000, "style": 8}
    write_recipe(tmp_path, images=images, seconds={"gan": 1e-6}, log_every=2)
    done = subprocess.run(
        [*spied, tmp_path / "run"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert load(tmp_path / "run", device="cpu").trained == {"text": 4, "gan": 8, "style": 8}
    for (*first, _), (*second, _) in notes(tmp_path):
        assert first == second
