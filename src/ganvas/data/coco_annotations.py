"""COCO's annotation files: read within bounds and checked; and the objects that a prepared store keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ganvas.data.pictures import identity
from ganvas.data.pixels import Box, Fit, region
from ganvas.data.source import LeftOut
from ganvas.errors import GanvasError

MAX_BYTES = 2 << 30
"""An annotation file with more is refused."""
OBJECTS = "objects.parquet"

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("category_id", pa.int64()),
        ("box", pa.list_(pa.float32(), 4)),
        ("visible", pa.float32()),
        ("crowd", pa.bool_()),
        ("segmentation", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
    ]
)
_LARGEST = 1 << 31  # of numbers that are pixels or categories
_BATCH = 10_000  # objects that are written at a time


class Object(NamedTuple):
    """One object of an instances file."""

    image: str
    category: str
    category_id: int
    box: Box
    """Pixels of the original."""
    crowd: bool
    segmentation: str | None
    """JSON."""
    width: int
    height: int


class Instances(NamedTuple):
    """What an instances file holds."""

    images: set[str]
    """Every image whose objects are known, also those without any."""
    objects: Iterator[Object | LeftOut]


def write_objects(folder: Path, files: Iterable[Path], ids: Sequence[str], fit: Fit) -> None:
    """Write ``objects.parquet`` (see ``read_objects``).

    Its memory peaks at about three times the size of the largest file: 1.5 GB for train2017.

    Args:
        folder: where it goes.
        files: instances files.
        ids: the images whose objects are written, in order.
        fit: how the images were brought to size.
    """
    objects: dict[str, list[Object]] = {image: [] for image in ids}
    for path in files:
        for item in read_instances(path, polygons=True).objects:
            if isinstance(item, Object) and item.image in objects:
                objects[item.image].append(item)
    rows = (_row(item, fit) for found in objects.values() for item in found)
    with pq.ParquetWriter(folder / OBJECTS, _SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))


def read_objects(store: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The objects of a prepared COCO store, one row each, in the order of the store's images.

    Columns:

    - ``id``: of the image; ``category``: its name; ``category_id``: COCO's number of it (1 to 90);
    - ``box``: left, top, width, height as fractions of the stored image, cut off at its edges;
    - ``visible``: the part of the whole box's area that lies in the stored image, 0 to 1. Cropping may leave
      an object outside: it is kept with 0, and its box then has no width or no height;
    - ``crowd``: the box is around a group;
    - ``segmentation``: JSON as COCO has it, a list of polygons ``[x, y, x, y, ...]`` or a run-length code,
      in pixels of the original, whose size is ``source_width`` x ``source_height``.
      ``pixels.region(source_width, source_height, fit)`` is the part of it that the store shows.

    Args:
        store: the folder of the prepared store.
        columns: to read only these; the segmentations are by far the largest.

    Raises:
        GanvasError: the store has no objects, or their file is damaged.
    """
    path = Path(store) / OBJECTS
    if not path.is_file():
        raise GanvasError(
            f"{store}: no {OBJECTS} here: prepare COCO with instances_*.json beside its captions files"
        )
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise GanvasError(
            f"{path}: is damaged ({' '.join(str(error).split())}); prepare the data set again"
        ) from None


def in_stored(box: Box, width: int, height: int, fit: Fit) -> tuple[Box, float]:
    """A box of the original as fractions of the stored image.

    Args:
        box: left, top, width, height, pixels of the original.
        width: of the original.
        height: of the original.
        fit: how the original was brought to size.

    Returns:
        Left, top, width and height, each 0 to 1, cut off at the edges; and the part of the box's area that
        lies inside.
    """
    left, top, right, bottom = region(width, height, fit)
    x, wide, visible_x = _cut(box[0] - left, box[2], right - left)
    y, high, visible_y = _cut(box[1] - top, box[3], bottom - top)
    return (x, y, wide, high), visible_x * visible_y


def _cut(start: float, length: float, size: int) -> tuple[float, float, float]:
    """Along one axis: where an interval starts and its length, as fractions of ``size``; the part inside."""
    low = min(max(start, 0), size)
    cut = max(-start, 0) + max(start + length - size, 0)  # exactly 0 where nothing is cut off
    inside = max(length - cut, 0.0)
    visible = inside / length if length else float(0 <= start <= size)
    return low / size, inside / size, visible


def _row(item: Object, fit: Fit) -> dict[str, Any]:
    box, visible = in_stored(item.box, item.width, item.height, fit)
    return {
        "id": item.image,
        "category": item.category,
        "category_id": item.category_id,
        "box": box,
        "visible": visible,
        "crowd": item.crowd,
        "segmentation": item.segmentation,
        "source_width": item.width,
        "source_height": item.height,
    }


def read_annotations(path: Path, each: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """A captions or instances file.

    Args:
        path: of the JSON file.
        each: what every JSON object in it becomes as soon as it is read.

    Raises:
        GanvasError: it cannot be read, is too large, or has another layout.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GanvasError(
                f"{path}: is larger than {MAX_BYTES >> 20:,} MiB, so it is no COCO annotation file"
            )
        with path.open(encoding="utf-8") as file:
            found = json.load(file, object_hook=each)
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, GanvasError):
            raise
        raise GanvasError(f"{path}: is no valid JSON ({error}); download it again") from None
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key), list) for key in ("images", "annotations")
    ):
        raise GanvasError(f"{path}: has another layout than COCO's: no lists 'images' and 'annotations'")
    return found


def read_instances(path: Path, *, polygons: bool) -> Instances:
    """The objects of an instances file; what cannot be used comes as ``LeftOut``.

    Args:
        path: of the JSON file.
        polygons: keep the segmentations, which are nine tenths of the file.

    Raises:
        GanvasError: as ``read_annotations``, or it has no categories.
    """

    def slim(item: dict[str, Any]) -> dict[str, Any]:
        if "segmentation" in item:  # as objects they would take five times the memory of their text
            polygon = item.pop("segmentation")
            if polygons:
                item["segmentation"] = json.dumps(polygon, separators=(",", ":"))
        return item

    found = read_annotations(path, slim)
    if not isinstance(found.get("categories"), list):
        raise GanvasError(f"{path}: has another layout than COCO's: no list 'categories'")
    names: dict[int, str] = {
        item["id"]: item["name"]
        for item in found["categories"]
        if isinstance(item, dict)
        and type(item.get("id")) is int
        and abs(item["id"]) < _LARGEST
        and isinstance(item.get("name"), str)
        and item["name"].isprintable()
    }
    sizes = {
        image: (item.get("width"), item.get("height"))
        for item in found["images"]
        if isinstance(item, dict) and (image := identity(item.get("id")))
    }
    return Instances(set(sizes), _objects(path.name, found["annotations"], names, sizes))


def _objects(
    file: str, annotations: list[Any], names: dict[int, str], sizes: dict[str, tuple[Any, Any]]
) -> Iterator[Object | LeftOut]:
    for number, item in enumerate(annotations):
        if isinstance(item, dict):
            found = _object(item, names, sizes)
            if isinstance(found, str):
                yield LeftOut(named(file, item, number), found, within=True)
            else:
                yield found
        else:
            yield LeftOut(f"{file}: annotations[{number}]", "is no annotation", within=True)


def _object(item: dict[str, Any], names: dict[int, str], sizes: dict[str, tuple[Any, Any]]) -> Object | str:
    """An object, or the reason why it is none."""
    image, category, box = identity(item.get("image_id")), item.get("category_id"), _box(item.get("bbox"))
    if image is None or image not in sizes:
        return "an object of an unknown image"
    width, height = sizes[image]
    if not all(type(side) is int and 0 < side < _LARGEST for side in (width, height)):
        return "an object of an image without width and height"
    if type(category) is not int or category not in names:
        return "an object of an unknown category"
    if box is None:
        return "an object without a box"
    crowd, segmentation = bool(item.get("iscrowd")), item.get("segmentation")
    return Object(image, names[category], category, box, crowd, segmentation, width, height)


def _box(value: Any) -> Box | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(type(v) in (int, float) and abs(v) < _LARGEST for v in value) or min(value[2:]) < 0:
        return None  # so are NaN and infinity
    x, y, wide, high = value
    return float(x), float(y), float(wide), float(high)


def named(file: str, annotation: dict[str, Any], number: int) -> str:
    """What ``rejected.csv`` calls an annotation; the reasons beside it are the same for all, to be counted.

    Args:
        file: its name.
        annotation: which.
        number: its place in the file.
    """
    own, image = identity(annotation.get("id")), identity(annotation.get("image_id"))
    place = f"{file}: annotation {own}" if own else f"{file}: annotations[{number}]"
    return f"{place} of image {image}" if image else place
