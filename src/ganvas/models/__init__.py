"""The models that ship: model folders like any other, called by their names.

``ganvas.load()`` and ``ganvas generate`` take ``emoji-default`` where none is named. The name of a shipped
model stands wherever a run or a model folder may; a folder of that name comes first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ganvas.errors import GanvasError, did_you_mean

DEFAULT = "emoji-default"
MAX_BYTES = 16_000_000
"""What the shipped models may take in the wheel, all files together."""

_HOME = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The models that ship, by name, the default first."""
    found = sorted(path.parent for path in _HOME.glob("*/config.json"))
    return {path.name: path for path in sorted(found, key=lambda path: path.name != DEFAULT)}


def place_of(model: str | os.PathLike[str]) -> Path:
    """Where a model lies: the folder that ``model`` names, or else the shipped model of that name."""
    text = os.fspath(model)
    path = Path(text)
    return path if os.path.exists(text) else shipped().get(text, path)  # noqa: PTH110  takes any text


def no_such_model(path: str | os.PathLike[str]) -> GanvasError:
    """The error for a model that is neither a folder nor one that ships."""
    return GanvasError(f"{_not_there(os.fspath(path))}; give a run or model folder")


def part_words(words: Sequence[str], *, more_captions: bool = False) -> tuple[str, list[str]]:
    """Which of the words of a command is the model, and which are captions.

    The first word is the model if something of that name exists, if it is the name of a shipped model, if it
    looks like a path (it has a slash, and no white space or a parent folder that is there), or if it is a
    single word that captions follow. Otherwise the default model is meant, and all words are captions.

    Args:
        words: as they were given.
        more_captions: captions follow from elsewhere, such as a file.

    Returns:
        The model, and the captions.

    Raises:
        GanvasError: the first word seems to be a model that is not there.
    """
    if not words or not words[0].strip():
        return DEFAULT, list(words)
    first, others = words[0], list(words[1:])
    if os.path.exists(first) or first in shipped():  # noqa: PTH110  takes any text, however long
        return first, others
    single = not any(character.isspace() for character in first)
    is_path = any(slash in first for slash in ("/", os.sep)) and (
        single or os.path.isdir(os.path.dirname(first))  # noqa: PTH112, PTH120  takes any text
    )
    if is_path or (single and (others or more_captions)) or (single and _is_misspelt(first)):
        raise GanvasError(f"{_not_there(first)}; if it is a caption, name the model too: --model {DEFAULT}")
    return DEFAULT, [first, *others]


def _is_misspelt(word: str) -> bool:
    return len(word) < 100 and bool(get_close_matches(word, shipped(), cutoff=0.8))


def _not_there(name: str) -> str:
    shown = name if len(name) <= 100 else f"{name[:99]}\u2026"
    return f"{shown}: no such folder, and no model that ships ({did_you_mean(shown, shipped())})"
