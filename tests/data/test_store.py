"""The prepared store: what is written is what is read, and what is damaged is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.data.store import Record, Store, StoreInfo, caption_table
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError

SIZE = 4
RECORDS = (
    Record(
        id="a", split="train", captions=("a red ball", "one ball"), label="ball", attributes={"hue": "red"}
    ),
    Record(id="b", split="val", captions=("ein Ei, weiß\n– 🥚",), label=None),
    Record(id="c", split="test", captions=("a ball",), label="ball"),
)


def image(number: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), number, np.uint8)


def writer(path: Path) -> StoreWriter:
    return StoreWriter(path, name="balls", size=SIZE, source="a test", licence="CC0-1.0", options={"a": "1"})


def write(path: Path, records: tuple[Record, ...] = RECORDS) -> StoreInfo:
    with writer(path) as store:
        for number, record in enumerate(records):
            store.add(record, image(number))
        return store.finish()


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    info = write(tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.info == info
    assert (info.splits, info.num_captions, info.num_classes) == ({"train": 1, "val": 1, "test": 1}, 4, 1)
    assert (store.ids, store.splits, store.labels) == (
        ["a", "b", "c"],
        ["train", "val", "test"],
        ["ball", None, "ball"],
    )
    assert [tuple(row) for row in store.captions] == [record.captions for record in RECORDS]
    assert store.attributes == [{"hue": "red"}, {}, {}]
    assert all((store.images[number] == number).all() for number in range(3))
    assert store.rows("test").tolist() == [2]


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=3), st.dictionaries(st.text(), st.text(), max_size=3)
)
def test_any_caption_and_attribute_survives(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], attributes: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "store"
    write(path, (Record(id="x", split="train", captions=tuple(captions), attributes=attributes),))
    store = Store(path)
    assert (store.captions, store.attributes) == ([captions], [attributes])


@pytest.mark.parametrize(
    "other",
    [
        Record(
            id="z",
            split="train",
            captions=("a red ball", "one ball"),
            label="ball",
            attributes={"hue": "red"},
        ),
        Record(
            id="a", split="val", captions=("a red ball", "one ball"), label="ball", attributes={"hue": "red"}
        ),
        Record(id="a", split="train", captions=("a red ball",), label="ball", attributes={"hue": "red"}),
        Record(id="a", split="train", captions=("a red ball", "one ball"), attributes={"hue": "red"}),
        Record(id="a", split="train", captions=("a red ball", "one ball"), label="ball"),
    ],
    ids=["id", "split", "captions", "label", "attributes"],
)
def test_the_fingerprint_tells_every_difference(tmp_path: Path, other: Record) -> None:
    first = write(tmp_path / "first").fingerprint
    assert first == write(tmp_path / "again").fingerprint
    assert first != write(tmp_path / "other", (other, *RECORDS[1:])).fingerprint


def test_the_fingerprint_tells_different_pixels(tmp_path: Path) -> None:
    fingerprints = []
    for number in (1, 2):
        with writer(tmp_path / str(number)) as store:
            store.add(RECORDS[0], image(number))
            fingerprints.append(store.finish().fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_what_is_left_out_is_listed_with_the_reason(tmp_path: Path) -> None:
    with writer(tmp_path / "store") as store:
        store.add(RECORDS[0], image(0))
        store.reject("b", "no caption, or\na bad one")
        store.reject_image("c", "damaged")
        assert store.num_rejected == 2
        store.finish()
    with (tmp_path / "store" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["id", "reason"],
            ["b", "no caption, or\na bad one"],
            ["c", "damaged"],
        ]


def test_a_failure_leaves_nothing_behind_and_keeps_what_was_there(tmp_path: Path) -> None:
    kept = write(tmp_path / "store")
    with pytest.raises(RuntimeError, match="on purpose"), writer(tmp_path / "store") as store:
        store.add(RECORDS[1], image(9))
        raise RuntimeError("on purpose")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert Store(tmp_path / "store").info == kept


def test_a_new_store_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "store")
    write(tmp_path / "store", RECORDS[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert Store(tmp_path / "store").ids == ["a"]


def test_the_old_store_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write(tmp_path / "store")
    rename = Path.rename

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if "partial" in path.name:
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="Permission denied"):
        write(tmp_path / "store", RECORDS[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert Store(tmp_path / "store").info == kept


def test_a_store_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="nothing to prepare"), writer(tmp_path / "store") as store:
        store.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["photo.jpg", "dataset.json"])
def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(GanvasError, match="is not empty and holds no prepared data set"):
        writer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GanvasError, match="is a file"):
        writer(tmp_path / "file")
    with pytest.raises(GanvasError, match="cannot write here"):
        writer(tmp_path / "file" / "below")


def test_an_empty_current_folder_can_become_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path())
    assert Store(tmp_path / "here").ids == ["a", "b", "c"]


def _edit_json(**changes: object) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        meta = path / "dataset.json"
        meta.write_text(json.dumps(json.loads(meta.read_text()) | changes))

    return edit


def _edit_table(name: str, values: list[object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        table = pq.read_table(path / "captions.parquet")
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path / "captions.parquet")

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "dataset.json").write_text("{"),
        lambda path: (path / "dataset.json").write_text("[]"),
        lambda path: (path / "dataset.json").write_bytes(b"\xff\xfe"),
        lambda path: (path / "dataset.json").write_text("[" * 100_000),
        _edit_json(format=2),
        _edit_json(size="large"),
        _edit_json(size=SIZE + 1),
        _edit_json(splits=["train"]),
        _edit_json(splits={"train": 3, "val": 0, "test": 0}),
        lambda path: (path / "captions.parquet").write_bytes(b""),
        lambda path: (path / "captions.parquet").unlink(),
        _edit_table("captions", [["a"], [], ["b"]]),
        _edit_table("captions", [["a"], None, ["b"]]),
        lambda path: pq.write_table(
            pq.read_table(path / "captions.parquet").slice(1), path / "captions.parquet"
        ),
        lambda path: pq.write_table(
            pq.read_table(path / "captions.parquet").drop_columns("captions"), path / "captions.parquet"
        ),
        lambda path: (path / "images.npy").write_bytes(b""),
        lambda path: (path / "images.npy").write_bytes(b"no array at all"),
        lambda path: (path / "images.npy").write_bytes((path / "images.npy").read_bytes()[:-1]),
        lambda path: np.save(path / "images.npy", np.zeros((3, SIZE, SIZE, 3), np.float32)),
        lambda path: np.save(path / "images.npy", np.array([{}], dtype=object), allow_pickle=True),
    ],
)
def test_a_damaged_store_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write(tmp_path / "store")
    damage(tmp_path / "store")
    with pytest.raises(GanvasError, match="prepare it again") as error:
        Store(tmp_path / "store")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "store") in str(error.value)


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="ganvas data prepare NAME --out"):
        Store(tmp_path)


@pytest.mark.parametrize(("split", "hint"), [("tset", "did you mean 'test'?"), ("val", "known: test, train")])
def test_a_split_that_is_not_there_is_refused_with_the_ones_that_are(
    tmp_path: Path, split: str, hint: str
) -> None:
    write(tmp_path / "store", (RECORDS[0], RECORDS[2]))
    with pytest.raises(GanvasError) as error:
        Store(tmp_path / "store").rows(split)
    assert f"no split '{split}'" in str(error.value) and hint in str(error.value)


def test_a_caption_table_tells_where_the_captions_of_a_row_begin() -> None:
    flat, starts = caption_table([["a", "b"], ["c"], ["d", "e", "f"]])
    assert flat == list("abcdef")
    assert starts.tolist() == [0, 2, 3, 6]
