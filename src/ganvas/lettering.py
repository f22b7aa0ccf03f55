"""Text on images: fonts that have the characters, wrapping, ellipses.

Pillow carries a font of its own, which knows ASCII and little more. A text that needs other characters is
drawn with the first system font that has them all, so that one text keeps one look; what no font has is
drawn without its accents, or as an empty box.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageDraw, ImageFont

MAX_CHARACTERS = 2_000
"""A longer text is cut before it is measured: nothing near it fits on an image."""

ELLIPSIS = "..."

SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "SourceHanSans-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "seguisym.ttf",
    "Apple Symbols.ttf",
    "Symbola.ttf",
    "unifont.otf",
)
"""Asked for by name, in this order; Pillow knows where each platform keeps its fonts."""

_NO_CHARACTER = "\U0010ffff"
_IDEOGRAPHS = (
    "\u2e80-\u303f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_PIECES = re.compile(rf"\s+|[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")


def clean(text: str) -> str:
    """``text`` on one line, without what has no picture of its own: controls, joiners, lone surrogates."""
    kept = []
    for character in text[:MAX_CHARACTERS]:
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\ufffd")
        elif category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category != "Cf" and not "\ufe00" <= character <= "\ufe0f":
            kept.append(character)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


class _Face:
    """One font at one size, which can say whether it has a character."""

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self.font = font
        self._missing = self._outline(_NO_CHARACTER)
        self._known: dict[str, bool] = {" ": True}

    def _outline(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self.font.getmask(character)
        return mask.size, bytes(mask)

    def has(self, character: str) -> bool:
        if character not in self._known:
            self._known[character] = self._outline(character) != self._missing
        return self._known[character]


@lru_cache(maxsize=8)
def _own_face(size: int) -> _Face:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return _Face(font)


@lru_cache(maxsize=8)
def _system_faces(size: int) -> tuple[_Face, ...]:
    faces = (_open_face(name, size) for name in SYSTEM_FONTS)
    return tuple(face for face in faces if face is not None)


def _open_face(name: str, size: int) -> _Face | None:
    try:
        return _Face(ImageFont.truetype(name, size))
    except OSError:  # not on this machine, or a bitmap font without this size
        return None


def _choose(text: str, size: int) -> tuple[_Face, tuple[_Face, ...]]:
    """The face for ``text`` as a whole, and the faces that may help out where it lacks a character."""
    own = _own_face(size)
    characters = set(text)
    if all(map(own.has, characters)):
        return own, ()
    faces = (own, *_system_faces(size))
    # max() keeps the first of equals, so a face earlier in the list wins.
    return max(faces, key=lambda face: sum(map(face.has, characters))), faces


@dataclass(frozen=True)
class _Run:
    face: _Face
    text: str

    @property
    def width(self) -> float:
        return self.face.font.getlength(self.text)


@lru_cache(maxsize=4096)
def _runs(text: str, size: int) -> tuple[_Run, ...]:
    """``text`` cut where the face has to change."""
    main, others = _choose(text, size)
    runs: list[_Run] = []
    for character in text:
        face, drawn = _face_for(character, main, others)
        if runs and runs[-1].face is face:
            runs[-1] = _Run(face, runs[-1].text + drawn)
        else:
            runs.append(_Run(face, drawn))
    return tuple(runs)


def _face_for(character: str, main: _Face, others: tuple[_Face, ...]) -> tuple[_Face, str]:
    if not others or main.has(character):
        return main, character
    for face in others:
        if face.has(character):
            return face, character
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if main.has(c))
    return main, plain or character


@dataclass(frozen=True)
class Lettering:
    """Text of one size: measure it, wrap it, draw it.

    Any string is accepted, in any script; none raises.
    """

    size: int
    """Of the font, pixels."""

    @property
    def ascent(self) -> int:
        """From the top of a line to its baseline, pixels."""
        return round(self.size * 1.05)

    @property
    def line_height(self) -> int:
        """From one line's top to the next one's, pixels."""
        return round(self.size * 1.4)

    def width(self, line: str) -> float:
        """The width of one clean line, pixels."""
        return sum(run.width for run in _runs(line, self.size))

    def wrap(self, text: str, width: float, max_lines: int) -> list[str]:
        """``text`` as at most ``max_lines`` lines no wider than ``width`` pixels, ellipsised if it is longer.

        Lines break between words and between ideographs; a word wider than a line breaks anywhere.
        """
        lines: list[str] = []
        current = ""
        for piece in self._pieces(clean(text), width):
            if self.width((current + piece).rstrip()) <= width:
                current += piece
                continue
            if current.strip():
                lines.append(current.strip())
            current = piece.lstrip()
            if len(lines) > max_lines:
                break
        if current.strip():
            lines.append(current.strip())
        if len(lines) > max_lines:
            lines = lines[:max_lines]
            if lines:
                lines[-1] = self._ellipsise(lines[-1], width)
        return lines

    def _pieces(self, text: str, width: float) -> list[str]:
        pieces: list[str] = []
        for piece in _PIECES.findall(text):
            fits = self.width(piece) <= width
            pieces.extend([piece] if fits else _characters(piece))
        return pieces

    def _ellipsise(self, line: str, width: float) -> str:
        """``line`` cut between words to make room; inside a word only where more than half would go."""
        most = len(line)
        while most and self.width(line[:most] + ELLIPSIS) > width:
            most -= 1
        space = line.rfind(" ", 0, most + 1) if most < len(line) else -1
        return line[: space if space > most // 2 else most].rstrip(" ,.;:") + ELLIPSIS

    def draw(self, on: ImageDraw.ImageDraw, place: tuple[float, float], line: str, fill: str) -> None:
        """Draw one clean line with its upper left corner at ``place``."""
        x, y = place
        for run in _runs(line, self.size):
            on.text((x, y + self.ascent), run.text, fill=fill, font=run.face.font, anchor="ls")
            x += run.width


def _characters(piece: str) -> list[str]:
    """``piece`` cut into characters, each with the combining marks that belong to it."""
    characters: list[str] = []
    for character in piece:
        if characters and unicodedata.combining(character):
            characters[-1] += character
        else:
            characters.append(character)
    return characters
