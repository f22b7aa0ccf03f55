"""CUB-200-2011: birds of 200 species, each with a bounding box and ten captions."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganvas.data.caption_vectors import write_sentences
from ganvas.data.listing import printable, walk
from ganvas.data.pictures import inside
from ganvas.data.pixels import Box, Fit
from ganvas.data.reed import (
    below,
    find_captions,
    read_class_lists,
    read_list,
    read_names,
    split_digests,
    write_vocabulary,
)
from ganvas.data.source import (
    LeftOut,
    PhotoSource,
    Rejected,
    Request,
    chosen_options,
    listing_digest,
    source_folder,
)
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean

# fmt: off
TEST_CLASSES = frozenset((
    1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86,
    91, 95, 96, 98, 101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180,
    183, 185, 186, 187, 197,
))
# fmt: on
"""The 50 classes that are for testing, by their numbers; those of AttnGAN's ``test/filenames.pickle``."""

_CLASS_FOLDER = r"[0-9]{3}\..+"
_MAX_SIDE = 1e6
_SPLITS = ("classes", "official")


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The lists of the official folder, by the number of the image; None for a list that is not there."""

    images: dict[int, str]
    boxes: dict[int, str] | None
    labels: dict[int, str] | None
    classes: dict[int, str] | None
    official: dict[int, str] | None
    left_out: list[LeftOut]


class CubSource(PhotoSource):
    """CUB-200-2011 with Reed's captions, in one of two layouts.

    - The official folder (``images``, ``images.txt``, ``bounding_boxes.txt``, ...), or one that holds it as
      ``CUB_200_2011``. The captions lie in it or beside it: ``text_c10/CLASS/IMAGE.txt``, or ``text`` instead
      of ``text_c10``.
    - The folder ``birds`` of StackGAN and AttnGAN: ``CUB_200_2011`` beside ``train`` and ``test`` with their
      pickles. The captions are those of ``captions.pickle``, where it is there: words in lower case, without
      punctuation. The store then has a ``vocabulary.json``, a JSON object of each word's index, which
      released text encoders need (0 is ``<end>``, the padding). From ``char-CNN-RNN-embeddings.pickle`` it
      has a ``sentences.npy``: a row for each caption of the store.

    Images are cropped around the bounding box, then the middle square is kept. A record's id is
    ``001.Black_footed_Albatross/Black_Footed_Albatross_0046_18``, its label ``Black footed Albatross``, and
    its attribute ``class_number`` ``1``.

    Its options:

    - ``split``: ``classes`` (150 classes to train on, 50 others to test on: 8,855 and 2,933 images) as
      ``filenames.pickle`` says, else ``trainvalclasses.txt`` and ``testclasses.txt`` beside the captions,
      else a list that Ganvas knows. Or ``official``: ``train_test_split.txt``, where every class is in both,
      so that scores are not those of the papers.
    - ``captions``: the folder of the caption files, or a ``captions.pickle``.

    Raises:
        GanvasError: no such folder, no captions, or a wrong option.
    """

    name = "cub"
    licence = "images of their photographers, for non-commercial research and education"

    def __init__(self, request: Request) -> None:
        options = chosen_options(self.name, request.options, {"split": "classes", "captions": ""})
        if options["split"] not in _SPLITS:
            raise GanvasError(
                f"data set 'cub': no split '{options['split']}'; {did_you_mean(options['split'], _SPLITS)}"
            )
        self.options = {"split": options["split"]}  # where the captions lie does not change them
        self.fit = request.fit or Fit(box=True)
        place = source_folder(request, self.name, "images.txt and images, or with CUB_200_2011")
        self.root = _home(place, self._needed())
        folders = list(dict.fromkeys((place, self.root, self.root.parent)))
        self._pickles = next((f for f in folders if (f / "train" / "filenames.pickle").is_file()), None)
        self._names = read_names(self._pickles) if self._pickles else None
        captions = find_captions(options["captions"], folders, _CLASS_FOLDER)
        if captions is None:
            raise GanvasError(
                f"{place}: no captions; looked for captions.pickle, and for text_c10 and text with a folder"
                " for each class, here and beside the images; the option captions=FOLDER says where they are"
            )
        self._captions = captions
        self._listing = walk(self.root / "images")
        self._classes = read_class_lists([*captions.beside(), *folders])
        self.about = self._about()

    def __getstate__(self) -> dict[str, object]:
        # a worker is told which images to load
        return {**self.__dict__, "_names": None, "_captions": None, "_listing": None}

    def _needed(self) -> tuple[str, ...]:
        boxes = ("bounding_boxes.txt",) if self.fit.box else ()
        official = ("train_test_split.txt",) if self.options["split"] == "official" else ()
        return ("images", "images.txt", *boxes, *official)

    def _about(self) -> str:
        lists = [path for name in _LISTS if (path := self.root / name).is_file()]
        images = [f"images/{path}" for path in self._listing.images]
        parts = [f"lists {listing_digest(self.root, images, lists)}"]
        parts.append(f"captions of {self._captions.about} {self._captions.digest()}")
        if self.options["split"] == "classes":
            parts += split_digests(self._pickles, self._classes)
        return f"CUB-200-2011 ({', '.join(parts)})"

    def records(self) -> list[Record | LeftOut]:
        """Every image of ``images.txt``, in its order; then what lies there without being listed."""
        tables = _read_tables(self.root)
        found: list[Record | LeftOut] = [*tables.left_out, *below("images", self._listing)]
        splits = {name: split for split, names in (self._names or {}).items() for name in names}
        listed: dict[str, str] = {}
        for number, name in tables.images.items():
            identity = posixpath.splitext(name)[0]
            try:
                if identity in listed:
                    raise Rejected("is listed twice in images.txt")
                listed[identity] = name
                found.append(self._record(number, name, identity, tables, splits))
            except Rejected as reason:
                found.append(LeftOut(printable(identity), str(reason)))
        unlisted = sorted({*self._listing.images} - {*listed.values()})
        found += [LeftOut(f"images/{path}", "is not listed in images.txt") for path in unlisted]
        return [*found, *self._captions.unused(listed)]

    def _record(
        self, number: int, name: str, identity: str, tables: _Tables, splits: Mapping[str, str]
    ) -> Record:
        if inside(name) != name:
            raise Rejected("its name leads out of the folder, or is none")
        if self._listing.behind_link(name):
            raise Rejected("is a link that is not followed")
        species = _class_of(number, name, tables)
        return Record(
            id=identity,
            split=self._split(number, identity, species, tables, splits),
            captions=self._captions.of(identity),
            label=species.partition(".")[2].replace("_", " ") or species,
            attributes={"class_number": str(int(species[:3]))} if re.match(r"[0-9]{3}\.", species) else {},
            image=f"images/{name}",
            box=_box(number, tables) if self.fit.box else None,
        )

    def _split(
        self, number: int, identity: str, species: str, tables: _Tables, splits: Mapping[str, str]
    ) -> str:
        if self.options["split"] == "official":
            flag = (tables.official or {}).get(number)
            if flag not in ("0", "1"):
                raise Rejected("is not in train_test_split.txt")
            return "train" if flag == "1" else "test"
        if splits:
            if identity not in splits:
                raise Rejected("is neither in train/filenames.pickle nor in test/filenames.pickle")
            return splits[identity]
        if self._classes:
            return self._classes.split(species)
        if not re.match(r"[0-9]{3}\.", species):
            raise Rejected("the name of its class begins with no number")
        return "test" if int(species[:3]) in TEST_CLASSES else "train"

    def write_extras(self, folder: Path, ids: Sequence[str]) -> None:
        """Write ``vocabulary.json`` and ``sentences.npy``, where the pickles have them."""
        write_vocabulary(self._captions, folder)
        if self._pickles:
            write_sentences(self._pickles, self._names, self._captions.of, folder)


_LISTS = ("images.txt", "bounding_boxes.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")


def _home(place: Path, needed: Sequence[str]) -> Path:
    """The folder of the official lists: the place itself, or one in it.

    Raises:
        GanvasError: neither has them.
    """
    folders = [place, place / "CUB_200_2011", place / "CUB_200_2011" / "CUB_200_2011"]
    missing = {folder: [name for name in needed if not (folder / name).exists()] for folder in folders}
    home = min(folders, key=lambda folder: len(missing[folder]))
    if missing[home]:
        there = f"; {home} lacks {', '.join(missing[home])}" if len(missing[home]) < len(needed) else ""
        raise GanvasError(
            f"{place}: no CUB-200-2011; looked for {', '.join(needed)}, here and in CUB_200_2011{there}"
        )
    return home


def _read_tables(root: Path) -> _Tables:
    left_out: list[LeftOut] = []
    tables = {name: _read_table(root / name, left_out) for name in _LISTS}
    images, boxes, labels, classes, official = (tables[name] for name in _LISTS)
    return _Tables(
        images=images or {}, boxes=boxes, labels=labels, classes=classes, official=official, left_out=left_out
    )


def _read_table(path: Path, left_out: list[LeftOut]) -> dict[int, str] | None:
    """The values of a file with lines ``NUMBER VALUE``; other lines are noted."""
    if not path.is_file():
        return None
    values: dict[int, str] = {}
    for line_number, line in enumerate(read_list(path), 1):
        number, _, value = line.strip().partition(" ")
        if not line.strip():
            continue
        if not (re.fullmatch(r"[0-9]{1,9}", number) and value.strip()):
            left_out.append(LeftOut(f"{path.name}, line {line_number}", "is not a number and a value"))
        elif int(number) in values:
            left_out.append(LeftOut(f"{path.name}, line {line_number}", "has the number of an earlier line"))
        else:
            values[int(number)] = value.strip()
    return values


def _class_of(number: int, name: str, tables: _Tables) -> str:
    """The name of an image's class, such as ``001.Black_footed_Albatross``."""
    if tables.labels is None or tables.classes is None:
        return posixpath.dirname(name) or "none"
    label = tables.labels.get(number, "")
    species = tables.classes.get(int(label)) if re.fullmatch(r"[0-9]{1,9}", label) else None
    if species is None:
        raise Rejected("has no class in image_class_labels.txt and classes.txt")
    return printable(species)


def _box(number: int, tables: _Tables) -> Box:
    if number not in (tables.boxes or {}):
        raise Rejected("has no bounding box")
    numbers = (tables.boxes or {})[number].split()
    try:
        left, top, width, height = map(float, numbers)
    except ValueError:
        raise Rejected("its bounding box is not four numbers") from None
    box = (left, top, width, height)
    if not (all(abs(side) <= _MAX_SIDE for side in box) and width > 0 and height > 0):
        raise Rejected("its bounding box is empty or endless")
    return box
