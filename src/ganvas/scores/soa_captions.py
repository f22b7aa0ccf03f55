"""The captions of semantic object accuracy: for each of COCO's categories, those that name it.

Two layouts are read: one JSON file (``.json`` or ``.json.gz``) of ``{"01_bicycle": [{"image_id", "id",
"caption"}]}``, and the official folder of ``label_01_bicycle.pkl`` and so on. The number is the place among
the 80 categories of COCO; what follows it does not matter.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ganvas.data.pickles import load_pickle
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.scores.detectors import COCO_CATEGORIES
from ganvas.text.tokenizer import check_caption

_MAX_FILE_BYTES = 200_000_000
_MAX_TEXT_BYTES = 500_000_000
_MAX_CAPTIONS = 2_000_000
_MAX_ID = 1 << 53
_KEY = re.compile(r"(?:label_)?(\d\d)_\w+", re.ASCII)
_PEOPLE = re.compile(
    r"\b(person|people|man|men|woman|women|boys?|girls?|child|children|kids?|baby|babies|guys?|lady|ladies)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ListedCaption:
    """A caption that names a category."""

    image_id: int
    """Of the image that it describes."""
    id: int
    """Of the caption."""
    caption: str


@dataclass(frozen=True)
class CaptionLists:
    """Captions by category."""

    captions: Mapping[str, tuple[ListedCaption, ...]]
    """In the order of the categories; one without captions is missing."""
    people: str | None
    """Where the captions of ``person`` come from: ``listed``, or ``words of a store``; None where there are
    none."""

    @property
    def digest(self) -> str:
        """SHA-256 of all captions, the same in whichever layout they were read."""
        digest = hashlib.sha256()
        for name, listed in self.captions.items():
            rows = [[one.image_id, one.id, one.caption] for one in listed]
            digest.update(json.dumps([name, rows]).encode())
        return digest.hexdigest()


def read_caption_lists(path: Path) -> CaptionLists:
    """The lists of a JSON file, or of the official folder.

    Args:
        path: ``.json``, ``.json.gz``, or a folder with ``label_*.pkl``.

    Raises:
        GanvasError: it is none of these, too large, or damaged; the line says where.
    """
    if path.is_dir():
        files = sorted(path.glob("label_*.pkl"))
        if not files:
            raise GanvasError(
                f"{path}: no caption lists here; looked for label_*.pkl, as in label_01_bicycle.pkl"
            )
        if len(files) > len(COCO_CATEGORIES):
            raise GanvasError(f"{path}: {len(files)} files label_*.pkl, more than categories of COCO")
        return _checked(((file.stem, load_pickle(file)) for file in files), path)
    content = _read(path)
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise GanvasError(
            f"{path}: is no JSON of caption lists ({' '.join(str(error).split())[:100]})"
        ) from None
    if not isinstance(tree, dict) or not tree:
        raise GanvasError(f'{path}: should hold {{"01_bicycle": [captions], ...}}')
    return _checked(tree.items(), path)


def with_people(lists: CaptionLists, store: Store, split: str) -> CaptionLists:
    """``lists`` with captions of a split that speak of people, for lists without ``person``.

    The official list is another choice, so scores of the two are not comparable, and their protocols differ.

    Args:
        lists: those of the other categories.
        store: prepared COCO.
        split: of it.

    Raises:
        GanvasError: ``lists`` has captions of ``person`` already, or no caption speaks of people.
    """
    if COCO_CATEGORIES[0] in lists.captions:
        raise GanvasError("the caption lists have captions of 'person' already")
    found: list[ListedCaption] = []
    for row in store.rows(split).tolist():
        name = store.ids[row]
        image = int(name) if name.isascii() and name.isdecimal() else row
        found += [
            ListedCaption(image, number, caption)
            for number, caption in enumerate(store.captions[row])
            if _PEOPLE.search(caption)
        ]
    if not found:
        raise GanvasError(f"{store.path}: no caption of split '{split}' speaks of people")
    return CaptionLists({COCO_CATEGORIES[0]: tuple(found), **lists.captions}, "words of a store")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise GanvasError(
                f"{path}: more than {_MAX_FILE_BYTES:,} bytes, so it is no file of caption lists"
            )
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            content = stream.read(_MAX_TEXT_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise GanvasError(f"{path}: cannot be unpacked ({error}); copy it again") from None
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > _MAX_TEXT_BYTES:
        raise GanvasError(f"{path}: unpacks to more than {_MAX_TEXT_BYTES:,} bytes; it is refused")
    return content


def _checked(lists: Iterable[tuple[str, object]], path: Path) -> CaptionLists:
    captions: dict[str, tuple[ListedCaption, ...]] = {}
    num = 0
    for key, entries in lists:
        match = _KEY.fullmatch(key)
        if match is None or int(match[1]) >= len(COCO_CATEGORIES):
            raise GanvasError(
                f"{path}: '{key[:40]}' names no category; it should be as in 01_bicycle, 00 to 79"
            )
        name = COCO_CATEGORIES[int(match[1])]
        if name in captions:
            raise GanvasError(f"{path}: two lists for category {match[1]} ({name})")
        if not isinstance(entries, list) or not entries:
            raise GanvasError(f"{path}: '{key}' should be a list of captions")
        num += len(entries)
        if num > _MAX_CAPTIONS:
            raise GanvasError(f"{path}: more than {_MAX_CAPTIONS:,} captions; it is refused")
        captions[name] = tuple(
            _caption(entry, f"{path}: '{key}', caption {number}") for number, entry in enumerate(entries)
        )
    ordered = {name: captions[name] for name in COCO_CATEGORIES if name in captions}
    return CaptionLists(ordered, "listed" if COCO_CATEGORIES[0] in ordered else None)


def _caption(entry: object, where: str) -> ListedCaption:
    if not isinstance(entry, dict):
        raise GanvasError(f"{where}: should have image_id, id and caption")
    image_id, number = entry.get("image_id"), entry.get("id")
    if not (_is_id(image_id) and _is_id(number)):
        raise GanvasError(f"{where}: image_id and id should be whole numbers")
    return ListedCaption(image_id, number, check_caption(entry.get("caption"), where))


def _is_id(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_ID
