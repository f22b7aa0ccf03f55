"""Stopping: Ctrl-C after the step, a loss that is not finite, memory that runs out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import outcome, tiny_recipe, tiny_tree

from ganvas.data.store import Store
from ganvas.errors import RunStopped
from ganvas.systems.base import Batch, Losses
from ganvas.systems.gan_int_cls import Draw, GanIntCls
from ganvas.training.checkpoint import list_checkpoints, load_checkpoint
from ganvas.training.loop import train
from ganvas.training.stop import Interrupted, stop_signal

pytestmark = pytest.mark.usefixtures("single_threaded")


def at_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int, what: Callable[[Any], Any]) -> None:
    """Apply ``what`` to what the ``number``-th call of a method of GanIntCls gives, counted from 1."""
    real, count = getattr(GanIntCls, name), iter(range(1, 1_000_000))

    def method(self: GanIntCls, batch: Batch, *rest: Draw) -> Any:
        result = real(self, batch, *rest)
        return what(result) if next(count) == number else result

    monkeypatch.setattr(GanIntCls, name, method)


def interrupt(result: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    return result


@pytest.mark.parametrize(
    ("method", "call"), [("generator_loss", 1), ("generator_loss", 4), ("style_loss", 1)]
)
def test_the_first_interrupt_stops_after_the_step_and_the_run_goes_on_bit_for_bit(
    store: Store, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_call(patch, method, call, interrupt)
        with pytest.raises(Interrupted, match=rf"step {call}, everything saved") as stop:
            train(tiny_recipe(), store, run)
    assert stop.value.exit_status == 130
    assert list_checkpoints(run / "checkpoints")[-1].name.endswith(f"{call:08d}")
    train(tiny_recipe(), store, run)
    assert outcome(run) == outcome(undisturbed)


def test_an_interrupt_in_the_last_step_of_a_run_changes_nothing(
    store: Store, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, "style_loss", 2, interrupt)
    assert outcome(train(tiny_recipe(), store, tmp_path / "run").folder) == outcome(undisturbed)


def test_the_second_interrupt_interrupts_at_once_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_signal() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupting_the_command_line_is_status_130_and_one_line(store: Store, tmp_path: Path) -> None:
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(tiny_tree(images={"text": 12, "gan": 4_000_000})))
    command = [sys.executable, "-m", "ganvas", "train", recipe, "--data", store.path, "--out", run]
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.decode())
            if line.startswith(b"captions: 28 of 28"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert said[-1].startswith("ganvas: stopped at phase gan, step ") and "everything saved" in said[-1]
    assert list_checkpoints(run / "checkpoints")[-1].name.startswith("1-gan-")


def poison(value: float, term: str | None) -> Callable[[Losses], Losses]:
    """Make the total, and one term, of some losses not finite."""

    def change(losses: Losses) -> Losses:
        bad = losses.total * value
        return Losses(bad, {k: bad if k == term else v for k, v in losses.terms.items()})

    return change


@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.parametrize(
    ("step", "value"), [(1, float("nan")), (2, float("inf")), (3, float("nan")), (4, float("inf"))]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, log_every: int, value: float
) -> None:
    run = tmp_path / "run"
    at_call(monkeypatch, "generator_loss", step, poison(value, "matching"))
    with pytest.raises(RunStopped) as stop:
        train(tiny_recipe(log_every=log_every, images={"text": 4, "gan": 24}), store, run)
    said = str(stop.value)
    good = list_checkpoints(run / "checkpoints")[-1]
    assert f"phase gan, step {step}: the loss term 'generator_loss' is {value}" in said
    assert f"the last good checkpoint is {good}" in said and "\n" not in said
    assert int(good.name[-8:]) < step or good.name.startswith("0-text")
    for folder in list_checkpoints(run / "checkpoints"):
        groups, _ = load_checkpoint(folder)
        assert all(t.isfinite().all() for group in groups.values() for t in group.values())


def test_weights_that_are_not_finite_are_never_saved_even_if_the_loss_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_gradient(losses: Losses) -> Losses:
        zero = (losses.total - losses.total.detach()).abs()
        return Losses(losses.total + zero.sqrt(), losses.terms)  # the root's slope at zero is infinite

    at_call(monkeypatch, "generator_loss", 2, spoil_gradient)
    with pytest.raises(
        RunStopped, match=r"phase gan, step 2: (system|average|optimizer-generator) '.*not finite"
    ):
        train(tiny_recipe(images={"text": 4, "gan": 24}), store, tmp_path / "run")
    assert [p.name for p in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["0-text-00000001"]


def test_memory_that_runs_out_is_one_line_that_says_what_to_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(losses: Losses) -> Losses:
        torch.empty(1 << 58)
        raise AssertionError

    at_call(monkeypatch, "discriminator_loss", 3, too_much)
    with pytest.raises(
        RunStopped, match=r"out of memory.*training\.batch_size.*checkpoint is .*1-gan-00000002"
    ):
        train(tiny_recipe(), store, tmp_path / "run")
