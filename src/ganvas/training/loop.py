"""The training loop: phases in order, turns within a step; resumes in the middle of any.

Progress is counted in images seen. All randomness of a step comes from (seed, phase, step, rank), so a
resumed run computes what an undisturbed one computes. A step never waits for the device: losses are collected
there and read when a row of the log is due.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ganvas.building import build_system
from ganvas.data.feed import Feed
from ganvas.data.stream import StreamFeed
from ganvas.errors import GanvasError, RunStopped
from ganvas.model_folder import save_model
from ganvas.progress import Report, progress
from ganvas.recipe import Recipe
from ganvas.systems.base import Batch, Phase, System, Turn
from ganvas.training.average import Average
from ganvas.training.checkpoint import (
    check_finite,
    checkpoint_number,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from ganvas.training.clock import Clock
from ganvas.training.device import (
    average_gradients,
    leave_ranks,
    make_fabric,
    mean_over_ranks,
    out_of_memory,
    wait_for_all,
)
from ganvas.training.encoders import is_taken_over, take_over, trained_files
from ganvas.training.feeding import Data, check_captions, make_feed, shown_images, training_captions
from ganvas.training.inputs import make_inputs
from ganvas.training.labels import with_labels
from ganvas.training.log import Log, read_log, seconds_of, short_note
from ganvas.training.run import Run, open_run, text_material
from ganvas.training.samples import write_samples
from ganvas.training.steps import check_budgets, is_due, make_adam, seed_of
from ganvas.training.stop import Interrupted, stop_signal


@dataclass(frozen=True)
class Job:
    """What stays the same during a run."""

    recipe: Recipe
    store: Data
    run: Run
    fabric: Fabric
    system: System
    stop: Callable[[], bool]
    """Whether the user asked to stop."""
    trained: dict[str, int] = field(default_factory=dict)
    """Images seen in each phase so far."""


def train(recipe: Recipe, store: Data, folder: Path) -> Run:
    """Train a recipe on prepared or streamed data, or go on where an earlier call stopped.

    Args:
        recipe: what to train.
        store: on which data.
        folder: the run folder; made if it does not exist.

    Returns:
        The run, with a ``model`` folder in it.

    Raises:
        GanvasError: recipe, data and folder do not fit together.
        RunStopped: a loss is not finite, the disk is full, or the user interrupted.
    """
    recipe = with_labels(recipe, store)
    fabric = make_fabric(recipe.training)
    torch.manual_seed(recipe.training.seed)
    files = trained_files(recipe)
    material = text_material(recipe, store) if files is None else {"files": files}
    system = build_system(recipe, **material).to(fabric.device)
    take_over(system, recipe)
    if recipe.training.channels_last:
        system.to(memory_format=torch.channels_last)
    system.requires_grad_(False)
    phases = system.phases()
    check_budgets(recipe, phases)
    budgets = recipe.training.images
    due = {n: p for n, p in enumerate(phases) if budgets.get(p.name, 0) and not is_taken_over(p, recipe)}
    check_captions(store, due.values())
    if fabric.global_rank == 0:
        open_run(folder, recipe, store)
    wait_for_all(fabric)
    run = Run(folder)
    reached = run.latest()
    steps = 0
    with stop_signal() as stop:
        job = Job(recipe, store, run, fabric, system, stop)
        for number, phase in due.items():
            if reached is None or checkpoint_number(reached) <= number:
                steps += PhaseRun(job, number, phase).run(reached)
                reached = None
    if fabric.global_rank == 0:
        save_model(system, recipe, run.model, job.trained)
        if not steps:
            print(f"{folder}: is trained already; larger training.images would go on", file=sys.stderr)
    leave_ranks(fabric)
    return run


class PhaseRun:
    """One phase of a run: its networks' optimizers, average, feed and log."""

    def __init__(self, job: Job, number: int, phase: Phase) -> None:
        self.job, self.number, self.phase = job, number, phase
        self.training = job.recipe.training
        self.batch_size = self.training.batch_sizes.get(phase.name, self.training.batch_size)
        self.steps = -(-self.training.images[phase.name] // self.batch_size)
        self.optimizers = {turn.name: make_adam(turn) for turn in phase.turns}
        self.average = Average(job.system, phase.averaged, self.training.ema_half_life)
        self.draw, self.losses = phase.draw, {turn.name: turn.loss for turn in phase.turns}
        if self.training.compile:
            self.draw = torch.compile(self.draw)
            self.losses = {name: torch.compile(loss) for name, loss in self.losses.items()}

    def run(self, checkpoint: Path | None) -> int:
        """Train to the end of the budget, from ``checkpoint`` if it is given; how many steps were left."""
        if self.phase.start:
            self.phase.start()
        step, pending = self._restore(checkpoint) if checkpoint else (0, None)
        log = Log(self.job.run.folder, self.phase.name, step) if self._first_rank else None
        seconds = self.training.seconds.get(self.phase.name, 0.0)
        clock = Clock(seconds, log.seconds if log else 0.0, self.job.fabric)
        if clock.is_over():
            self.steps = min(step, self.steps)
        if step < self.steps:
            if log and pending:
                log.restore(pending, self.job.fabric.device)
            try:
                self._train(step, log, clock)
            except Interrupted:
                raise
            except RunStopped as error:
                raise type(error)(f"{error}{self._last_good(str(error))}") from None
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise RunStopped(
                    f"phase {self.phase.name}: out of memory; give training.batch_size less than"
                    f" {self.batch_size} in a new run{self._last_good('')}"
                ) from None
        self.job.trained[self.phase.name] = max(step, self.steps) * self.batch_size
        self.average.settle()
        _finish(self.phase, self.job.store)
        return max(self.steps - step, 0)

    def _last_good(self, said: str) -> str:
        """The tail of an error line, unless the checkpoint is named there already."""
        last = self.job.run.latest()
        return f"; the last good checkpoint is {last}" if last and str(last) not in said else ""

    def _train(self, first: int, log: Log | None, clock: Clock) -> None:
        """Steps ``first + 1`` to the last, with everything that is due on the way."""
        self._set_modes()
        feed = self._feed()
        encoder, fabric = self.job.system.text_encoder, self.job.fabric
        inputs = make_inputs(feed, encoder, self.phase, fabric, self.job.run.folder / "cache")
        size = self.batch_size
        note = ""
        clock.start(first * size)
        with closing(feed.batches(first, fabric.device)) as batches, self._progress(first, clock) as report:
            for step in range(first + 1, self.steps + 1):
                terms = self._step(step, inputs(next(batches)))
                images = step * size
                if log:
                    log.add(step, terms)
                    if step % self.training.log_every == 0 or step == self.steps:
                        rate = clock.lap(images)
                        note = short_note(log.flush(images, rate), rate)
                if step % self.training.log_every == 0 and clock.is_over():
                    self.steps = step
                report(clock.spent if clock.limit else images, note)
                self._write_what_is_due(step, log)
                if step == self.steps:
                    break

    def _progress(self, first: int, clock: Clock) -> AbstractContextManager[Report]:
        """A bar on the first rank; the others are quiet."""
        if not self._first_rank:
            return nullcontext(lambda done, note="": None)
        if clock.limit:
            return progress(self.phase.name, clock.limit, start=clock.spent, unit="seconds")
        return progress(self.phase.name, self.steps * self.batch_size, start=first * self.batch_size)

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One training step: what all turns share, then each turn's update."""
        fabric = self.job.fabric
        torch.manual_seed(seed_of(self.training.seed, self.number, step, fabric.global_rank))
        terms: dict[str, Tensor] = {}
        turns = [turn for turn in self.phase.turns if step % turn.every == 0]
        with self._training(turns), fabric.autocast():
            draw = self.draw(batch)
        for turn in turns:
            with self._training([turn]):
                with fabric.autocast():
                    losses = self.losses[turn.name](batch, draw)
                losses.total.backward()  # type: ignore[no-untyped-call]
            self._update(turn, (step - 1) * self.batch_size)
            terms |= {f"{turn.name}_loss": losses.total}
            terms |= {f"{turn.name}_{name}": value for name, value in losses.terms.items()}
        self.average.update(self.batch_size, step * self.batch_size)
        return terms

    def _update(self, turn: Turn, images: int) -> None:
        """Average gradients over ranks and take the optimizer's step."""
        optimizer, adam = self.optimizers[turn.name], turn.adam
        for group in optimizer.param_groups:
            group["lr"] = adam.rate(images)
        if adam.forgets and is_due(images // self.batch_size, self.batch_size, adam.decay_every):
            optimizer.state.clear()
        if self.job.fabric.world_size > 1:
            average_gradients(self.job.fabric, optimizer)
        if turn.clip_norm:
            clipped = [p for module in turn.clipped for p in module.parameters()]
            torch.nn.utils.clip_grad_norm_(clipped, turn.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _training(self, turns: Sequence[Turn]) -> Iterator[None]:
        """Only the networks of ``turns`` get weight gradients."""
        modules = [module for turn in turns for module in turn.modules]
        for module in modules:
            module.requires_grad_(True)
        try:
            yield
        finally:
            for module in modules:
                module.requires_grad_(False)

    def _set_modes(self) -> None:
        """Networks that are updated train; all others are as they will be used."""
        self.job.system.eval()
        for turn in self.phase.turns:
            for module in turn.modules:
                module.train()

    def _feed(self) -> Feed | StreamFeed:
        job = self.job
        return make_feed(job.recipe, job.store, self.phase, self.number, self.batch_size, job.fabric)

    @property
    def _first_rank(self) -> bool:
        return self.job.fabric.global_rank == 0

    def _write_what_is_due(self, step: int, log: Log | None) -> None:
        """Sample sheet and checkpoint, where this step is one for them; the end, if the user asked for it."""
        last, stop = step == self.steps, self._stop_agreed(step)
        if log and self._sample_due(step):
            log.check()
            self._draw_samples(step)
        if log and (last or stop or is_due(step, self.batch_size, self.training.save_every)):
            self._save(step, log)
        if stop and not last:
            wait_for_all(self.job.fabric)
            leave_ranks(self.job.fabric)
            raise Interrupted(
                f"stopped at phase {self.phase.name}, step {step}, everything saved;"
                " the same command goes on from here"
            )

    def _stop_agreed(self, step: int) -> bool:
        """Whether the user asked to stop; several ranks ask each other when a row of the log is due."""
        fabric = self.job.fabric
        if fabric.world_size == 1:
            return self.job.stop()
        if step % self.training.log_every:
            return False
        asked = torch.tensor(float(self.job.stop()), device=fabric.device)
        return bool(mean_over_ranks(fabric, asked) > 0)

    def _draw_samples(self, step: int) -> None:
        job = self.job
        path = job.run.samples / f"{self.phase.name}-{step * self.batch_size:08d}.png"
        try:
            write_samples(self.average.system, job.recipe, shown_images(job.store), path)
        except GanvasError as error:
            raise RunStopped(str(error)) from None

    def _sample_due(self, step: int) -> bool:
        """At every multiple of ``sample_every`` images, at an eighth, a quarter and half of it, and last."""
        every = self.training.sample_every
        if not every or not self.phase.generates:
            return False
        early = step * self.batch_size < every and any(
            is_due(step, self.batch_size, every // part) and (step * self.batch_size) // (every // part) == 1
            for part in (2, 4, 8)
            if every >= part
        )
        return early or step == self.steps or is_due(step, self.batch_size, every)

    def _save(self, step: int, log: Log) -> None:
        """Write a checkpoint and the model as it is now."""
        log.check()
        job, training = self.job, self.training
        tensors = {"system": job.system.state_dict(), "average": self.average.state_dict()}
        tensors |= {f"optimizer-{name}": optimizer_tensors(o) for name, o in self.optimizers.items()}
        check_finite(tensors, f"phase {self.phase.name}, step {step}")
        trained = {**job.trained, self.phase.name: step * self.batch_size}
        state = {"phase": self.phase.name, "step": step, "trained": trained, "pending": log.pending()}
        folder = job.run.checkpoints / f"{self.number}-{self.phase.name}-{step:08d}"
        save_checkpoint(folder, tensors, state)
        prune_checkpoints(job.run.checkpoints, training.keep)
        if self.phase.generates:
            save_model(self.average.system, job.recipe, job.run.model, trained)

    def _restore(self, checkpoint: Path) -> tuple[int, dict[str, Any] | None]:
        """Load a checkpoint; one of an earlier phase gives only its networks.

        Returns:
            The step to go on from, and the log's unwritten rows.
        """
        tensors, state = load_checkpoint(checkpoint)
        try:
            self.job.system.load_state_dict(tensors["system"])
            self._take_over(state.get("trained", {}))
            if state["phase"] != self.phase.name:
                _settle_earlier(self.job, checkpoint_number(checkpoint), tensors["average"])
                if self.phase.start:  # the checkpoint has what it was before
                    self.phase.start()
                return 0, None
            self.average.load_state_dict(tensors["average"])
            for name, optimizer in self.optimizers.items():
                load_optimizer(optimizer, tensors.get(f"optimizer-{name}", {}))
            return int(state["step"]), state["pending"]
        except GanvasError:
            raise
        except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
            first = str(error).strip().splitlines()[0]
            raise GanvasError(f"{checkpoint}: does not fit this recipe ({first})") from None

    def _take_over(self, trained: dict[str, int]) -> None:
        """What earlier calls trained; a phase that later ones build on cannot be trained further."""
        job, training = self.job, self.training
        for name, seen in trained.items():
            if name != self.phase.name:
                job.trained[name] = seen
                took, limit = seconds_of(read_log(job.run.folder), [name]), training.seconds.get(name)
                if training.images.get(name, 0) > seen and not (limit and took >= limit):
                    raise GanvasError(
                        f"training.images.{name}: {training.images[name]:,} are asked for, but in"
                        f" {job.run.folder} this phase is over after {seen:,} in {took:.0f} seconds, and"
                        f" phase {self.phase.name} builds on it; choose another folder with --out"
                    )


def _settle_earlier(job: Job, number: int, average: dict[str, Tensor]) -> None:
    """What the end of an earlier phase did to the networks, done again from its checkpoint."""
    phase = job.system.phases()[number]
    if phase.start:
        phase.start()
    earlier = Average(job.system, phase.averaged, 1)
    earlier.load_state_dict(average)
    earlier.settle()
    _finish(phase, job.store)


def _finish(phase: Phase, data: Data) -> None:
    if phase.finish:
        phase.finish(training_captions(data))
