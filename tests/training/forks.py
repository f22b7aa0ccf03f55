"""Children that train and die: what happens to a run whose process is killed at any moment."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ganvas.data.store import Store
from ganvas.recipe import Recipe
from ganvas.training.loop import train

for _late in ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.record_writer"):
    import_module(f"tensorboard.{_late}")  # before forking, so that children start at once


def in_child(work: Callable[[], object], said: Path) -> int:
    """Do ``work`` in a forked child whose standard error goes to ``said``; its status, as of ``os.wait``."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            work()
            status = 0
        except BaseException as error:
            traceback.print_exc()
            status = getattr(error, "exit_status", 98)
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return status


def train_in_child(
    recipe: Recipe, store: Store, run: Path, prelude: Callable[[], object] = lambda: None
) -> int:
    def work() -> None:
        prelude()
        train(recipe, store, run)

    return in_child(work, run.with_suffix(".err"))


def die_after(seconds: float) -> None:
    """End this process once it has computed for so long: SIGPROF ends it as SIGKILL does, at any instruction.

    Time on the processor does not depend on what else the machine has to do.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def die_at_write(number: int, *, before: bool) -> None:
    """SIGKILL this process before or after its ``number``-th sync, rename or removal."""
    count_writes(lambda count: count == number and os.kill(os.getpid(), signal.SIGKILL), before=before)


def count_writes(tell: Callable[[int], object], *, before: bool = True) -> None:
    """Call ``tell`` with a growing number around everything that settles a write."""
    numbers = iter(range(1_000_000))

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            number = next(numbers)
            if before:
                tell(number)
            result = real(*arguments, **options)
            if not before:
                tell(number)
            return result

        return wrapped

    os.fsync = wrap(os.fsync)  # type: ignore[assignment]
    Path.rename = wrap(Path.rename)  # type: ignore[assignment,method-assign]
    Path.replace = wrap(Path.replace)  # type: ignore[assignment,method-assign]
    shutil.rmtree = wrap(shutil.rmtree)  # type: ignore[assignment]


def computed_by_children() -> float:
    """Seconds of processor time of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
