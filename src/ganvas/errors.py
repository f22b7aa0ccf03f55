"""The errors that users see: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_NAMES = 24


class GanvasError(ValueError):
    """A mistake in what the user gave. The command line prints one line and exits with status 2."""

    exit_status = 2


class RunStopped(GanvasError):
    """Work that had to stop for a reason outside the user's input: a full disk, a loss that is not finite.

    The command line prints its text as one line and exits with status 1.
    """

    exit_status = 1


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The tail of an error line for a misspelt name: the nearest known name, or those that there are.

    Args:
        wrong: what the user wrote.
        known: the valid names.
    """
    names = sorted(known)
    near = get_close_matches(wrong, names, n=1, cutoff=0.5)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names[:_MOST_NAMES])}{more}"
