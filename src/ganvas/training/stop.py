"""Stopping cleanly: what Ctrl-C asks for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ganvas.errors import RunStopped


class Interrupted(RunStopped):
    """The user asked to stop; everything is saved."""

    exit_status = 130


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop after the step in progress; the second one interrupts at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # not print: the signal may have come in the middle of one, which a second one must not enter
        os.write(2, b"stopping after this step (Ctrl-C again: at once)\n")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
