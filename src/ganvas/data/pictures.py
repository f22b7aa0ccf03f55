"""Pictures that annotations know by name or by id: where they lie, and names that stay in their folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"))
"""Of image files, lower case."""


def identity(value: Any) -> str | None:
    """An id as the store has it; None if it is none."""
    if isinstance(value, str):
        return value if 0 < len(value) <= 200 and value.isprintable() else None
    return str(value) if type(value) is int else None


def inside(name: str) -> str | None:
    """A file name out of a data file, without detours; None if it could lead outside of its folder.

    Args:
        name: relative, with slashes.
    """
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\:\0")
    return None if unsafe or shown(name) != name else str(path)


def shown(name: str) -> str:
    """A file name for people: what is no Unicode in it is written as numbers."""
    return name.encode(errors="backslashreplace").decode()


def list_pictures(folder: Path) -> list[str]:
    """The names of the image files in a folder (not in folders below it), sorted; none if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in EXTENSIONS  # noqa: PTH122  # for 10^6 names
                and not entry.name.startswith(".")
                and entry.is_file()
            )
    except OSError:
        return []


def folders_with_pictures(root: Path, candidates: Iterable[str]) -> dict[str, list[str]]:
    """Those of the candidate folders that hold image files, with the names of these.

    Args:
        root: what the candidates are relative to.
        candidates: such as ``images/train2017``; ``.`` is the root itself.
    """
    found = {folder: list_pictures(root / folder) for folder in dict.fromkeys(candidates)}
    return {folder: names for folder, names in found.items() if names}


def joined(folder: str, name: str) -> str:
    """``folder/name`` as ``Record.image`` has it."""
    return str(PurePosixPath(folder) / name)
