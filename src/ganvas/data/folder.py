"""Captioned images that somebody has in a folder, with a table of captions or a text file for each."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ganvas.data.captions import UNCAPTIONED
from ganvas.data.listing import TABLES, Listing, kinds, printable, walk
from ganvas.data.pixels import Fit
from ganvas.data.rows import Unreadable, is_text, read_rows
from ganvas.data.source import (
    LeftOut,
    PhotoSource,
    Rejected,
    Request,
    chosen_options,
    listing_digest,
    source_folder,
)
from ganvas.data.splits import SHARES, SPLIT_NAMES, hash_rule, with_training
from ganvas.data.store import Record, holds_store
from ganvas.errors import GanvasError

CAPTION_COLUMNS = ("text", "caption", "captions")
LABEL_COLUMNS = ("label", "class")
MAX_CAPTION_FILE_BYTES = 1_000_000


@dataclass(slots=True)
class _Found:
    """What the rows of tables, or a caption file, say of one image."""

    captions: list[str]
    split: str | None = None
    label: str | None = None


@dataclass
class _Gathered:
    """What was read so far."""

    images: dict[str, _Found] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Images of which a row was left out."""
    columns: dict[str, None] = field(default_factory=dict)
    """Of all tables."""


class FolderSource(PhotoSource):
    """A folder of images with captions, in one of two conventions.

    - A table ``metadata.jsonl``, ``.csv`` or ``.parquet`` with the columns ``file_name`` (relative to the
      table) and ``text``, as Hugging Face's image folders have it. Several captions of an image are a list,
      or several rows. The columns ``split`` and ``label`` are optional. A table speaks for its folder and
      those below it, and a deeper one for its own.
    - ``NAME.txt`` beside ``NAME.jpg``, one caption a line, wherever no table speaks.

    A folder on the way called ``train``, ``val``, ``validation`` or ``test`` names the split; the column
    comes before it. Where some images name a split and others do not, ``hash_rule`` splits the others; where
    all say the same, it splits them all.

    An image's id is its path without the extension, unless another image differs in that alone.

    Its options are ``text`` and ``label``, columns of the table, ``val`` and ``test``, percent, and
    ``captions``: ``none`` takes all images, for systems that read no captions; tables and caption files are
    then not read.

    Raises:
        GanvasError: no such folder, no captions in it, or a wrong option.
    """

    name = "folder"
    licence = "that of the images"

    def __init__(self, request: Request) -> None:
        self.options = chosen_options(
            self.name, request.options, {"text": "", "label": "", "captions": "read", **SHARES}
        )
        hash_rule(self.options, self.name)
        self._uncaptioned = _without_captions(self.options)
        self.root = source_folder(request, self.name, "images and their captions")
        self.fit = request.fit or Fit()
        if holds_store(self.root):
            raise GanvasError(f"{self.root}: is prepared already; train on it with --data {self.root}")
        listing = walk(self.root)
        if self._uncaptioned:
            listing.tables, listing.texts = {}, {}
            usable = bool(listing.images)
        else:
            usable = bool(listing.tables) or any(_bare(path) in listing.texts for path in listing.images)
        if not usable:
            raise GanvasError(f"{self.root}: {_nothing_here(listing, captioned=not self._uncaptioned)}")
        for option in ("text", "label"):
            if self.options[option] and not listing.tables:
                raise GanvasError(
                    f"{self.root}: option {option} names a column, but there is no {TABLES[0]} or the like"
                )
        self.about = _about(self.root, listing, captioned=not self._uncaptioned)
        self._listing: Listing | None = listing

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_listing": None}  # a worker is told which images to load

    def records(self) -> list[Record | LeftOut]:
        """What was left out, and every captioned image in the order of the ids."""
        listing = self._listing or walk(self.root)
        left_out = list(listing.left_out)
        if self._uncaptioned:
            every = {path: _Found([UNCAPTIONED], _split_of_folders(path)) for path in listing.images}
            return [*left_out, *self._records(every, _identities(every))]
        gathered = _Gathered()
        for table in listing.tables.values():
            left_out += self._read_table(table, listing, gathered)
        if self.options["label"]:
            _check_column(self.root, (self.options["label"],), gathered.columns)
        names = _identities({*listing.images, *gathered.images})
        left_out += self._read_texts(listing, gathered, names)
        found = {path: image for path, image in gathered.images.items() if image.captions}
        bare = sorted(gathered.images.keys() - found.keys())
        left_out += [LeftOut(names[path], "has no caption") for path in bare]
        return [*left_out, *self._records(found, names)]

    def _read_table(self, table: str, listing: Listing, gathered: _Gathered) -> Iterator[LeftOut]:
        """Gather what the rows of a table say; those that say nothing of use come out."""
        text, label = self.options["text"], self.options["label"]
        of_text = (text,) if text else CAPTION_COLUMNS
        of_label = (label,) if label else LABEL_COLUMNS
        wanted = {"file_name", "split", *of_text, *of_label}
        seen: dict[str, None] = {}
        problem = "it is empty"
        for where, cells in read_rows(self.root / table, wanted, seen):
            if isinstance(cells, str):
                problem = f"{where} {cells}"
                yield LeftOut(f"{table} {where}", cells)
                continue
            name, path = cells.get("file_name"), None
            try:
                path = _file(name, table, listing)
                row = _Found(
                    captions=_captions(cells, of_text),
                    split=_split(cells.get("split")) or _split_of_folders(path),
                    label=_label(cells, of_label),
                )
                _merge(gathered.images, path, row)
            except Rejected as reason:
                if path is not None:
                    gathered.refused.add(path)
                named = name if isinstance(name, str) and name else f"{table} {where}"
                yield LeftOut(printable(named), str(reason))
        if not seen:
            raise GanvasError(f"{self.root / table}: holds no rows ({problem})")
        _check_column(self.root / table, ("file_name",), seen)
        _check_column(self.root / table, of_text, seen)
        gathered.columns.update(seen)

    def _read_texts(self, listing: Listing, gathered: _Gathered, names: dict[str, str]) -> Iterator[LeftOut]:
        """Gather the captions of text files, where no table speaks for the image."""
        for path in listing.images:
            if path in gathered.images or path in gathered.refused:
                continue
            text = listing.texts.get(_bare(path))
            if table := listing.governing(path):
                instead = ", which is read instead of its caption file" if text else ""
                yield LeftOut(names[path], f"has no row of use in {table}{instead}")
            elif text is None:
                yield LeftOut(names[path], "has no caption file beside it")
            else:
                try:
                    captions = _read_captions(self.root / text)
                    gathered.images[path] = _Found(captions, _split_of_folders(path))
                except Rejected as reason:
                    yield LeftOut(names[path], f"its caption file {reason}")
        with_image = {_bare(path) for path in listing.images}
        for bare, text in listing.texts.items():
            if bare not in with_image and not listing.governing(text):
                yield LeftOut(text, "is a caption file without an image")

    def _records(self, found: dict[str, _Found], names: dict[str, str]) -> list[Record]:
        """Records in the order of their ids, each with a split."""
        keys = {path: _composed(_bare(path)) for path in found}  # another a.png does not move a.jpg
        if len({image.split for image in found.values()}) == 1:
            for image in found.values():
                image.split = None
        unsplit = (keys[path] for path, image in found.items() if image.split is None)
        rule = with_training(hash_rule(self.options, self.name), unsplit)
        return [
            Record(
                id=names[path],
                split=found[path].split or rule(keys[path]),
                captions=tuple(found[path].captions),
                label=found[path].label,
                image=path,
            )
            for path in sorted(found, key=lambda path: (names[path], path))
        ]


def _without_captions(options: Mapping[str, str]) -> bool:
    """Whether the images are taken without captions.

    Raises:
        GanvasError: the options contradict each other.
    """
    captions = options["captions"]
    if captions not in ("read", "none"):
        raise GanvasError(f"data set 'folder': option captions: should be read or none, not {captions!r}")
    for option in ("text", "label"):
        if captions == "none" and options[option]:
            raise GanvasError(
                f"data set 'folder': option {option} names a column of a table, but with captions=none tables"
                " are not read; leave one of them out"
            )
    return captions == "none"


def _file(name: object, table: str, listing: Listing) -> str:
    """The image file that a row names, relative to the folder.

    Raises:
        Rejected: it names none, or none that may be read.
    """
    if name is None or name == "":
        raise Rejected("file_name is empty")
    if not isinstance(name, str):
        raise Rejected(f"file_name is {_kind(name)}, not text")
    if not is_text(name):
        raise Rejected("file_name is not UTF-8")
    if re.match(r"[/\\]|[A-Za-z]:[/\\]", name):
        raise Rejected("file_name is an absolute path; it must be relative to the table")
    if ".." in re.split(r"[/\\]", name):
        raise Rejected("file_name leads out of the folder ('..')")
    given = posixpath.normpath(posixpath.join(posixpath.dirname(table), name))
    for path in (given, given.replace("\\", "/")):  # as written on Windows
        if (file := listing.find(path)) is not None:
            return file
    if listing.behind_link(given):
        raise Rejected("file_name leads through a link that is not followed")
    if any(part.startswith(".") for part in given.split("/")):
        raise Rejected("hidden files are not read")
    raise Rejected("no such image file")


def _captions(cells: Mapping[str, object], columns: Iterable[str]) -> list[str]:
    """What the first of ``columns`` that the row has holds: one caption, several, or none."""
    column = next((column for column in columns if column in cells), "")
    value = cells.get(column)
    if value is None or value == "":
        return []
    captions = []
    for caption in value if isinstance(value, list) else [value]:
        if not isinstance(caption, str):
            raise Rejected(f"'{column}' is or holds {_kind(caption)}, not text")
        if not is_text(caption):
            raise Rejected(f"'{column}' is not UTF-8")
        captions.append(caption)
    return captions


def _split(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and (split := SPLIT_NAMES.get(value.strip().lower())):
        return split
    said = f"'{printable(value)}'" if isinstance(value, str) else _kind(value)
    raise Rejected(f"split is {said}, not train, val or test")


def _split_of_folders(path: str) -> str | None:
    """The split that the outermost of the folders names."""
    folders = posixpath.dirname(path).lower().split("/")
    return next((SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES), None)


def _label(cells: Mapping[str, object], columns: Iterable[str]) -> str | None:
    column = next((column for column in columns if column in cells), "")
    value = cells.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with a gap elsewhere makes 3 a 3.0
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Rejected(f"'{column}' is {_kind(value)}, not text")
    if not is_text(str(value)):
        raise Rejected(f"'{column}' is not UTF-8")
    return str(value)


def _merge(found: dict[str, _Found], path: str, row: _Found) -> None:
    """Add a row to what is known of its image.

    Raises:
        Rejected: they contradict each other.
    """
    known = found.setdefault(path, row)
    if known is row:
        return
    for what, old, new in (("split", known.split, row.split), ("label", known.label, row.label)):
        if old and new and old != new:
            raise Rejected(f"another row gave this image the {what} '{old}', this one '{new}'")
    known.split = known.split or row.split
    known.label = known.label or row.label
    known.captions += row.captions


def _kind(value: object) -> str:
    known = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    if value is None:
        return "empty"
    return "unreadable" if isinstance(value, Unreadable) else known.get(type(value), type(value).__name__)


def _read_captions(path: Path) -> list[str]:
    """One caption a line.

    Raises:
        Rejected: there is none, or the file is not what it should be.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CAPTION_FILE_BYTES + 1)
        if len(raw) > MAX_CAPTION_FILE_BYTES:
            raise Rejected(f"has more than {MAX_CAPTION_FILE_BYTES:,} bytes")
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise Rejected(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Rejected("is not UTF-8") from None
    captions = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    if not any(captions):
        raise Rejected("is empty")
    return [caption for caption in captions if caption]


def _check_column(table: Path, wanted: tuple[str, ...], seen: Iterable[str]) -> None:
    """Of the columns ``wanted``, one must have been seen in the table."""
    if not set(wanted) & set(seen):
        there = ", ".join(printable(column) for column in islice(seen, 20))
        names = "' or '".join(wanted)
        raise GanvasError(f"{table}: no column '{names}'; its columns are: {there}")


def _bare(path: str) -> str:
    """A path without its extension."""
    return posixpath.splitext(path)[0]


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _identities(paths: Iterable[str]) -> dict[str, str]:
    """The id of each image."""
    paths = list(paths)
    frequency = Counter(map(_bare, paths))
    return {path: _composed(path if frequency[_bare(path)] > 1 else _bare(path)) for path in paths}


def _about(root: Path, listing: Listing, *, captioned: bool) -> str:
    texts = [
        text for text in listing.texts.values() if (root / text).stat().st_size <= MAX_CAPTION_FILE_BYTES
    ]
    tables = listing.tables.values()
    digest = listing_digest(
        root,
        [*listing.images, *tables, *listing.texts.values()],
        [root / path for path in [*tables, *texts]],
    )
    what = "image files and their captions" if captioned else "image files without captions"
    return f"{len(listing.images):,} {what}; listing {digest}"


def _nothing_here(listing: Listing, *, captioned: bool) -> str:
    """The error of a folder without what was looked for: what that was, and what lies there instead."""
    others = listing.files - set(listing.images)
    found = []
    if listing.images:
        found.append(f"{len(listing.images):,} images ({kinds(listing.images)})")
    if others:
        found.append(f"{len(others):,} other files ({kinds(others)})")
    if listing.left_out:
        found.append(f"{len(listing.left_out):,} that cannot be read, such as {listing.left_out[0].id}")
    there = " and ".join(found) or "nothing"
    if not captioned:
        return f"no images: looked here and in sub-folders; found {there}"
    tables = f"{', '.join(TABLES[:-1])} or {TABLES[-1]}"
    anyway = "; systems that read no captions take them with --option captions=none" if listing.images else ""
    return (
        f"no captions: looked for {tables}, and for NAME.txt beside NAME.jpg, here and in sub-folders;"
        f" found {there}{anyway}"
    )
