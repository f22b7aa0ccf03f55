"""A run that is killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from tiny_runs import one_thread, outcome, tiny_recipe, tiny_tree

from ganvas.data.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
if hasattr(os, "fork"):
    from forks import computed_by_children, count_writes, die_after, die_at_write, train_in_child

RANDOM_KILLS = 12
KILLS_IN_WRITES = 8


@pytest.fixture(scope="module")
def measured(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, int]:
    """A run in an undisturbed child: its folder, its processor time, and how many writes it settles."""
    folder = tmp_path_factory.mktemp("measured")
    run, counted = folder / "run", folder / "writes"
    with one_thread():
        began = computed_by_children()
        assert train_in_child(tiny_recipe(), store, run) == 0
        seconds = computed_by_children() - began
        tell = lambda number: counted.write_text(str(number + 1))  # noqa: E731
        assert train_in_child(tiny_recipe(), store, folder / "again", lambda: count_writes(tell)) == 0
    assert outcome(folder / "again") == outcome(run)
    return run, seconds, int(counted.read_text())


def died(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGPROF)


@pytest.mark.usefixtures("single_threaded")
def test_twenty_of_twenty_killed_runs_go_on_bit_for_bit(
    store: Store, measured: tuple[Path, float, int], tmp_path: Path
) -> None:
    undisturbed, seconds, writes = measured
    dice = random.Random(7)
    wanted = outcome(undisturbed)

    def plan() -> Iterator[tuple[str, Callable[[], None]]]:
        for place in dice.sample(range(writes), KILLS_IN_WRITES):
            before = dice.random() < 0.5
            yield f"write {place}, {before=}", partial(die_at_write, place, before=before)
        while True:
            moment = dice.uniform(0.02, 0.95) * seconds
            yield f"{moment:.3f} s", partial(die_after, moment)

    kills = 0
    for number, (what, prelude) in enumerate(plan()):
        run = tmp_path / f"run{number}"
        if died(train_in_child(tiny_recipe(), store, run, prelude)):
            kills += 1
            assert train_in_child(tiny_recipe(), store, run) == 0, (what, run.with_suffix(".err").read_text())
        assert outcome(run) == wanted, what
        assert not list(run.rglob("checkpoints/*.partial")), what
        if kills == RANDOM_KILLS + KILLS_IN_WRITES:
            break
        assert number < 40, f"only {kills} of {number} children were killed in time"


@pytest.mark.usefixtures("single_threaded")
def test_a_run_killed_again_and_again_goes_on_bit_for_bit(
    store: Store, measured: tuple[Path, float, int], tmp_path: Path
) -> None:
    undisturbed, _, writes = measured
    run, kills = tmp_path / "run", 0
    for number in range(100):
        death = partial(die_at_write, writes // 5 + number % 3, before=False)
        status = train_in_child(tiny_recipe(), store, run, death)
        if not died(status):
            assert status == 0, run.with_suffix(".err").read_text()
            break
        kills += 1
    assert kills >= 3
    assert outcome(run) == outcome(undisturbed)


def test_the_command_line_survives_kill_nine(store: Store, undisturbed: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(tiny_tree()))
    command = [sys.executable, "-m", "ganvas", "train", recipe, "--data", store.path, "--out", run]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):  # on a busy machine a run may be over before it is killed
        shutil.rmtree(run, ignore_errors=True)
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(b"text: 12 of 12"):  # the first phase is over, two remain
                    break
            process.kill()
        if process.returncode == -signal.SIGKILL:
            break
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"trained: {run}" in done.stdout
    assert outcome(run) == outcome(undisturbed)
