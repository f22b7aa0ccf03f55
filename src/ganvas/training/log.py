"""The log of a run: ``log.csv`` and TensorBoard, every loss term, and the check that all of them are
finite.
"""

from __future__ import annotations

import csv
import io
import math
import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ganvas.errors import GanvasError, RunStopped
from ganvas.training.checkpoint import in_words, write_atomically

_FILE = "log.csv"
_FIXED = ["phase", "step", "images", "images_per_second"]


class Log:
    """Collects the terms of every step on the device and writes their means now and then.

    Nothing is read back from the device inside a step: ``flush`` does that once for all collected steps, and
    then says of the first value that is not finite in which step and term it stood.

    Args:
        folder: the run's.
        phase: its name.
        step: the step the phase goes on from; rows beyond it, left by an interrupted run, are removed.

    Raises:
        GanvasError: there is a ``log.csv`` that cannot be read.
        RunStopped: it cannot be written.
    """

    def __init__(self, folder: Path, phase: str, step: int) -> None:
        self._path, self._phase = folder / _FILE, phase
        self._rows = [r for r in _read(self._path) if r["phase"] != phase or int(r["step"]) <= step]
        self._columns = _columns(self._rows)
        self._rewrite()
        self._steps: list[int] = []
        self._values: list[Tensor] = []
        self._names: list[list[str]] = []
        self._events = _Events(folder / "tensorboard" / phase, step + 1)

    @property
    def seconds(self) -> float:
        """What the phase's rows took."""
        return seconds_of(self._rows, [self._phase])

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Note the terms of one step, scalars on the device; not every step has all."""
        self._names.append(list(terms))
        self._steps.append(step)
        self._values.append(torch.stack([value.detach().float() for value in terms.values()]))

    def pending(self) -> dict[str, Any]:
        """The steps not yet written, as plain values for a checkpoint."""
        values = self._read_back()
        return {"names": self._names, "steps": self._steps, "values": values}

    def restore(self, pending: Mapping[str, Any], device: torch.device) -> None:
        """Put back what ``pending`` gave."""
        self._steps = list(pending["steps"])
        self._names = [list(row) for row in pending["names"]][: len(self._steps)]
        self._values = [torch.tensor(row, device=device) for row in pending["values"]]

    def check(self) -> None:
        """Stop the run if a collected value is not finite.

        Raises:
            RunStopped: names the step and the term.
        """
        for step, names, row in zip(self._steps, self._names, self._read_back(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise RunStopped(f"phase {self._phase}, step {step}: the loss term '{name}' is {value}")

    def _read_back(self) -> list[list[float]]:
        """The collected values, from the device in one go."""
        if not self._values:
            return []
        flat = torch.cat(self._values).tolist()
        ends = list(accumulate(len(row) for row in self._values))
        return [flat[end - len(row) : end] for end, row in zip(ends, self._values, strict=True)]

    def flush(self, images: int, images_per_second: float) -> dict[str, float]:
        """Check, then write one row with the mean of each term over the collected steps that had it, and
        return it.
        """
        if not self._steps:
            return {}
        self.check()
        found: dict[str, list[float]] = {}
        for names, values in zip(self._names, self._read_back(), strict=True):
            for name, value in zip(names, values, strict=True):
                found.setdefault(name, []).append(value)
        step, terms = self._steps[-1], {name: fmean(values) for name, values in found.items()}
        self._steps, self._values, self._names = [], [], []
        row: dict[str, Any] = {
            "phase": self._phase,
            "step": step,
            "images": images,
            "images_per_second": f"{images_per_second:.6g}",
            **terms,
        }
        self._append(row)
        scalars = {**terms, "images_per_second": images_per_second}
        self._events.add(step, {f"{self._phase}/{name}": value for name, value in scalars.items()})
        return terms

    def _append(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if set(row) <= set(self._columns):
            line = io.StringIO()
            csv.DictWriter(line, self._columns).writerow(row)
            try:
                with self._path.open("a", newline="", encoding="utf-8") as file:
                    file.write(line.getvalue())
            except OSError as error:
                raise RunStopped(f"{self._path}: could not be written ({in_words(error)})") from None
        else:
            self._columns = _columns(self._rows)
            self._rewrite()

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue())


def seconds_of(rows: Sequence[Mapping[str, Any]], phases: Collection[str] | None = None) -> float:
    """What training took, by the rates in the rows of a log; of all phases, or of those named."""
    total, before = 0.0, dict[str, int]()
    for row in rows:
        if phases is not None and row["phase"] not in phases:
            continue
        images, rate = int(row["images"]), float(row["images_per_second"])
        total += (images - before.get(row["phase"], 0)) / rate if rate else 0.0
        before[row["phase"]] = images
    return total


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; none before the first.

    Raises:
        GanvasError: it cannot be read.
    """
    return _read(run / _FILE)


def short_note(terms: Mapping[str, float], rate: float) -> str:
    """The losses and the rate, as a progress bar shows them."""
    losses = ", ".join(f"{k.removesuffix('_loss')} {v:.2f}" for k, v in terms.items() if k.endswith("_loss"))
    return f"{losses}, {rate:.0f}/s"


class _Events:
    """A TensorBoard event file. The calling thread writes it, so that a full disk is noticed here.

    Args:
        folder: made with the first row.
        first_step: what TensorBoard read from an interrupted run is dropped from here on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        stamp = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path, self._first_step = folder / f"events.out.tfevents.{stamp}", first_step

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of one step."""
        from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
            Event,
            SessionLog,
        )
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        events = [Event(step=step, wall_time=time.time(), summary=Summary(value=values))]
        if not self._path.exists():
            session = SessionLog(status=SessionLog.START)
            events[:0] = [
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(wall_time=time.time(), step=self._first_step, session_log=session),
            ]
        self._append([event.SerializeToString() for event in events])

    def _append(self, records: Sequence[bytes]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                writer = RecordWriter(file)
                for record in records:
                    writer.write(record)
        except OSError as error:
            raise RunStopped(f"{self._path}: could not be written ({in_words(error)})") from None


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = dict.fromkeys(_FIXED)
    for row in rows:
        found |= dict.fromkeys(row)
    return list(found)


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a log; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GanvasError(f"{path}: cannot be read ({error}); move it away to go on without it") from None
    return [
        {k: v for k, v in row.items() if v != "" and k is not None}
        for row in rows
        if None not in row.values() and (row.get("step") or "").isdigit()
    ]
