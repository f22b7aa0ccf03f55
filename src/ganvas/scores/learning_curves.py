"""The learning curves of runs, from their ``log.csv``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from ganvas.errors import GanvasError
from ganvas.scores.page.content import Curve

_NO_TERMS = {"phase", "step", "images", "images_per_second"}
_MAX_BYTES = 200_000_000

Log = dict[tuple[str, str], list[tuple[float, float]]]


def read_log(run: Path) -> Log:
    """Each loss term of a run: by phase and term, images seen and values.

    A line that was cut short and values that are not finite are left out. A folder without a log gives
    nothing.

    Raises:
        GanvasError: the log cannot be read.
    """
    path = run / "log.csv"
    if not path.is_file():
        return {}
    found: Log = {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"has more than {_MAX_BYTES:,} bytes")
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                _add(row, found)
    except (OSError, ValueError, csv.Error) as error:
        raise GanvasError(f"{path}: cannot be read ({error}); move it away to compare without it") from None
    return {place: sorted(points) for place, points in found.items()}


def _add(row: dict[str, str], found: Log) -> None:
    images, phase = _number(row.get("images")), row.get("phase")
    if images is None or not phase or None in row.values():
        return
    for term, text in row.items():
        if term and term not in _NO_TERMS and (value := _number(text)) is not None:
            found.setdefault((phase, term), []).append((images, value))


def _number(text: object) -> float | None:
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def curves(logs: Sequence[Log]) -> list[Curve]:
    """One curve for each phase and term that any run has, in the order of the logs."""
    places = dict.fromkeys(place for log in logs for place in log)
    phases = list(dict.fromkeys(phase for phase, _ in places))
    return [
        Curve(
            phase=phase,
            term=term,
            lines={n: log[phase, term] for n, log in enumerate(logs) if (phase, term) in log},
        )
        for phase, term in sorted(places, key=lambda place: phases.index(place[0]))
    ]
