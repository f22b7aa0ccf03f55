"""COCO: the real files of ``../shared/data`` where they are, and small ones with all that can be wrong."""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ganvas.data import coco_annotations
from ganvas.data.coco import CocoSource
from ganvas.data.coco_annotations import in_stored, read_objects
from ganvas.data.pixels import Fit
from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request, open_source
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_mini = pytest.mark.skipif(not (REAL / "coco_mini").is_dir(), reason="no ../shared/data/coco_mini")
needs_captions = pytest.mark.skipif(
    not (REAL / "coco_captions").is_dir() or not (REAL / "coco_mini").is_dir(),
    reason="no ../shared/data/coco_captions",
)

Make = Callable[..., Path]


def image(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number:012}.jpg", "width": 40, "height": 20, **more}


def caption(number: int, text: Any = "a thing", own: int = 1) -> dict[str, Any]:
    return {"id": own, "image_id": number, "caption": text}


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (200, 100, 50)).save(path)


def write_json(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def one_val_set(tmp_path: Path) -> Make:
    """COCO with one split, as its captions file has it; there are three pictures."""

    def make(images: list[Any], annotations: list[Any], instances: dict[str, Any] | None = None) -> Path:
        write_json(tmp_path / "annotations/captions_val2017.json", images=images, annotations=annotations)
        if instances is not None:
            write_json(tmp_path / "annotations/instances_val2017.json", **instances)
        draw(*(tmp_path / "val2017" / f"{number:012}.jpg" for number in (1, 2, 3)))
        return tmp_path

    return make


def read(place: Path, **options: str) -> tuple[dict[str, Record], dict[str, str]]:
    """The records by id, and the reasons of what is left out by id."""
    found = list(CocoSource(Request(place=str(place), options=options)).records())
    records = [item for item in found if isinstance(item, Record)]
    left_out = [item for item in found if isinstance(item, LeftOut)]
    assert len({r.id for r in records}) == len(records)
    return {r.id: r for r in records}, {item.id: item.reason for item in left_out}


@needs_mini
def test_every_annotated_picture_of_coco_mini_is_prepared_and_the_other_80_are_reported(
    tmp_path: Path,
) -> None:
    place = REAL / "coco_mini"
    info = prepare("coco", tmp_path / "store", place=str(place), size=32, workers=1, progress=False)
    assert info.splits == {"train": 80, "val": 79, "test": 0}
    store = Store(tmp_path / "store")
    with (tmp_path / "store/rejected.csv").open(encoding="utf-8", newline="") as file:
        rejected = list(csv.DictReader(file))
    assert Counter(row["reason"] for row in rejected) == {"no caption: not in the annotations": 80}
    stored = {f"{number:0>12}.jpg" for number in store.ids}
    left_out = {Path(row["id"]).name for row in rejected}
    on_disk = {path.name for split in ("train2017", "val2017") for path in (place / split).iterdir()}
    assert stored | left_out == on_disk and not stored & left_out
    objects = read_objects(store.path, columns=["id", "category", "box", "visible"])
    assert objects.num_rows == 739 + 624
    assert list(dict.fromkeys(objects["id"].to_pylist())) == [  # in the store's order
        number for number, facts in zip(store.ids, store.attributes, strict=True) if facts["objects"]
    ]


@needs_mini
def test_captions_and_instances_of_coco_mini_are_those_of_its_files() -> None:
    records, _ = read(REAL / "coco_mini")
    for split in ("train", "val"):
        captions: dict[str, list[str]] = {}
        for item in json.loads((REAL / f"coco_mini/annotations/captions_{split}2017.json").read_text())[
            "annotations"
        ]:
            captions.setdefault(str(item["image_id"]), []).append(item["caption"])
        assert {r.id: list(r.captions) for r in records.values() if r.split == split} == captions
    assert records["397133"].split == "val" and records["397133"].image == "val2017/000000397133.jpg"
    assert records["397133"].captions[0] == "A man is in a kitchen making pizzas."
    assert records["397133"].attributes == {
        "objects": "bottle, bowl, broccoli, carrot, cup, dining table, knife, oven, person, sink, spoon"
    }


@needs_mini
def test_boxes_of_a_real_image_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    """640 x 427: the middle square begins at (640 - 427) // 2 = 106 and is 427 wide."""
    CocoSource(Request(place=str(REAL / "coco_mini"))).write_extras(tmp_path, ["397133"])
    rows = read_objects(tmp_path).to_pylist()
    assert [row["id"] for row in rows] == ["397133"] * 19
    assert {(row["source_width"], row["source_height"]) for row in rows} == {(640, 427)}
    bottle, table, _, _, _, _, _, person = rows[:8]
    sink = rows[18]
    expected = [
        # [217.62, 240.54, 38.99, 57.75] lies inside: 111.62 / 427, 240.54 / 427, 38.99 / 427, 57.75 / 427
        (bottle, "bottle", 44, [0.261405, 0.563326, 0.091311, 0.135246], 1.0),
        # [1.0, 240.24, 346.63, 186.76] ends at 347.63 - 106 = 241.63, which is 0.697083 of its width
        (table, "dining table", 67, [0.0, 0.562623, 0.565878, 0.437377], 0.697083),
        # [0.0, 262.81, 62.16, 36.77] ends left of 106
        (person, "person", 1, [0.0, 0.615480, 0.0, 0.086112], 0.0),
        # [497.25, 203.4, 122.01, 28.61] begins at 391.25 of 427, so that 35.75 of 122.01 are inside
        (sink, "sink", 81, [0.916276, 0.476347, 0.083724, 0.067002], 0.293009),
    ]
    for row, category, number, box, visible in expected:
        assert (row["category"], row["category_id"], row["crowd"]) == (category, number, False)
        assert row["box"] == pytest.approx(box, abs=1e-6)
        assert row["visible"] == pytest.approx(visible, abs=1e-6)


@needs_mini
def test_segmentations_of_coco_mini_are_kept_as_polygons_and_run_lengths(tmp_path: Path) -> None:
    source = CocoSource(Request(place=str(REAL / "coco_mini"), fit=Fit(resize="square")))
    ids = [item.id for item in source.records() if isinstance(item, Record)]
    source.write_extras(tmp_path, ids)
    kept = read_objects(tmp_path)
    original = {}
    for split in ("train", "val"):
        content = json.loads((REAL / f"coco_mini/annotations/instances_{split}2017.json").read_text())
        for item in content["annotations"]:
            original.setdefault(str(item["image_id"]), []).append(item["segmentation"])
    texts = kept["segmentation"].to_pylist()
    assert [json.loads(text) for text in texts] == [found for i in ids for found in original.get(i, ())]
    assert sum(kept["crowd"].to_pylist()) == 13
    assert min(kept["visible"].to_pylist()) > 0.99  # nothing is cropped away; some boxes end past the edge


@needs_captions
def test_the_complete_official_caption_file_holds_5000_ids_and_25014_captions() -> None:
    records, _ = read(REAL / "coco_captions", images=str(REAL / "coco_mini"))
    assert len(records) == 5000
    assert sum(len(record.captions) for record in records.values()) == 25_014
    assert {record.split for record in records.values()} == {"val"}
    assert Counter(len(record.captions) for record in records.values())[5] < 5000  # more than five are kept


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize(
    ("beside", "folders"),
    [
        ("annotations", {"train": "train{year}", "val": "val{year}"}),
        ("annotations", {"train": "images/train{year}", "val": "images/val{year}"}),
        ("annotations", {"train": "images", "val": "images"}),
        (".", {"train": ".", "val": "."}),
        (".", {"train": "train", "val": "images/val"}),
    ],
)
def test_pictures_lie_in_a_folder_for_each_split_or_all_in_one(
    year: str, beside: str, folders: dict[str, str], tmp_path: Path
) -> None:
    for number, (split, folder) in enumerate(folders.items(), start=1):
        name = f"COCO_{split}2014_{number:012}.jpg" if year == "2014" else f"{number:012}.jpg"
        draw(tmp_path / folder.format(year=year) / name)
        write_json(
            tmp_path / beside / f"captions_{split}{year}.json",
            images=[image(number, name)],
            annotations=[caption(number, f"{split} {k}") for k in range(6)],
        )
    source = CocoSource(Request(place=str(tmp_path)))
    records = list(source.records())
    assert [(r.id, r.split) for r in records if isinstance(r, Record)] == [("1", "train"), ("2", "val")]
    assert len(records) == 2 and source.options == {"year": year}
    for record in records:
        assert isinstance(record, Record)
        assert record.captions == tuple(f"{record.split} {k}" for k in range(6))
        assert np.asarray(source.load(record, 16)).shape == (16, 16, 3)


def test_the_place_may_be_one_captions_file_or_the_folder_of_annotations(one_val_set: Make) -> None:
    place = one_val_set([image(1)], [caption(1)])
    for where in (place / "annotations", place / "annotations/captions_val2017.json"):
        records, left_out = read(where)
        assert list(records) == ["1"] and records["1"].image == "val2017/000000000001.jpg"
        assert len(left_out) == 2  # val2017 is the folder of this split


def test_other_pictures_in_a_shared_folder_are_not_reported_for_one_captions_file(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.png", tmp_path / "images/b.png")
    place = write_json(tmp_path / "captions_mine.json", images=[image(1, "a.png")], annotations=[caption(1)])
    assert read(place)[1] == {}
    assert read(tmp_path)[1] == {"images/b.png": "no caption: not in the annotations"}
    assert read(place)[0]["1"].split == "train"


def test_two_years_need_a_choice(tmp_path: Path) -> None:
    for year in ("2014", "2017"):
        draw(tmp_path / f"val{year}/1.jpg")
        write_json(
            tmp_path / f"captions_val{year}.json", images=[image(1, "1.jpg")], annotations=[caption(1)]
        )
    with pytest.raises(GanvasError, match=r"more than one year .*captions_val2014.json.*option year"):
        CocoSource(Request(place=str(tmp_path)))
    assert read(tmp_path, year="2014")[0]["1"].image == "val2014/1.jpg"
    with pytest.raises(GanvasError, match="no captions of the year '2015'"):
        CocoSource(Request(place=str(tmp_path), options={"year": "2015"}))


def test_a_split_without_pictures_is_reported_and_the_other_is_read(one_val_set: Make) -> None:
    place = one_val_set([image(1), image(2), image(3)], [caption(n) for n in (1, 2, 3)])
    write_json(place / "annotations/captions_train2017.json", images=[image(9)], annotations=[caption(9)])
    records, left_out = read(place)
    assert len(records) == 3
    assert left_out.keys() == {"captions_train2017.json"}
    assert "train2017, images/train2017" in left_out["captions_train2017.json"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (image(1), "a second image with this id"),
        (image(9, "000000000001.jpg"), "a picture listed twice: val2017/000000000001.jpg is image 1 already"),
        (image(9, "./000000000001.jpg"), "a picture listed twice"),
        (image(9, "/etc/passwd.jpg"), "file name cannot be used: '/etc/passwd.jpg'"),
        (image(9, "../annotations/x.jpg"), "file name cannot be used"),
        (image(9, "val2017/../../x.jpg"), "file name cannot be used"),
        (image(9, "C:\\x.jpg"), "file name cannot be used"),
        (image(9, "\0.jpg"), "file name cannot be used"),
        (image(9, "\ud800.jpg"), "file name cannot be used"),
        ({"id": 9}, "file name cannot be used: None"),
        ({"file_name": "000000000002.jpg"}, "an image without an id"),
        ({"file_name": "000000000002.jpg", "id": 1.5}, "an image without an id"),
        ({"file_name": "000000000002.jpg", "id": True}, "an image without an id"),
        ({"file_name": "000000000002.jpg", "id": "a\nb"}, "an image without an id"),
        ("000000000002.jpg", "an image without an id"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_with_its_captions(
    entry: Any, reason: str, one_val_set: Make
) -> None:
    annotations = [caption(1, "first"), caption(9, "of the other")]
    records, left_out = read(one_val_set([image(1), entry, image(2)], annotations))
    assert {number: r.captions for number, r in records.items()} == {"1": ("first",), "2": ()}
    assert any(reason in found for found in left_out.values()), left_out


@pytest.mark.parametrize(
    ("annotation", "name", "reason"),
    [
        (
            caption(77, own=5),
            "captions_val2017.json: annotation 5 of image 77",
            "a caption of an unknown image",
        ),
        (
            caption(1, 42, own=5),
            "captions_val2017.json: annotation 5 of image 1",
            "a caption that is no text",
        ),
        (
            caption(1, None, own=5),
            "captions_val2017.json: annotation 5 of image 1",
            "a caption that is no text",
        ),
        (
            {"id": 5, "image_id": 1},
            "captions_val2017.json: annotation 5 of image 1",
            "an annotation without a caption",
        ),
        ({"image_id": [1]}, "captions_val2017.json: annotations[1]", "a caption of an unknown image"),
        (["x"], "captions_val2017.json: annotations[1]", "is no annotation"),
    ],
)
def test_a_caption_that_cannot_be_used_is_left_out_and_the_others_stay(
    annotation: Any, name: str, reason: str, one_val_set: Make
) -> None:
    place = one_val_set([image(1)], [caption(1, "before"), annotation, caption(1, "after")])
    found = list(CocoSource(Request(place=str(place))).records())
    assert LeftOut(name, reason, within=True) in found
    assert [item.captions for item in found if isinstance(item, Record)] == [("before", "after")]


def test_what_is_not_there_is_reported_and_the_rest_is_prepared(one_val_set: Make, tmp_path: Path) -> None:
    images = [image(1), image(2), image(50)]
    place = one_val_set(images, [caption(1, own=1), caption(50, own=2)])
    (place / "val2017/notes.txt").write_text("no picture")
    out = tmp_path / "store"
    prepare("coco", out, place=str(place), size=16, workers=1, progress=False, allow_rejects=True)
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rejected = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert Store(out).ids == ["1"]
    assert rejected == {
        "2": "no caption",
        "50": "no image file (val2017/000000000050.jpg)",
        "val2017/000000000003.jpg": "no caption: not in the annotations",
    }


def test_a_picture_whose_name_is_no_unicode_is_reported(one_val_set: Make) -> None:
    place = one_val_set([image(n) for n in (1, 2, 3)], [])
    try:
        draw(place / "val2017" / os.fsdecode(b"\xff.png"))
    except (OSError, UnicodeError):
        pytest.skip("this file system refuses such names")
    assert list(read(place)[1]) == ["val2017/\\udcff.png"]


def test_a_file_name_that_names_the_folder_too_is_found(one_val_set: Make) -> None:
    place = one_val_set([image(1, "val2017/000000000001.jpg")], [caption(1)])
    records, left_out = read(place)
    assert records["1"].image == "val2017/000000000001.jpg"
    assert "val2017/000000000001.jpg" not in left_out


def test_an_image_of_both_splits_stays_in_the_first(one_val_set: Make) -> None:
    place = one_val_set([image(1), image(2)], [caption(1), caption(2)])
    draw(place / "train2017/000000000001.jpg")
    write_json(place / "annotations/captions_train2017.json", images=[image(1)], annotations=[caption(1)])
    records, left_out = read(place)
    assert {number: r.split for number, r in records.items()} == {"1": "train", "2": "val"}
    assert left_out["1"] == "a second image with this id"


CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]


def thing(
    number: int = 1, category: Any = 18, box: Any = (10, 0, 20, 10), own: int = 1, **more: Any
) -> dict[str, Any]:
    return {"id": own, "image_id": number, "category_id": category, "bbox": list(box), "iscrowd": 0, **more}


def test_objects_are_kept_for_the_images_of_the_store_in_its_order(one_val_set: Make, tmp_path: Path) -> None:
    polygon, code = [[1.5, 2, 3, 4, 5, 6]], {"counts": [3, 5], "size": [20, 40]}
    instances = {
        "images": [image(1), image(2), image(3)],
        "categories": CATEGORIES,
        "annotations": [
            thing(1, segmentation=polygon),
            thing(2, 17, iscrowd=1, segmentation=code),
            thing(1, 17, box=[0, 0, 5, 20]),
            thing(1, box=[5, 5, 10, 10]),
        ],
    }
    place = one_val_set([image(n) for n in (1, 2, 3)], [caption(n) for n in (1, 2, 3)], instances)
    records, _ = read(place)
    assert [dict(r.attributes) for r in records.values()] == [
        {"objects": "cat, dog"},
        {"objects": "cat"},
        {"objects": ""},
    ]
    source = open_source("coco", Request(place=str(place)))
    source.write_extras(tmp_path, ["2", "1"])
    rows = read_objects(tmp_path).to_pylist()
    assert [(row["id"], row["category"], row["crowd"]) for row in rows] == [
        ("2", "cat", True), ("1", "dog", False), ("1", "cat", False), ("1", "dog", False),
    ]  # fmt: skip
    # 40 x 20: the middle square begins at 10
    assert [row["box"] for row in rows] == [
        [0, 0, 1, 0.5],
        [0, 0, 1, 0.5],
        [0, 0, 0, 1],
        [0, 0.25, 0.25, 0.5],
    ]
    assert [row["visible"] for row in rows] == [1, 1, 0, 0.5]
    texts = [row["segmentation"] for row in rows]
    assert [text and json.loads(text) for text in texts] == [code, polygon, None, None]
    assert read_objects(tmp_path, ["id"]).column_names == ["id"]


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (thing(8), "an object of an unknown image"),
        (thing(1, 99), "an object of an unknown category"),
        (thing(1, [18]), "an object of an unknown category"),
        (thing(1, 10**30), "an object of an unknown category"),
        (thing(1, 7), "an object of an unknown category"),
        (thing(1, box=[1, 2, 3]), "an object without a box"),
        (thing(1, box=[1, 2, -3, 4]), "an object without a box"),
        (thing(1, box=[1, 2, float("nan"), 4]), "an object without a box"),
        (thing(1, box=[1, 2, 10**400, 4]), "an object without a box"),
        (thing(1, box=["1", 2, 3, 4]), "an object without a box"),
        (thing(2), "an object of an image without width and height"),
        (None, "is no annotation"),
    ],
)
def test_an_object_that_cannot_be_used_is_left_out_and_the_image_stays(
    annotation: Any, reason: str, one_val_set: Make, tmp_path: Path
) -> None:
    instances = {
        "images": [image(1), {"id": 2, "width": 0, "height": "9"}],
        "categories": [*CATEGORIES, {"id": 10**30, "name": "x"}, {"id": 7, "name": "\ud800"}, {"id": 7}],
        "annotations": [thing(1, own=1), annotation],
    }
    place = one_val_set([image(1)], [caption(1)], instances)
    source = CocoSource(Request(place=str(place)))
    found = list(source.records())
    assert [i.reason for i in found if isinstance(i, LeftOut) and i.within] == [reason]
    assert [i.attributes["objects"] for i in found if isinstance(i, Record)] == ["dog"]
    source.write_extras(tmp_path, ["1"])
    assert read_objects(tmp_path).num_rows == 1


def test_without_instances_there_are_no_objects(one_val_set: Make, tmp_path: Path) -> None:
    source = CocoSource(Request(place=str(one_val_set([image(1)], [caption(1)]))))
    assert [dict(r.attributes) for r in source.records() if isinstance(r, Record)] == [{}]
    source.write_extras(tmp_path, ["1"])
    with pytest.raises(GanvasError, match=r"no objects.parquet here.*instances_"):
        read_objects(tmp_path)
    (tmp_path / "objects.parquet").write_bytes(b"PAR1")
    with pytest.raises(GanvasError, match="is damaged"):
        read_objects(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"images": [', "is no valid JSON"),
        (b"\xff\xfe", "is no valid JSON"),
        (b"[" * 200_000, "is no valid JSON"),
        (b"[]", "no lists 'images' and 'annotations'"),
        (b'{"images": [], "annotations": {}}', "no lists 'images' and 'annotations'"),
        (b'{"images": [], "annotations": []}' + b" " * 1000, "is larger than"),
    ],
)
def test_a_damaged_captions_file_is_one_line(
    content: bytes, reason: str, one_val_set: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "is larger than":
        monkeypatch.setattr(coco_annotations, "MAX_BYTES", 500)
    place = one_val_set([], [])
    (place / "annotations/captions_val2017.json").write_bytes(content)
    with pytest.raises(GanvasError, match=reason) as error:
        read(place)
    assert "captions_val2017.json" in str(error.value) and "\n" not in str(error.value)


def test_instances_without_categories_are_one_line(one_val_set: Make) -> None:
    place = one_val_set([image(1)], [caption(1)], {"images": [], "annotations": []})
    with pytest.raises(GanvasError, match=r"instances_val2017.json: .*no list 'categories'"):
        read(place)


def test_a_wrong_place_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match=r"looked for captions_train2017.json.* and in annotations"):
        CocoSource(Request(place=str(tmp_path)))
    with pytest.raises(GanvasError, match="no such folder"):
        CocoSource(Request(place=str(tmp_path / "x")))
    with pytest.raises(GanvasError, match="say where it lies"):
        CocoSource(Request())
    write_json(tmp_path / "captions_val2017.json", images=[], annotations=[])
    with pytest.raises(GanvasError, match=r"image files in val2017, images/val2017, .*option images"):
        CocoSource(Request(place=str(tmp_path)))


def test_the_source_travels_light_and_knows_when_its_files_changed(one_val_set: Make) -> None:
    place = one_val_set([image(1)], [caption(1)])

    def about() -> str:
        return CocoSource(Request(place=str(place))).about

    first = about()
    assert str(place) not in first and first == about()
    draw(place / "val2017/new.png")
    second = about()
    one_val_set([image(1)], [caption(1, "b thing")])
    assert len({first, second, about()}) == 3
    source = CocoSource(Request(place=str(place)))
    assert len(list(source.records())) > 1
    assert len(pickle.dumps(source)) < 5000


def test_a_missing_or_damaged_picture_is_rejected_when_it_is_loaded(one_val_set: Make) -> None:
    place = one_val_set([image(1), image(4)], [caption(1), caption(4)])
    (place / "val2017/000000000001.jpg").write_bytes(b"\xff\xd8 no more")
    source = CocoSource(Request(place=str(place)))
    for record in source.records():
        if isinstance(record, Record):
            with pytest.raises(Rejected):
                source.load(record, 16)


sides = st.integers(1, 2000)
fractions = st.floats(-0.5, 1.5)


@example(width=1, height=3, x=0.0, y=0.5, wide=0.0, high=1e-09, resize="shorter")
@given(
    sides,
    sides,
    fractions,
    fractions,
    st.floats(0, 2),
    st.floats(0, 2),
    st.sampled_from(["shorter", "square"]),
)
def test_a_box_in_the_stored_image_stays_inside_and_loses_what_is_cut_off(
    width: int, height: int, x: float, y: float, wide: float, high: float, resize: Any
) -> None:
    box = (x * width, y * height, wide * width, high * height)
    (left, top, across, down), visible = in_stored(box, width, height, Fit(resize=resize))
    assert 0 <= left <= left + across <= 1 + 1e-9 and 0 <= top <= top + down <= 1 + 1e-9
    assert 0 <= visible <= 1 + 1e-9
    if resize == "square" and box[2] * box[3] > 1e-3:
        assert visible * wide * high == pytest.approx(across * down, abs=1e-6)


def test_an_object_without_area_is_visible_where_it_lies_inside() -> None:
    whole = Fit(resize="square")
    assert in_stored((10, 5, 0, 10), 20, 20, whole) == ((0.5, 0.25, 0, 0.5), 1)
    assert in_stored((-10, 5, 0, 10), 20, 20, whole)[1] == 0
