"""Captions as people write them to captions that can be stored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ganvas.text.settings import MAX_CAPTION_CHARACTERS

UNCAPTIONED = "an image"
"""What stands in a store where a data set is prepared without captions."""

_SPACES = re.compile(r"\s+")
_SHOWN = 40


def clean(captions: Iterable[object]) -> tuple[list[str], list[str]]:
    """The captions that can be used, and why the others cannot.

    White space of any kind becomes a single space. A caption with control characters, without any visible
    character, of more than ``MAX_CAPTION_CHARACTERS``, or that is no valid Unicode, cannot be used.

    Args:
        captions: of one image.

    Returns:
        The usable ones, and a reason for each of the others.
    """
    usable, reasons = [], []
    for number, caption in enumerate(captions, 1):
        text = _SPACES.sub(" ", caption).strip() if isinstance(caption, str) else caption
        reason = _what_is_wrong(text)
        if reason:
            reasons.append(f"caption {number} {reason}")
        else:
            usable.append(str(text))
    return usable, reasons


def _what_is_wrong(text: object) -> str | None:
    if not isinstance(text, str):
        return f"is no text but {type(text).__name__}"
    if len(text) > MAX_CAPTION_CHARACTERS:
        return f"has {len(text):,} characters, more than the {MAX_CAPTION_CHARACTERS:,} allowed"
    kinds = {unicodedata.category(character) for character in text}
    if "Cc" in kinds:
        return f"has control characters ({text[:_SHOWN]!a})"
    if "Cs" in kinds:
        return f"is no valid Unicode ({text[:_SHOWN]!a})"
    if kinds <= {"Cf", "Zs"}:
        return "is empty"
    return None
