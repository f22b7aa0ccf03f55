"""The files below a folder that have to do with captioned images, found in one walk."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ganvas.data.rows import is_text
from ganvas.data.source import LeftOut
from ganvas.data.store import holds_store
from ganvas.errors import GanvasError

IMAGE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""What files of ``pixels.FORMATS`` are called, in lower case."""
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Tables of captions; of several in one folder, the first is read."""


@dataclass
class Listing:
    """Paths relative to the folder, in the same order on every machine."""

    images: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    """By the folder that they lie in."""
    texts: dict[str, str] = field(default_factory=dict)
    """Caption files, by their path without the extension."""
    files: set[str] = field(default_factory=set)
    """All that can be read, whatever they are called."""
    links: set[str] = field(default_factory=set)
    """Those that are not followed."""
    left_out: list[LeftOut] = field(default_factory=list)
    _composed: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> str | None:
        """The file that a table means by ``path``; macOS writes an accent as a character of its own."""
        return path if path in self.files else self._composed.get(unicodedata.normalize("NFC", path))

    def governing(self, path: str) -> str | None:
        """The table that speaks for the file at ``path``: the one that lies nearest above it."""
        folder = posixpath.dirname(path)
        while folder and folder not in self.tables:
            folder = posixpath.dirname(folder)
        return self.tables.get(folder)

    def behind_link(self, path: str) -> bool:
        """Whether ``path`` is a link that is not followed, or leads through one."""
        while path and path not in self.links:
            path = posixpath.dirname(path)
        return bool(path)

    def _add(self, path: str) -> None:
        self.files.add(path)
        if not path.isascii():
            self._composed[unicodedata.normalize("NFC", path)] = path
        folder, name = posixpath.split(path)
        stem, suffix = posixpath.splitext(path)
        if suffix.lower() in IMAGE_SUFFIXES:
            self.images.append(path)
        elif suffix.lower() == ".txt":
            self.texts[stem] = min(path, self.texts.get(stem, path))
        elif name in TABLES:
            rival = self.tables.get(folder, path)
            first, *others = sorted({path, rival}, key=lambda each: TABLES.index(posixpath.basename(each)))
            self.tables[folder] = first
            self.left_out += [LeftOut(other, "another table lies beside it, and is read") for other in others]


def walk(root: Path) -> Listing:
    """List the files below ``root``, except hidden ones, links out of it or to folders, and prepared stores.

    Raises:
        GanvasError: ``root`` cannot be read.
    """
    listing = Listing()
    inside = os.path.realpath(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        if folder and holds_store(root / folder):
            continue
        try:
            with os.scandir(root / folder) as entries:
                folders += [path for entry in entries if (path := _enter(entry, folder, inside, listing))]
        except OSError as error:
            if not folder:
                raise GanvasError(f"{root}: cannot be read ({error.strerror})") from None
            listing.left_out.append(LeftOut(folder, f"this folder cannot be read ({error.strerror})"))
    listing.images.sort()
    listing.tables = dict(sorted(listing.tables.items()))
    listing.texts = dict(sorted(listing.texts.items()))
    listing.left_out.sort(key=lambda each: each.id)
    return listing


def _enter(entry: os.DirEntry[str], folder: str, inside: str, listing: Listing) -> str | None:
    """Note a file; the path of a folder is returned, to be walked later."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return None
    path = f"{folder}/{entry.name}" if folder else entry.name
    if not is_text(entry.name):
        listing.left_out.append(LeftOut(printable(path), "its name is not UTF-8"))
    elif entry.is_symlink() and (problem := _problem_of_link(entry.path, inside)):
        listing.links.add(path)
        listing.left_out.append(LeftOut(path, problem))
    elif entry.is_dir():
        return path
    elif entry.is_file():
        listing._add(path)
    return None


def _problem_of_link(link: str, inside: str) -> str | None:
    target = os.path.realpath(link)
    if os.path.commonpath([target, inside]) != inside:
        return "is a link that leads out of the folder"
    if not os.path.exists(target):  # noqa: PTH110  # strings all along
        return "is a link to nothing"
    if os.path.isdir(target):  # noqa: PTH112
        return "is a link to a folder, which is not followed"
    return None


def printable(text: str) -> str:
    """``text`` as a table can hold it, and not too long."""
    return text[:200].encode(errors="backslashreplace").decode()


def kinds(paths: Iterable[str]) -> str:
    """What files there are, by extension, for an error: ``.zip 2, .json 1``."""
    found = Counter(posixpath.splitext(path)[1].lower() or "without extension" for path in paths)
    return ", ".join(f"{printable(suffix)} {number:,}" for suffix, number in found.most_common(4))
