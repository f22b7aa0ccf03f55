"""A score: a number that carries everything which fixes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ganvas.errors import GanvasError


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one set of images."""

    name: str
    """Such as ``r-precision`` or ``fid lite0``: a distance is named with its features."""
    value: float
    spread: float | None = None
    """Standard deviation over folds, splits or subsets, where the protocol has them."""
    better: Literal["higher", "lower"]
    protocol: Mapping[str, Any]
    """Everything that fixes the number: plain values. Two scores are compared only where these are equal."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else came out, such as values of single classes; it may differ between comparable scores."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.3g}"
        return f"{self.value:.4g}{spread}"


def differences(a: Score, b: Score) -> list[str]:
    """In what the protocols of two scores differ, one line each; nothing where they can be compared."""
    if a.name != b.name:
        return [f"{a.name} is not {b.name}"]
    keys = dict.fromkeys([*a.protocol, *b.protocol])
    found = [(key, a.protocol.get(key), b.protocol.get(key)) for key in keys]
    return [f"{key}: {_short(x)} here, {_short(y)} there" for key, x, y in found if x != y]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compared(a: Score, b: Score) -> float:
    """By how much ``a`` is better than ``b``, in the units of the score.

    Raises:
        GanvasError: their protocols differ.
    """
    if found := differences(a, b):
        raise GanvasError(f"{a.name}: these two cannot be compared; {'; '.join(found)}")
    return a.value - b.value if a.better == "higher" else b.value - a.value


def read_scores(path: Path) -> list[Score]:
    """The scores of a file that ``ganvas score`` wrote.

    Raises:
        GanvasError: it is no such file.
    """
    from pydantic import ValidationError

    try:
        return scores_of(json.loads(path.read_bytes())["scores"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GanvasError(f"{path}: is no file of scores ({type(error).__name__}: {reason})") from None


def scores_of(tree: Any) -> list[Score]:
    """Scores from the plain values of ``Score.to_dict``.

    Raises:
        pydantic.ValidationError: they are something else.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(list[Score]).validate_python(tree)
