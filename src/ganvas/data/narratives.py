"""Localized Narratives: spoken descriptions of images, with the mouse traces of those who spoke."""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from ganvas.data.captions import clean
from ganvas.data.pictures import folders_with_pictures, identity, inside, joined
from ganvas.data.pixels import Fit
from ganvas.data.source import LeftOut, PhotoSource, Request, chosen_options, listing_digest
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean

MAX_LINE = 16 << 20
"""A longer line, in bytes, is left out."""
TRACES = "traces.parquet"

_FOLDERS = (
    *(
        f"{above}{split}{year}"
        for year in (2017, 2014)
        for split in ("train", "val")
        for above in ("", "images/")
    ),
    *(f"{above}{split}" for split in ("train", "validation", "val", "test") for above in ("", "images/")),
    "images",
    ".",
)
"""Where pictures may lie; of two with the same id, the one in the first of these counts."""
_SETS = {"coco": "coco", "open_?images": "open_images", "flickr30k": "flickr30k", "ade20k": "ade20k"}
"""What ``dataset_id`` and the names of files contain, and what the option calls the set."""
_LINES_THAT_TELL = 100  # how many are read at most to see which set a file belongs to
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?0*(\d+)")

_POINT = pa.struct([("x", pa.float32()), ("y", pa.float32()), ("t", pa.float32())])
_TIMES = [("start_time", pa.float32()), ("end_time", pa.float32())]
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("caption", pa.int32()),
        ("timed_caption", pa.list_(pa.struct([("caption", pa.string()), *_TIMES]))),
        ("traces", pa.list_(pa.list_(_POINT))),
    ]
)
_LINE = pa.schema(  # the files call the words ``caption``, their description ``utterance``
    [
        (
            "timed_caption",
            pa.list_(pa.struct([("caption", pa.string()), ("utterance", pa.string()), *_TIMES])),
        ),
        ("traces", pa.list_(pa.list_(_POINT))),
    ]
)
_BATCH = 8 << 20  # bytes of lines that are turned into rows at a time


class Narrative(NamedTuple):
    """One line of a file."""

    image: str
    split: str
    caption: str
    line: bytes
    """All of it, as the file has it."""


class NarrativesSource(PhotoSource):
    """Images with one or more long captions each, from the JSONL files of Localized Narratives.

    The place is a folder with ``*localized_narratives*.jsonl`` (or else any ``*.jsonl``), here or in
    ``annotations``; or one such file. The pictures lie beside, in ``train2017``, ``val2017``, ``train``,
    ``validation``, ``test``, ``images`` or the like, or all in the folder itself. They are found by the id of
    the image: as the narratives have it (Open Images, Flickr30k, ADE20k), or as COCO writes it, with zeros
    in front and perhaps ``COCO_train2014_``.

    Several narratives of an image are its captions, in the order of files (by name) and lines, and are kept
    whole. The split is the one in ``dataset_id``. A line that cannot be used is left out; pictures without a
    narrative are not reported, since most of the sets narrate only some of their pictures. The store gets a
    ``traces.parquet`` (see ``read_traces``).

    Its options are ``set`` (``coco``, ``open_images``, ``flickr30k``, ``ade20k``), needed where the files of
    more than one lie in the folder, and ``images``, the folder that holds the pictures or their folders.

    Raises:
        GanvasError: no narratives, no pictures, several sets and no choice, or an option that there is not.
    """

    name = "narratives"
    licence = "CC-BY-4.0 (narratives); images under their own licences"

    def __init__(self, request: Request) -> None:
        options = chosen_options(self.name, request.options, {"set": "", "images": ""})
        self.fit = request.fit or Fit()
        if request.place is None:
            raise GanvasError(
                "data set 'narratives': say where it lies: ganvas data prepare narratives FOLDER"
            )
        place = Path(request.place).expanduser()
        self._files, chosen = _of_one_set(place, _jsonl_files(place), options["set"])
        self.options = {"set": chosen}  # and not ``images``: the same data in another place are the same data
        home = self._files[0].parent
        self.root = home.parent if home.name == "annotations" else home
        if options["images"]:
            self.root = Path(options["images"]).expanduser()
        there = folders_with_pictures(self.root, _FOLDERS)
        if not there:
            raise GanvasError(
                f"{self.root}: no pictures; looked for image files in {', '.join(_FOLDERS)};"
                " give the folder of the pictures with the option images"
            )
        pictures = (joined(folder, name) for folder, names in there.items() for name in names)
        files = [path.name for path in self._files]
        digests = f"{listing_digest(home, files)}, pictures {listing_digest(self.root, pictures)}"
        self.about = f"Localized Narratives ({', '.join(files)}; {digests})"

    def records(self) -> Iterator[Record | LeftOut]:
        """The lines that cannot be used; then every narrated image, in the order of its first narrative."""
        captions: dict[str, list[str]] = {}
        splits: dict[str, str] = {}
        for item in read_narratives(self._files, self.options["set"]):
            if isinstance(item, LeftOut):
                yield item
            else:
                captions.setdefault(item.image, []).append(item.caption)
                splits[item.image] = item.split
        pictures = _find_pictures(self.root, captions)
        for image, narratives in captions.items():
            usual = f"{image:0>12}.jpg" if self.options["set"] == "coco" else f"{image}.jpg"
            yield Record(
                id=image,
                split=splits[image],
                captions=tuple(narratives),
                image=pictures.get(image, usual),
            )

    def write_extras(self, folder: Path, ids: Sequence[str]) -> None:
        """Write ``traces.parquet``. It reads the files a second time, a few lines at once."""
        with pq.ParquetWriter(folder / TRACES, _SCHEMA, compression="zstd") as writer:
            for batch in _batches(self._usable(set(ids))):
                images, numbers, lines = zip(*batch, strict=True)
                found = _parse_traces(lines)
                columns = [pa.array(images), pa.array(numbers, pa.int32()), *found.columns]
                writer.write_table(pa.table(columns, schema=_SCHEMA))

    def _usable(self, ids: set[str]) -> Iterator[tuple[str, int, bytes]]:
        """Image, number of the caption in the store, and line of each narrative that the store may hold."""
        numbers: Counter[str] = Counter()
        for item in read_narratives(self._files, self.options["set"]):
            if isinstance(item, Narrative) and item.image in ids and clean([item.caption])[0]:
                yield item.image, numbers[item.image], item.line
                numbers[item.image] += 1


def read_traces(store: str | os.PathLike[str], ids: Iterable[str] | None = None) -> pa.Table:
    """The mouse traces of a prepared store of Localized Narratives, one row a narrative, in the files' order.

    Columns:

    - ``id``: of the image; ``caption``: which of the image's captions in the store this is, from 0 (a store
      that was told to keep fewer captions of an image than there are has none for the rest);
    - ``timed_caption``: its words in groups, each with ``start_time`` and ``end_time`` in seconds;
    - ``traces``: the ways of the mouse, each a list of points with the time ``t`` in seconds and the place
      ``x``, ``y`` as fractions of the *original* image's width and height. The mouse may have left the image
      a little, so they may be below 0 or above 1.

    Both are null where the line's are not as they should be. Where the store has the whole image
    (``resize`` is ``square`` or ``whole``), the fractions hold in the stored image, too. Where it has the
    middle square, ``left, top, right, bottom = pixels.region(width, height, fit)`` of the original gives the
    place in the stored image as ``(x * width - left) / (right - left)``, and so for ``y``.

    Args:
        store: the folder of the prepared store.
        ids: read only those of these images; all together may be larger than memory.

    Raises:
        GanvasError: the store has no traces, or their file is damaged.
    """
    path = Path(store) / TRACES
    if not path.is_file():
        raise GanvasError(f"{store}: no {TRACES} here: prepare the data set 'narratives'")
    chosen = None if ids is None else pc.field("id").isin(pa.array(list(ids), pa.string()))
    try:
        return pq.read_table(path, filters=chosen)
    except (OSError, pa.ArrowException) as error:
        raise GanvasError(
            f"{path}: is damaged ({' '.join(str(error).split())}); prepare the data set again"
        ) from None


def read_narratives(files: Iterable[Path], chosen: str) -> Iterator[Narrative | LeftOut]:
    """Every line of the files, one at a time; empty ones do not count.

    Args:
        files: JSONL.
        chosen: the set that they belong to; lines of another are left out. Empty if it is none of the known.

    Raises:
        GanvasError: a file cannot be read.
    """
    splits: dict[str, str] = {}
    for path in files:
        for number, line in _lines(path):
            if line is None:
                item: Narrative | str = f"a line of more than {MAX_LINE >> 20} MiB"
            elif line.isspace():
                continue
            else:
                item = _narrative(line, path.name, chosen)
            if isinstance(item, Narrative) and splits.setdefault(item.image, item.split) != item.split:
                item = "a narrative of an image that another split has"
            yield item if isinstance(item, Narrative) else LeftOut(f"{path.name}:{number}", item)


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, from 1; None instead of a line that is too long."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    return
                if len(line) <= MAX_LINE or line.endswith(b"\n"):
                    yield number, line
                    continue
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _narrative(line: bytes, file: str, chosen: str) -> Narrative | str:
    """A narrative, or the reason why the line is none."""
    found = _parse(line)
    if found is None:
        return "is no JSON object"
    belongs, image, caption = found.get("dataset_id"), identity(found.get("image_id")), found.get("caption")
    if not isinstance(belongs, str):
        return "without dataset_id"
    if image is None:
        return "without image_id"
    if not isinstance(caption, str):
        return "without caption"
    if "/" in image or inside(image) != image:
        return "an image_id that is no name of a file"
    if chosen and _set_of(belongs) not in (chosen, ""):
        return "of another data set"
    split = re.search("train|val|test", belongs.lower()) or re.search("train|val|test", file.lower())
    return Narrative(image, split[0] if split else "train", caption, line)


def _set_of(text: str) -> str:
    """Which set a ``dataset_id`` or the name of a file speaks of; empty if none that is known."""
    return next((name for pattern, name in _SETS.items() if re.search(pattern, text.lower())), "")


def _jsonl_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise GanvasError(f"{place}: no such folder; data set 'narratives' needs one with *.jsonl")
    for pattern in ("*localized_narratives*.jsonl", "*.jsonl"):
        for folder in (place, place / "annotations"):
            if found := sorted(folder.glob(pattern)):
                return found
    raise GanvasError(
        f"{place}: no Localized Narratives; looked for coco_train_localized_narratives-00000-of-00004.jsonl,"
        " open_images_validation_localized_narratives.jsonl and other *.jsonl, here and in annotations"
    )


def _of_one_set(place: Path, files: list[Path], chosen: str) -> tuple[list[Path], str]:
    """The files of the chosen set, and its name (empty if it is none of the known)."""
    sets = {path: _set_of_file(path) for path in files}
    there = sorted(set(sets.values()))
    if not chosen and len(there) > 1:
        names = ", ".join(name or "an unknown one" for name in there)
        raise GanvasError(
            f"{place}: narratives of more than one data set ({names}); choose with the option set, such as"
            f" set={there[-1]}"
        )
    if chosen and chosen not in there:
        raise GanvasError(
            f"{place}: no narratives of the set '{chosen}'; {did_you_mean(chosen, filter(None, there))}"
        )
    return [path for path in files if not chosen or sets[path] == chosen], chosen or there[0]


def _set_of_file(path: Path) -> str:
    if known := _set_of(path.name):
        return known
    for _, line in islice(_lines(path), _LINES_THAT_TELL):
        belongs = (_parse(line or b"") or {}).get("dataset_id")
        if isinstance(belongs, str):
            return _set_of(belongs)
    return ""


def _find_pictures(root: Path, images: Iterable[str]) -> dict[str, str]:
    """The file of each image that has one, relative to the root."""
    wanted = {image: image for image in images}
    plain = {found[1]: image for image in wanted if (found := _COCO_NAME.fullmatch(image))}
    pictures: dict[str, str] = {}
    for folder, names in folders_with_pictures(root, _FOLDERS).items():
        for name in names:
            stem = Path(name).stem
            number = None if stem in wanted else _COCO_NAME.fullmatch(stem)
            image = plain.get(number[1]) if number else wanted.get(stem)
            if image is not None:
                pictures.setdefault(image, joined(folder, name))
    return pictures


def _batches(rows: Iterable[tuple[str, int, bytes]]) -> Iterator[list[tuple[str, int, bytes]]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += len(row[2])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse_traces(lines: Sequence[bytes]) -> pa.Table:
    """``timed_caption`` and ``traces`` of each line; null where a line has them in another form."""
    text = b"\n".join(line.strip() for line in lines)
    try:
        found = pj.read_json(
            io.BytesIO(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=_LINE, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        if len(lines) > 1:
            return pa.concat_tables([_parse_traces([line]) for line in lines])
        found = pa.table([pa.nulls(1, kind) for kind in _LINE.types], schema=_LINE)
    assert found.num_rows == len(lines), found.num_rows
    columns = [_words(found["timed_caption"].combine_chunks()), found["traces"].combine_chunks()]
    return pa.table(columns, names=["timed_caption", "traces"])


def _words(timed: pa.ListArray) -> pa.ListArray:
    """The words of a timed caption under one name."""
    groups = timed.values
    words = pc.coalesce(groups.field("caption"), groups.field("utterance"))
    columns = [words, groups.field("start_time"), groups.field("end_time")]
    named = pa.StructArray.from_arrays(columns, ["caption", "start_time", "end_time"], mask=groups.is_null())
    return pa.ListArray.from_arrays(timed.offsets, named, mask=timed.is_null())
