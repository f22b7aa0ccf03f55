"""MS-COCO: captions of 2014 or 2017, and the objects of each image where their annotations are there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganvas.data.coco_annotations import (
    Object,
    named,
    read_annotations,
    read_instances,
    write_objects,
)
from ganvas.data.pictures import folders_with_pictures, identity, inside, joined, list_pictures, shown
from ganvas.data.pixels import Fit
from ganvas.data.source import LeftOut, PhotoSource, Request, chosen_options, listing_digest
from ganvas.data.store import Record
from ganvas.errors import GanvasError

_OFFICIAL = re.compile(r"captions_(?:train|val)(?:2014|2017)\.json")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One captions file, and what belongs to it."""

    captions: Path
    instances: Path | None
    split: str
    folders: tuple[str, ...]
    """Where its pictures may lie, relative to the root, in order of preference."""
    folder: str | None = None
    """Where they lie; None if there are none."""


class CocoSource(PhotoSource):
    """COCO's photos, each with its captions, in the official layout of 2014 or 2017.

    The place is a folder with ``captions_{train,val}{2014,2017}.json``, beside the pictures or in
    ``annotations``; where there are none of these, every ``captions_*.json`` counts. Or it is one captions
    file. The pictures lie in a folder for each split (``train2017``, ``images/val2014``), or all in one
    (``images``, or beside the annotations).

    The split is the one in the captions file's name (``train`` where it names none): official ``train`` and
    ``val`` stay what they are. A record's id is COCO's image id, which is unique over the splits of a year.
    An image keeps all of its captions, in the file's order. Where ``instances_*.json`` lies beside the
    captions file, the attribute ``objects`` of a record holds the sorted names of the categories in the
    image, separated by ``", "`` (empty for an image that is annotated and shows none), and the store gets
    an ``objects.parquet`` (see ``coco_annotations.read_objects``).

    Pictures that the annotations do not name are reported; not so where the place is one captions file and
    its pictures may share a folder with others.

    Its options are ``year``, needed where both are there, and ``images``, the folder that holds the pictures
    or their folders.

    Raises:
        GanvasError: no captions, no pictures, two years and no choice, or an option that there is not.
    """

    name = "coco"
    licence = "CC-BY-4.0 (annotations); images under their Flickr licences"

    def __init__(self, request: Request) -> None:
        options = chosen_options(self.name, request.options, {"year": "", "images": ""})
        self.fit = request.fit or Fit()
        if request.place is None:
            raise GanvasError("data set 'coco': say where it lies: ganvas data prepare coco FOLDER")
        place = Path(request.place).expanduser()
        files, year = _of_one_year(place, _captions_files(place), options["year"])
        self.options = {"year": year}  # and not ``images``: the same data in another place are the same data
        home = files[0].parent
        self.root = home.parent if home.name == "annotations" else home
        if options["images"]:
            self.root = Path(options["images"]).expanduser()
        self._one_file = place.is_file()
        self._parts, pictures = _with_pictures([_part(path) for path in files], self.root)
        contents = [path for part in self._parts for path in (part.captions, part.instances) if path]
        names = ", ".join(path.name for path in contents)
        self.about = f"MS-COCO ({names}; {listing_digest(self.root, pictures, contents)})"

    def records(self) -> Iterator[Record | LeftOut]:
        """Every image of the captions files, in their order; then the pictures that these do not name."""
        ids: set[str] = set()
        owners: dict[str, str] = {}
        for part in self._parts:
            if part.folder is None:
                yield LeftOut(part.captions.name, f"no pictures of it: looked in {', '.join(part.folders)}")
            else:
                yield from _read_part(part, part.folder, self.root, ids, owners)
        folders = {part.folder: part for part in self._parts if part.folder is not None}
        for folder, part in folders.items():
            if self._one_file and part.split not in folder:
                continue
            for name in list_pictures(self.root / folder):
                if (picture := joined(folder, name)) not in owners:
                    yield LeftOut(shown(picture), "no caption: not in the annotations")

    def write_extras(self, folder: Path, ids: Sequence[str]) -> None:
        """Write ``objects.parquet`` where objects are known."""
        files = [part.instances for part in self._parts if part.instances and part.folder is not None]
        if files:
            write_objects(folder, files, ids, self.fit)


def _captions_files(place: Path) -> list[Path]:
    """The captions files at a place; of several, ``train`` comes first.

    Raises:
        GanvasError: there are none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise GanvasError(f"{place}: no such folder; data set 'coco' needs one with captions_*.json")
    for folder in (place / "annotations", place):
        found = sorted(folder.glob("captions_*.json"))
        if official := [path for path in found if _OFFICIAL.fullmatch(path.name)]:
            return official
        if found:
            return found
    raise GanvasError(
        f"{place}: no captions of COCO; looked for captions_train2017.json, captions_val2017.json,"
        " captions_train2014.json, captions_val2014.json and other captions_*.json, here and in annotations"
    )


def _of_one_year(place: Path, files: list[Path], year: str) -> tuple[list[Path], str]:
    """The files of the chosen year, and the year (empty where their names have none)."""
    years = {path: _year(path) for path in files}
    there = sorted(set(years.values()))
    if not year and len(there) > 1:
        raise GanvasError(
            f"{place}: captions of more than one year ({', '.join(path.name for path in files)});"
            f" choose with the option year, such as year={there[-1]}"
        )
    chosen = [path for path in files if not year or years[path] == year]
    if not chosen:
        raise GanvasError(
            f"{place}: no captions of the year '{year}'; there are {', '.join(path.name for path in files)}"
        )
    return chosen, year or there[0]


def _year(path: Path) -> str:
    found = re.search(r"20\d\d", path.name)
    return found[0] if found else ""


def _part(captions: Path) -> Part:
    found = re.search("train|val|test", captions.name)
    split, year = found[0] if found else "train", _year(captions)
    instances = captions.with_name(captions.name.replace("captions", "instances", 1))
    own = dict.fromkeys((split + year, split))
    return Part(
        captions=captions,
        instances=instances if instances != captions and instances.is_file() else None,
        split=split,
        folders=(*(f for name in own for f in (name, f"images/{name}")), "images", "."),
    )


def _with_pictures(parts: list[Part], root: Path) -> tuple[list[Part], list[str]]:
    """The parts with the folders of their pictures, and every picture in these folders.

    Raises:
        GanvasError: there are no pictures.
    """
    there = folders_with_pictures(root, (folder for part in parts for folder in part.folders))
    found = [replace(part, folder=next((f for f in part.folders if f in there), None)) for part in parts]
    used = dict.fromkeys(part.folder for part in found if part.folder is not None)
    if not used:
        looked = ", ".join(dict.fromkeys(folder for part in parts for folder in part.folders))
        raise GanvasError(
            f"{root}: no pictures of COCO; looked for image files in {looked};"
            " give the folder of the pictures with the option images"
        )
    return found, [joined(folder, name) for folder in used for name in there[folder]]


def _read_part(
    part: Part, folder: str, root: Path, ids: set[str], owners: dict[str, str]
) -> Iterator[Record | LeftOut]:
    """The images of one captions file.

    Args:
        part: the file.
        folder: of its pictures.
        root: of all pictures.
        ids: of the images so far; this adds its own.
        owners: the image of each picture so far; this adds its own.
    """
    found = read_annotations(part.captions)
    file = part.captions.name
    present = set(list_pictures(root / folder))
    pictures: dict[str, str] = {}
    known: set[str] = set()
    for number, item in enumerate(found["images"]):
        image = identity(item.get("id")) if isinstance(item, dict) else None
        if image is None:
            yield LeftOut(f"{file}: images[{number}]", "an image without an id")
            continue
        picture = _picture(item.get("file_name"), folder, present, root)
        if picture is None:
            yield LeftOut(image, f"its file name cannot be used: {item.get('file_name')!r:.80}")
        elif image in ids:
            yield LeftOut(image, "a second image with this id")
        elif picture in owners:
            yield LeftOut(image, f"a picture listed twice: {picture} is image {owners[picture]} already")
        else:
            pictures[image] = picture
        if picture is not None:
            owners.setdefault(picture, image)
        known.add(image)
        ids.add(image)
    captions: dict[str, list[str]] = {image: [] for image in pictures}
    yield from _collect(captions, known, found["annotations"], file)
    del found  # half a gigabyte of the official files, while the images are prepared
    attributes, left_out = _objects(part.instances)
    yield from left_out
    for image, picture in pictures.items():
        yield Record(
            id=image,
            split=part.split,
            captions=tuple(captions[image]),
            attributes=attributes.get(image, {}),
            image=picture,
        )


def _picture(name: Any, folder: str, present: set[str], root: Path) -> str | None:
    """The file of an image, relative to the root, be it there or not; None if its name cannot be used."""
    inner = inside(name) if isinstance(name, str) else None
    if inner is None or inner in present or "/" not in inner or not (root / inner).is_file():
        return None if inner is None else joined(folder, inner)
    return inner  # some files name the folder, too


def _collect(
    captions: dict[str, list[str]], known: set[str], annotations: list[Any], file: str
) -> Iterator[LeftOut]:
    """Add each caption to those of its image.

    Args:
        captions: of each image that can be used.
        known: these images, and those that cannot.
        annotations: as the file has them.
        file: its name.
    """
    for number, item in enumerate(annotations):
        if not isinstance(item, dict):
            yield LeftOut(f"{file}: annotations[{number}]", "is no annotation", within=True)
            continue
        image, text = identity(item.get("image_id")), item.get("caption")
        if image not in known:
            yield LeftOut(named(file, item, number), "a caption of an unknown image", within=True)
        elif not isinstance(text, str):
            reason = "a caption that is no text" if "caption" in item else "an annotation without a caption"
            yield LeftOut(named(file, item, number), reason, within=True)
        elif image in captions:
            captions[image].append(text)


def _objects(instances: Path | None) -> tuple[dict[str, dict[str, str]], list[LeftOut]]:
    """The attributes of each image whose objects are known, and the objects that cannot be used."""
    if instances is None:
        return {}, []
    found = read_instances(instances, polygons=False)
    categories: dict[str, set[str]] = {image: set() for image in found.images}
    left_out = []
    for item in found.objects:
        if isinstance(item, Object):
            categories[item.image].add(item.category)
        else:
            left_out.append(item)
    texts: dict[str, str] = {}  # thousands of images show the same things
    return {
        image: {"objects": texts.setdefault(text := ", ".join(sorted(names)), text)}
        for image, names in categories.items()
    }, left_out
