"""``ganvas models``: which models are here, and where each came from. Their weights are not read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas.models import shipped

_MAX_BYTES = 10_000_000
_PATTERNS = ("*/model/config.json", "*/*/model/config.json")
_UNKNOWN = "\u2013"


@dataclass(frozen=True)
class Listed:
    """A row of the table."""

    name: str
    """By which commands take it: the name of a shipped model, or a folder."""
    system: str
    size: str
    seen: str
    data: str
    licence: str
    megabytes: str
    origin: str


def list_models(runs: Path = Path("runs")) -> list[Listed]:
    """The models that ship, then those of the runs in a folder.

    Args:
        runs: where runs lie, directly or in one more folder; it need not exist.
    """
    found = [_row(name, folder, "ships with Ganvas") for name, folder in shipped().items()]
    configs = sorted(path for pattern in _PATTERNS for path in runs.glob(pattern))
    return found + [_row(str(path.parent.parent), path.parent, "trained here") for path in configs]


def table(rows: Sequence[Listed]) -> Iterator[str]:
    """Lines of text, a head first."""
    head = Listed("name", "system", "pixels", "images seen", "data", "licence", "MB", "from")
    cells = [list(vars(row).values()) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(name: str, folder: Path, origin: str) -> Listed:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    megabytes = f"{size / 1e6:.1f}"
    try:
        config = _read(folder / "config.json")
        recipe, about = config["recipe"], config.get("shipped") or {}
        if config.get("converted_from"):
            origin = f"converted from {', '.join(config['converted_from'])}"
        elif about.get("run"):
            origin += f", trained as {recipe['name']}"
        seen = ", ".join(f"{phase} {images:,}" for phase, images in config["trained"].items())
        pixels = str(recipe["data"]["image_size"])
        system, data = str(recipe["system"]), str(recipe["data"]["set"])
        licence = str(about.get("licence", _UNKNOWN))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Listed(name, *(_UNKNOWN,) * 5, megabytes, "cannot be read")
    return Listed(
        name=name,
        system=system,
        size=pixels,
        seen=seen or _UNKNOWN,
        data=data,
        licence=licence,
        megabytes=megabytes,
        origin=origin,
    )


def _read(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("too large")
    config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
