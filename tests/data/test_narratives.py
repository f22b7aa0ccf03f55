"""Localized Narratives, with small files in the layout of the official ones."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ganvas.data import narratives
from ganvas.data.narratives import NarrativesSource, read_narratives, read_traces
from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Request, open_source
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

COWS = "In this image there are group of cows standing and eating the grass on the ground."
COCO_VAL = "coco_val_localized_narratives.jsonl"
OPEN_IMAGES = "open_images_validation_localized_narratives.jsonl"


def line(
    image: Any = "137576", caption: Any = COWS, dataset: Any = "mscoco_val2017", **more: Any
) -> dict[str, Any]:
    """A line with every field of the official files."""
    return {
        "dataset_id": dataset,
        "image_id": image,
        "annotator_id": 93,
        "caption": caption,
        "timed_caption": [
            {"caption": "In this", "start_time": 0.0, "end_time": 0.4},
            {"caption": "image", "start_time": 0.4, "end_time": 1},
        ],
        "traces": [
            [{"x": 0.2086, "y": -0.0533, "t": 0.022}, {"x": 1, "y": 0.5, "t": 0.031}],
            [{"x": 0.25, "y": 0.75, "t": 2.5}],
        ],
        "voice_recording": f"coco_val/coco_val_{image}_93.ogg",
        **more,
    }


def write(path: Path, *lines: Any) -> Path:
    """A JSONL file; bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [text if isinstance(text, bytes) else json.dumps(text).encode() for text in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (200, 100, 50)).save(path)


def read(place: Path, **options: str) -> tuple[dict[str, Record], dict[str, str]]:
    """The records by id, and the reasons of what is left out by id."""
    found = list(NarrativesSource(Request(place=str(place), options=options)).records())
    left_out = {item.id: item.reason for item in found if isinstance(item, LeftOut)}
    return {item.id: item for item in found if isinstance(item, Record)}, left_out


@pytest.mark.parametrize(
    ("file", "dataset", "split", "image", "picture"),
    [
        ("coco_train", "mscoco_train2017", "train", "9", "train2017/000000000009.jpg"),
        ("coco_val", "mscoco_val2017", "val", "137576", "val2017/000000137576.jpg"),
        ("coco_val", "mscoco_val2017", "val", "137576", "images/val2017/000000137576.jpg"),
        ("coco_val", "mscoco_val2017", "val", "137576", "train2014/COCO_train2014_000000137576.jpg"),
        ("coco_val", "mscoco_val2017", "val", "000000137576", "images/000000137576.jpg"),
        ("coco_val", "mscoco_val2017", "val", "137576", "137576.jpg"),
        ("open_images_train_v6", "open_images", "train", "0000071d71a0a6f6", "train/0000071d71a0a6f6.jpg"),
        ("x", "open_images_validation", "val", "0001eeaf4aed83f9", "validation/0001eeaf4aed83f9.jpg"),
        ("open_images_test", "openimages_test", "test", "0000001234567890", "test/0000001234567890.jpg"),
        ("flickr30k_train", "Flickr30k_train", "train", "1000092795", "images/1000092795.jpg"),
        ("ade20k_train", "ADE20k_train", "train", "ADE_train_00000001", "images/ADE_train_00000001.jpg"),
    ],
)
def test_pictures_are_found_by_id_as_each_set_names_them(
    file: str, dataset: str, split: str, image: str, picture: str, tmp_path: Path
) -> None:
    draw(tmp_path / picture, tmp_path / "images" / "another.jpg")
    name = f"{file}_localized_narratives-00000-of-00010.jsonl"
    write(tmp_path / name, line(image, dataset=dataset))
    records, left_out = read(tmp_path)
    assert left_out == {} and list(records) == [image]
    assert (records[image].image, records[image].split) == (picture, split)
    assert records[image].captions == (COWS,)


def test_several_narratives_of_an_image_are_its_captions_wherever_they_stand(tmp_path: Path) -> None:
    draw(tmp_path / "train2017/000000000001.jpg", tmp_path / "train2017/000000000002.jpg")
    train = "mscoco_train2017"
    first = [line("2", "two a", train), line("1", "one a", train), line("2", "two b", train)]
    second = [line("1", "one b", train), line("2", "two c " * 300, train)]
    write(tmp_path / "annotations/coco_train_localized_narratives-00001-of-00004.jsonl", *second)
    write(tmp_path / "annotations/coco_train_localized_narratives-00000-of-00004.jsonl", *first)
    records, left_out = read(tmp_path)
    assert left_out == {}
    assert {image: r.captions for image, r in records.items()} == {
        "2": ("two a", "two b", "two c " * 300),
        "1": ("one a", "one b"),
    }
    assert list(records) == ["2", "1"]


def test_traces_keep_words_and_ways_beside_the_captions_of_the_store(tmp_path: Path) -> None:
    draw(*(tmp_path / f"val2017/{n:012}.jpg" for n in (1, 2, 3)))
    lines = [
        line("1", "kept"),
        line("2", "kept", traces=[[{"x": 0.5, "y": 0.5, "t": 7}]]),
        line("1", "has a \x07 bell", traces=[]),
        line("1", "kept, too", traces=[[], [{"x": 1.25, "y": -1, "t": 3}]], timed_caption=[]),
        line("3", "no picture for me"),
    ]
    write(tmp_path / COCO_VAL, *lines)
    (tmp_path / "val2017/000000000003.jpg").unlink()
    out = tmp_path / "store"
    prepare("narratives", out, place=str(tmp_path), size=16, workers=1, progress=False, allow_rejects=True)
    store = Store(out)
    assert dict(zip(store.ids, store.captions, strict=True)) == {"1": ["kept", "kept, too"], "2": ["kept"]}
    rows = read_traces(out).to_pylist()
    assert [(row["id"], row["caption"]) for row in rows] == [("1", 0), ("2", 0), ("1", 1)]
    assert rows[0]["timed_caption"] == [
        {"caption": "In this", "start_time": 0.0, "end_time": pytest.approx(0.4)},
        {"caption": "image", "start_time": pytest.approx(0.4), "end_time": 1.0},
    ]
    assert rows[0]["traces"] == [
        [
            {"x": pytest.approx(0.2086), "y": pytest.approx(-0.0533), "t": pytest.approx(0.022)},
            {"x": 1.0, "y": 0.5, "t": pytest.approx(0.031)},
        ],
        [{"x": 0.25, "y": 0.75, "t": 2.5}],
    ]
    assert rows[2]["traces"] == [[], [{"x": 1.25, "y": -1.0, "t": 3.0}]] and rows[2]["timed_caption"] == []
    assert read_traces(out, ["2"]).to_pylist() == [rows[1]]
    assert read_traces(out, []).num_rows == 0


@pytest.mark.parametrize("batch", [1, 1 << 20])
def test_traces_of_another_form_are_null_and_the_others_stay(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narratives, "_BATCH", batch)
    draw(tmp_path / "val2017/000000137576.jpg")
    utterances = [{"utterance": "In this", "start_time": 0, "end_time": 1}, None]
    without = {key: value for key, value in line().items() if key not in ("traces", "timed_caption")}
    lines = [
        line(timed_caption=utterances),
        line(traces="none"),
        line(traces=[[{"x": "left"}]]),
        without,
        line(timed_caption=None),
        line(timed_caption=[{"caption": "\ud800"}]),
        line(more={"deeply": [[{"nested": 1}]]}),
    ]
    write(tmp_path / COCO_VAL, *lines)
    source = open_source("narratives", Request(place=str(tmp_path)))
    found = [item for item in source.records() if isinstance(item, Record)]
    assert len(found[0].captions) == 7
    source.write_extras(tmp_path, ["137576"])
    rows = read_traces(tmp_path).to_pylist()
    assert [row["caption"] for row in rows] == list(range(7))
    assert [row["traces"] is None for row in rows] == [False, True, True, True, False, True, False]
    assert [row["timed_caption"] is None for row in rows] == [False, True, True, True, True, True, False]
    words = {"caption": "In this", "start_time": 0.0, "end_time": 1.0}
    assert rows[0]["timed_caption"] == [words, None]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"dataset_id": "mscoco_val2017", "im', "is no JSON object"),
        (b"[1, 2]", "is no JSON object"),
        (b"\xff\xfe{}", "is no JSON object"),
        (b"[" * 100_000, "is no JSON object"),
        (b'{"dataset_id": "mscoco_val2017", "image_id": "1", "caption": "a \x07 bell"}', "is no JSON object"),
        ({"image_id": "1", "caption": "x"}, "without dataset_id"),
        ({"dataset_id": "mscoco_val2017", "caption": "x"}, "without image_id"),
        ({"dataset_id": "mscoco_val2017", "image_id": "1"}, "without caption"),
        (line("1", 7), "without caption"),
        (line(True), "without image_id"),
        (line([]), "without image_id"),
        (line(""), "without image_id"),
        (line("../../etc/passwd"), "an image_id that is no name of a file"),
        (line("/etc/passwd"), "an image_id that is no name of a file"),
        (line(".."), "an image_id that is no name of a file"),
        (line("a\\b"), "an image_id that is no name of a file"),
        (line("0001eeaf4aed83f9", dataset="open_images_validation"), "of another data set"),
        (line("1", dataset="mscoco_train2017"), "a narrative of an image that another split has"),
        (line("1", "word " * 1000), "a line of more than 0 MiB"),
    ],
)
def test_a_line_that_cannot_be_used_is_left_out_by_its_number_and_the_others_stay(
    broken: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narratives, "MAX_LINE", 2000 if "MiB" in reason else 1 << 20)
    draw(tmp_path / "val2017/000000000001.jpg")
    write(tmp_path / COCO_VAL, line("1", "first"), b"", broken, line("1", "last"))
    records, left_out = read(tmp_path)
    assert left_out == {f"{COCO_VAL}:3": reason}
    assert {image: r.captions for image, r in records.items()} == {"1": ("first", "last")}
    source = NarrativesSource(Request(place=str(tmp_path)))
    source.write_extras(tmp_path, ["1"])
    assert read_traces(tmp_path)["caption"].to_pylist() == [0, 1]


def test_a_last_line_without_an_end_is_read(tmp_path: Path) -> None:
    draw(tmp_path / "val2017/000000000001.jpg")
    (tmp_path / COCO_VAL).write_bytes(json.dumps(line("1")).encode())
    assert list(read(tmp_path)[0]) == ["1"]


def test_a_line_just_as_long_as_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / COCO_VAL, line("1"), line("2", "x" * 90), line("3"))
    long = len(json.dumps(line("2", "x" * 90)))
    for allowed, images in ((long, ["1", "2", "3"]), (long - 1, ["1", "3"])):
        monkeypatch.setattr(narratives, "MAX_LINE", allowed)
        found = list(read_narratives([path], "coco"))
        assert [item.image for item in found if isinstance(item, narratives.Narrative)] == images


def test_a_missing_picture_is_rejected_and_named(tmp_path: Path) -> None:
    draw(tmp_path / "val2017/000000000001.jpg", tmp_path / "val2017/000000000005.jpg")
    write(tmp_path / COCO_VAL, line("1"), line("2"))
    out = tmp_path / "store"
    prepare("narratives", out, place=str(tmp_path), size=16, workers=1, progress=False)
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["id"], row["reason"]) for row in csv.DictReader(file)] == [
            ("2", "no image file (000000000002.jpg)")
        ]
    assert Store(out).ids == ["1"]


def test_two_data_sets_in_a_folder_need_a_choice(tmp_path: Path) -> None:
    draw(tmp_path / "val2017/000000000001.jpg", tmp_path / "validation/0001eeaf4aed83f9.jpg")
    write(tmp_path / COCO_VAL, line("1"))
    write(tmp_path / OPEN_IMAGES, line("0001eeaf4aed83f9", dataset="open_images_validation"))
    with pytest.raises(GanvasError, match=r"more than one data set \(coco, open_images\).*option set"):
        NarrativesSource(Request(place=str(tmp_path)))
    assert list(read(tmp_path, set="coco")[0]) == ["1"]
    records, left_out = read(tmp_path, set="open_images")
    assert list(records) == ["0001eeaf4aed83f9"] and left_out == {}
    with pytest.raises(
        GanvasError, match="no narratives of the set 'openimages'; did you mean 'open_images'"
    ):
        NarrativesSource(Request(place=str(tmp_path), options={"set": "openimages"}))
    assert list(read(tmp_path / COCO_VAL)[0]) == ["1"]


def test_files_of_any_name_are_told_apart_by_their_first_line_that_can_be_read(tmp_path: Path) -> None:
    draw(tmp_path / "mine.jpg")
    write(tmp_path / "b.jsonl", b"broken", line("mine", dataset="mscoco_val2017"))
    source = NarrativesSource(Request(place=str(tmp_path)))
    assert source.options == {"set": "coco"}
    write(tmp_path / "b.jsonl", line("mine", dataset="of my own"))
    source = NarrativesSource(Request(place=str(tmp_path)))
    assert source.options == {"set": ""}
    assert [(r.id, r.split) for r in source.records() if isinstance(r, Record)] == [("mine", "train")]


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    draw(tmp_path / "a/000000000001.jpg")
    write(tmp_path / "b" / COCO_VAL, line("1"))
    assert read(tmp_path / "b", images=str(tmp_path / "a"))[0]["1"].image == "000000000001.jpg"


def test_a_wrong_place_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        GanvasError, match=r"looked for coco_train_localized_narratives.*\*\.jsonl, here and in"
    ):
        NarrativesSource(Request(place=str(tmp_path)))
    with pytest.raises(GanvasError, match="no such folder"):
        NarrativesSource(Request(place=str(tmp_path / "x")))
    with pytest.raises(GanvasError, match="say where it lies"):
        NarrativesSource(Request())
    write(tmp_path / COCO_VAL, line())
    with pytest.raises(GanvasError, match=r"image files in train2017, .*option images"):
        NarrativesSource(Request(place=str(tmp_path)))
    with pytest.raises(GanvasError, match=r"no traces.parquet here"):
        read_traces(tmp_path)
    (tmp_path / "traces.parquet").write_bytes(b"PAR1")
    with pytest.raises(GanvasError, match="is damaged"):
        read_traces(tmp_path)


def test_the_source_travels_light_and_knows_when_its_files_changed(tmp_path: Path) -> None:
    draw(tmp_path / "val2017/000000000001.jpg")

    def about() -> str:
        return NarrativesSource(Request(place=str(tmp_path))).about

    write(tmp_path / COCO_VAL, *(line(str(n)) for n in range(100)))
    first = about()
    assert str(tmp_path) not in first and first == about()
    draw(tmp_path / "val2017/000000000002.jpg")
    second = about()
    write(tmp_path / COCO_VAL, line("1"))
    assert len({first, second, about()}) == 3
    source = NarrativesSource(Request(place=str(tmp_path)))
    assert len(list(source.records())) == 1
    assert len(pickle.dumps(source)) < 5000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "t", "caption", "start_time"]), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("dataset_id", "image_id", "caption", "timed_caption", "traces"), values)
)


@given(st.lists(fields | st.binary(max_size=20).map(lambda text: text.replace(b"\n", b" ")), max_size=5))
def test_whatever_a_file_holds_every_line_is_a_narrative_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, found: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    draw(folder / "val2017/000000000001.jpg")
    lines = [{**line("1"), **item} if isinstance(item, dict) else item for item in found]
    write(folder / COCO_VAL, line("1"), *lines)
    source = NarrativesSource(Request(place=str(folder)))
    items = list(source.records())
    num_lines = sum(1 for text in lines if not isinstance(text, bytes) or text.strip())
    captions = sum(len(item.captions) for item in items if isinstance(item, Record))
    assert captions + sum(isinstance(item, LeftOut) for item in items) == num_lines + 1
    source.write_extras(folder, [item.id for item in items if isinstance(item, Record)])
    assert 1 <= read_traces(folder).num_rows <= captions
