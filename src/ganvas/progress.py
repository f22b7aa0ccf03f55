"""Progress as people see it: a bar with the time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class Report(Protocol):
    """What the work calls as it goes on."""

    def __call__(self, done: float, note: str = "") -> None:
        """Say how much is done, in the units of the total, and optionally a few words."""


@contextmanager
def progress(what: str, total: float, *, start: float = 0.0, unit: str = "images") -> Iterator[Report]:
    """Show how far work has come, on standard error.

    Args:
        what: a word or two in front of the bar.
        total: when ``done`` reaches it, the work is over.
        start: where a resumed work begins.
        unit: of ``total``.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=int(total), completed=int(start), note="")

            def draw(done: float, note: str = "") -> None:
                bar.update(task, completed=int(done), note=note)

            yield draw
    else:
        yield _Lines(what, total, start, unit)


class _Lines:
    """Plain lines for logs and pipes."""

    def __init__(self, what: str, total: float, start: float, unit: str) -> None:
        self._what, self._total, self._start, self._unit = what, total, start, unit
        self._began = self._last = time.monotonic()

    def __call__(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        over = done >= self._total
        if now - self._last < _SECONDS_BETWEEN_LINES and not over:
            return
        self._last = now
        spent = now - self._began
        left = spent * (self._total - done) / max(done - self._start, 1e-9)
        clock = f"in {_clock(spent)}" if over else f"{_clock(left)} left"
        text = f"{self._what}: {done:,.0f} of {self._total:,.0f} {self._unit}, {clock}"
        print(f"{text}, {note}" if note else text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
