"""Read the emoji pack: names and tags in many languages, and the drawings as SVG.

The pack is JSON, one object a line, compressed: a header, the emojis, the drawings.
``tools/build_emoji.py`` makes it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ganvas.errors import GanvasError

FORMAT = 1
SKIN_TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}
_FILE = "emoji.jsonl.xz"


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji, in whatever style it is drawn."""

    hexcode: str
    """Its code points, such as ``1F44D-1F3FF``."""
    group: str
    """Such as ``people-body``."""
    subgroup: str
    """Such as ``hand-fingers-closed``."""
    base: str
    """Hexcode of the emoji that this one is a skin tone of; its own where it is none."""
    skin_tones: tuple[str, ...]
    """None, one, or two where two people are shown; the left one's first."""
    names: dict[str, tuple[str, tuple[str, ...]]]
    """Language to label and tags. A skin tone has the tags of its base."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One emoji in one style, as SVG."""

    style: str
    hexcode: str
    box: tuple[float, float, float, float]
    """Left, top, width and height of what is shown, in the drawing's own units."""
    body: str
    """What stands inside the ``svg`` element."""

    @property
    def id(self) -> str:
        """Hexcode and style: the id of the image in a store."""
        return f"{self.hexcode}/{self.style}"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Everything that the pack holds."""

    sha256: str
    sources: tuple[dict[str, str], ...]
    """Title, version, licence, credit and address of each source."""
    languages: tuple[str, ...]
    emojis: dict[str, Emoji]
    """By hexcode, in the order of the Unicode charts."""
    drawings: dict[str, Drawing]
    """By id, in the order of the emojis within each style."""


@cache
def read_pack() -> Pack:
    """The pack that ships with Ganvas, read once a process (about a second).

    Raises:
        GanvasError: the file is not the one that was shipped.
    """
    folder = files(__package__)
    packed = (folder / _FILE).read_bytes()
    promised = (folder / f"{_FILE}.sha256").read_text(encoding="utf-8").split()[0]
    return parse_pack(packed, promised)


def parse_pack(packed: bytes, promised: str) -> Pack:
    """The pack in ``packed``, whose SHA-256 must be ``promised``.

    Raises:
        GanvasError: it is another.
    """
    found = hashlib.sha256(packed).hexdigest()
    if found != promised:
        raise GanvasError(
            f"{_FILE}: the emoji pack is damaged (its SHA-256 begins with {found[:8]}, not {promised[:8]});"
            " install ganvas again"
        )
    lines = lzma.decompress(packed).splitlines()
    header = json.loads(lines[0])
    assert header["format"] == FORMAT, header["format"]
    first = 1 + header["emojis"]
    emojis: dict[str, Emoji] = {}
    for line in map(json.loads, lines[1:first]):
        emojis[line["hexcode"]] = _emoji(line, emojis)
    drawings = [
        Drawing(style=line["style"], hexcode=line["hexcode"], box=tuple(line["box"]), body=line["body"])
        for line in map(json.loads, lines[first:])
    ]
    return Pack(
        sha256=found,
        sources=tuple(header["sources"]),
        languages=tuple(header["languages"]),
        emojis=emojis,
        drawings={drawing.id: drawing for drawing in drawings},
    )


def _emoji(line: dict[str, Any], before: dict[str, Emoji]) -> Emoji:
    base = line.get("base", line["hexcode"])
    names = {language: (label, tuple(tags)) for language, (label, tags) in line["names"].items()}
    if base in before:
        names = {language: (label, before[base].names[language][1]) for language, (label, _) in names.items()}
    return Emoji(
        hexcode=line["hexcode"],
        group=line["group"],
        subgroup=line["subgroup"],
        base=base,
        skin_tones=tuple(SKIN_TONES[tone] for tone in line.get("tones", ())),
        names=names,
    )
