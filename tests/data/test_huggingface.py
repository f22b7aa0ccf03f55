"""Data sets of the datasets library: columns by type, splits, images that stay on disk, and no network."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request
from ganvas.data.splits import hash_rule
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

datasets = pytest.importorskip("datasets", reason="needs ganvas[huggingface]")

from ganvas.data import huggingface_places  # noqa: E402
from ganvas.data.huggingface import HuggingFaceSource  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (20, 16), (number, 0, 0))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def table(count: int = 6, **columns: Any) -> Any:
    """A data set with ``count`` images, the text ``number N``, and what else is given."""
    given = {
        "image": [picture(number) for number in range(count)],
        "text": [f"number {number}" for number in range(count)],
        **columns,
    }
    return datasets.Dataset.from_dict({name: values for name, values in given.items() if values is not None})


def saved(folder: Path, data: Any) -> str:
    data.save_to_disk(folder)
    return str(folder)


def read(place: str | Path, **options: str) -> tuple[HuggingFaceSource, list[Record], list[LeftOut]]:
    source = HuggingFaceSource(Request(place=str(place), options=options))
    both = list(source.records())
    assert len(both) == len(source.records())  # type: ignore[arg-type]
    records = [each for each in both if isinstance(each, Record)]
    return source, records, [each for each in both if isinstance(each, LeftOut)]


# -- what lies on disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["saved", "file", "folder"])
def test_a_data_set_on_disk_gives_its_images_and_captions(kind: str, tmp_path: Path) -> None:
    data = table(label=[0, 1, 2, 0, 1, 2]).cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
    root = tmp_path / "with [brackets]"
    if kind == "saved":
        place = saved(root, data)
    else:
        root.mkdir()
        data.to_parquet(root / "0000.parquet")
        place = str(root / "0000.parquet" if kind == "file" else root)
    source, records, left_out = read(place, val="0", test="0")
    assert not left_out
    assert [record.id for record in records] == [f"{index:08d}" for index in range(6)]
    assert [record.captions for record in records] == [(f"number {index}",) for index in range(6)]
    assert [record.label for record in records] == ["a", "b", "c"] * 2
    assert {record.split for record in records} == {"train"}
    assert [source.load(record, 16)[8, 8].tolist() for record in records] == [[n, 0, 0] for n in range(6)]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("column", ["captions", "whatever"])
def test_captions_may_be_a_list(wide: bool, column: str, tmp_path: Path) -> None:
    kind = datasets.LargeList if wide else datasets.List
    data = table(3, text=None, **{column: [["a", "b"], [], ["c", None]]})
    data = data.cast_column(column, kind(datasets.Value("large_string" if wide else "string")))
    _, records, _ = read(saved(tmp_path / "d", data))
    assert [record.captions for record in records] == [("a", "b"), (), ("c",)]


def test_a_row_without_caption_or_image_is_left_out_when_prepared(tmp_path: Path) -> None:
    data = table(6, image=[None, *map(picture, range(1, 6))], text=["t", None, "u", "v", "w", "x"])
    data = data.cast_column("image", datasets.Image())
    place = saved(tmp_path / "d", data)
    prepare("huggingface", tmp_path / "out", place=place, size=16, workers=2, progress=False)
    store = Store(tmp_path / "out")
    assert store.ids == [f"{index:08d}" for index in range(2, 6)]
    assert [store.images[row][0, 0].tolist() for row in range(4)] == [[n, 0, 0] for n in range(2, 6)]
    rejected = (tmp_path / "out/rejected.csv").read_text()
    assert "00000000,has no image in its row" in rejected and "00000001,no caption" in rejected


def test_images_that_nobody_declared_are_found_by_their_bytes(tmp_path: Path) -> None:
    for name, values in {
        "struct": [{"bytes": png(7), "path": None}],
        "bytes": [png(7)],
        "stated": [{"bytes": png(7)}],
    }.items():
        pq.write_table(pa.table({"picture": values, "text": ["t"]}), tmp_path / f"{name}.parquet")
        source, (record,), _ = read(tmp_path / f"{name}.parquet")
        assert source.load(record, 16)[0, 0].tolist() == [7, 0, 0]


def test_an_encoded_image_is_decoded_by_our_bounded_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(1, image=[{"bytes": b"GIF89a", "path": None}]).cast_column("image", datasets.Image())
    place = saved(tmp_path / "d", data)
    monkeypatch.setattr(datasets.Image, "decode_example", None)  # the library's own would fail here
    source, (record,), _ = read(place)
    with pytest.raises(Rejected, match="image"):
        source.load(record, 16)


def test_images_in_files_of_the_data_set_are_read_and_others_are_not(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "pictures").mkdir(parents=True)
    (root / "pictures/in.png").write_bytes(png(7))
    (tmp_path / "out.png").write_bytes(png(8))
    (root / "pictures/link.png").symlink_to(tmp_path / "out.png")
    inside = ["pictures/in.png", str(root / "pictures/in.png")]
    outside = ["../out.png", str(tmp_path / "out.png"), "pictures/link.png"]
    unreadable = ["pictures/gone.png", "https://example.com/a.png", "a\0b"]
    paths = [*inside, *outside, *unreadable]
    values = [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array(values, kind)
    pq.write_table(pa.table({"image": images, "text": ["t"] * len(paths)}), root / "a.parquet")
    source, records, _ = read(root)
    for record, path in zip(records, paths, strict=True):
        if path in inside:
            assert source.load(record, 16)[0, 0].tolist() == [7, 0, 0]
        else:
            with pytest.raises(Rejected, match="outside of the data set" if path in outside else "cannot be"):
                source.load(record, 16)


def test_text_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"x\xff"))
    data = datasets.Dataset(pa.table({"image": [{"bytes": png(1), "path": ""}] * 2, "text": bad}))
    _, records, left_out = read(saved(tmp_path / "d", data))
    assert [record.captions for record in records] == [("x",)]
    assert left_out == [LeftOut("00000001", "its text is not UTF-8")]


# -- splits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_splits_are_those_of_the_data_set(kind: str, tmp_path: Path) -> None:
    splits = {"train": table(3), "validation": table(2), "test": table(1)}
    if kind == "saved":
        saved(tmp_path / "d", datasets.DatasetDict(splits))
    else:
        for name, data in splits.items():
            (tmp_path / "d/data").mkdir(parents=True, exist_ok=True)
            data.to_parquet(tmp_path / "d/data" / f"{name}-00000-of-00001.parquet")
        table(1).to_parquet(tmp_path / "d/more.parquet")
    source, records, left_out = read(tmp_path / "d")
    assert [record.split for record in records] == ["train"] * 3 + ["val"] * 2 + ["test"]
    validation = "validation" if kind == "saved" else "val"
    assert [record.id for record in records][3:] == [
        *(f"{validation}/0000000{n}" for n in range(2)),
        "test/00000000",
    ]
    assert source.load(records[4], 16)[0, 0].tolist() == [1, 0, 0]
    assert [each.id for each in left_out] == (["more.parquet"] if kind == "parquet" else [])


@pytest.mark.parametrize("name", ["train", "test", "whatever"])
def test_a_single_split_is_split_by_the_hash_of_the_row(name: str, tmp_path: Path) -> None:
    data = datasets.DatasetDict({name: table(100, image=[b""] * 100)})
    _, records, _ = read(saved(tmp_path / "d", data), val="20", test="20")
    rule = hash_rule({"val": "20", "test": "20"}, "huggingface")
    assert [record.split for record in records] == [rule(f"{index:08d}") for index in range(100)]
    assert {record.split for record in records} == {"train", "val", "test"}


def test_splits_with_names_of_their_own(tmp_path: Path) -> None:
    known = datasets.DatasetDict({"train": table(2), "extra": table(4)})
    _, records, left_out = read(saved(tmp_path / "known", known))
    assert len(records) == 2
    assert left_out == [LeftOut("extra", "a split of 4 images that is not train, validation or test")]
    _, records, left_out = read(tmp_path / "known", split="extra")
    assert [record.id for record in records] == [f"{index:08d}" for index in range(4)]
    unknown = datasets.DatasetDict({"one": table(2), "two": table(4)})
    with pytest.raises(GanvasError, match=r"none of its splits is train.*split=NAME: one, two"):
        read(saved(tmp_path / "unknown", unknown))
    with pytest.raises(GanvasError, match="no split 'three'; it has: one, two"):
        read(tmp_path / "unknown", split="three")


# -- columns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"image": None}, {}, r"no column of images; .*image=COLUMN; its columns are: text \(string\)"),
        ({"text": None}, {}, "no column of text; choose one with the option text=COLUMN"),
        ({"text": None, "a": ["x"], "b": ["y"]}, {}, "several columns of text.*text=COLUMN"),
        ({"more": [picture(1)]}, {}, r"several columns of images \(image, more\).*image=COLUMN"),
        ({}, {"image": "img"}, "no column 'img'; its columns are: image"),
        ({}, {"image": "text"}, "column 'text' holds no images"),
        ({}, {"text": "txt"}, "no column 'txt'"),
        ({}, {"text": "image"}, "column 'image' holds no text"),
        ({}, {"label": "kind"}, "no column 'kind'"),
        ({}, {"colour": "x"}, "no option 'colour'"),
        ({}, {"config": "x"}, "option config=x is for data sets on the hub"),
        ({}, {"revision": "x"}, "option revision=x is for data sets on the hub"),
        ({}, {"val": "x"}, "option val=x: give a whole percentage"),
    ],
)
def test_columns_that_cannot_be_chosen_are_an_error_of_one_line(
    columns: dict[str, Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    place = saved(tmp_path / "d", table(1, **columns))
    with pytest.raises(GanvasError, match=message) as error:
        read(place, **options)
    assert "\n" not in str(error.value)


def test_options_choose_columns(tmp_path: Path) -> None:
    data = table(2, more=[picture(9)] * 2, prompt=["p", "q"], kind=[5, 6])
    source, records, _ = read(saved(tmp_path / "d", data), image="more", text="prompt", label="kind")
    assert [record.captions for record in records] == [("p",), ("q",)]
    assert [record.label for record in records] == ["5", "6"]
    assert source.load(records[0], 16)[0, 0].tolist() == [9, 0, 0]


def test_a_class_that_is_not_known_is_none(tmp_path: Path) -> None:
    data = table(3, kind=[0, -1, 1]).cast_column("kind", datasets.ClassLabel(names=["a", "b"]))
    assert [record.label for record in read(saved(tmp_path / "d", data))[1]] == ["a", None, "b"]


def test_every_split_needs_the_columns(tmp_path: Path) -> None:
    splits = {"train": table(1), "test": table(1, text=None, caption=["t"])}
    with pytest.raises(GanvasError, match="split 'test' has no column 'text'"):
        read(saved(tmp_path / "d", datasets.DatasetDict(splits)))


# -- what cannot be opened -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", r"looked for dataset_dict.json or state.json .*\*.parquet; found .png 1.*'folder'"),
        ("a.png", "is no .parquet file"),
        ("gone/a/b", "no such folder, and no name of a data set on the hub"),
        ("bad.parquet", "cannot be read"),
    ],
)
def test_a_wrong_place_says_what_was_looked_for(place: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(b"")
    if place.endswith(".parquet"):
        (root / place).write_bytes(b"PAR1")
    with pytest.raises(GanvasError, match=message) as error:
        read(root / place)
    assert "\n" not in str(error.value)
    with pytest.raises(GanvasError, match="say which"):
        HuggingFaceSource(Request())


@pytest.mark.parametrize(
    "state",
    [
        '{"_data_files": [{"filename": "../secret.arrow"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}',
        '{"_data_files": [{"filename": "link.arrow"}]}',
        '{"_data_files": [{"filename": 3}]}',
        '{"_data_files": ["a"]}',
        '{"_data_files": []}',
        "{}",
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_saved_data_set_that_names_files_elsewhere_is_refused(state: str, tmp_path: Path) -> None:
    root = Path(saved(tmp_path / "d", table(1)))
    (tmp_path / "secret.arrow").write_bytes((root / "data-00000-of-00001.arrow").read_bytes())
    (root / "link.arrow").symlink_to(tmp_path / "secret.arrow")
    whole = json.loads((root / "state.json").read_text())
    changed = {**whole, **json.loads(state)} if state.startswith('{"') else state
    (root / "state.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(GanvasError, match=r"state.json: (names|is no JSON)") as error:
        read(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("splits", ['["../d"]', '["link"]', '["/etc"]', "[]", "3", '[["a"]]'])
def test_splits_that_lie_elsewhere_are_refused(splits: str, tmp_path: Path) -> None:
    saved(tmp_path / "d", table(1))
    root = tmp_path / "splits"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "d")
    (root / "dataset_dict.json").write_text(f'{{"splits": {splits}}}')
    with pytest.raises(GanvasError, match=r"dataset_dict.json: names"):
        read(root)


def test_a_saved_data_set_that_was_cut_off_is_an_error_of_one_line(tmp_path: Path) -> None:
    place = Path(saved(tmp_path / "d", table(1)))
    os.truncate(place / "data-00000-of-00001.arrow", 100)
    with pytest.raises(GanvasError, match="cannot be read") as error:
        read(place)
    assert "\n" not in str(error.value)


def test_a_library_that_may_run_code_of_data_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(GanvasError, match=r"3\.6\.0, which may run code"):
        read("user/name")


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GanvasError, match=r"pip install 'ganvas\[huggingface\]'"):
        huggingface_places.library()


# -- the hub ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_name_without_a_network_is_an_error_of_one_line_at_once(
    variables: dict[str, str], tmp_path: Path
) -> None:
    program = (
        "from ganvas.data.source import Request, open_source\n"
        "from ganvas.errors import GanvasError\n"
        "import sys, time, datasets\n"
        "start = time.monotonic()\n"
        "try:\n"
        "    open_source('huggingface', Request(place='user/no-such-data'))\n"
        "except GanvasError as error:\n"
        "    print(error)\n"
        "print(time.monotonic() - start)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    error, seconds = done.stdout.splitlines()
    assert error.startswith("user/no-such-data: is no folder here, and cannot be had from the hub")
    assert float(seconds) < 15
    assert not done.stderr


@pytest.mark.parametrize(
    "place", ["../user", "a..b/c", "https://example.com/a", "a/b/c", "hf://a/b", "é/b", "a/b@c", "-"]
)
def test_what_is_no_name_is_not_looked_for_on_the_hub(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GanvasError, match="no such folder, and no name of a data set on the hub"):
        read(place)


def test_what_the_hub_gives_is_read_and_code_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    class Hub:
        def dataset_info(self, name: str, **given: Any) -> None:
            asked["probe"] = (name, given)

    def load_dataset(*names: str, **given: Any) -> Any:
        asked["load"] = (names, given)
        return datasets.DatasetDict({"train": table(2), "test": table(1)})

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source, records, _ = read("user/name", config="small", revision="v2")
    assert len(records) == 3
    assert source.about.startswith("user/name from the Hugging Face hub; ")
    assert asked["probe"] == ("user/name", {"revision": "v2", "timeout": 10.0})
    names, given = asked["load"]
    assert names == ("user/name", "small") and given["revision"] == "v2"
    assert "trust_remote_code" not in given


# -- memory ----------------------------------------------------------------------------------------------


def test_a_source_travels_and_reads_without_holding_its_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 50_000), np.uint8)
    values = [{"bytes": row.tobytes(), "path": None} for row in noise]
    place = saved(tmp_path / "d", table(200, image=values).cast_column("image", datasets.Image()))
    before = pa.total_allocated_bytes()
    source, records, _ = read(place)
    assert pa.total_allocated_bytes() - before < 1_000_000  # of 10,000,000
    packed = pickle.dumps(source)
    assert len(packed) < 100_000
    travelled = pickle.loads(packed)
    assert travelled.encoded(records[150]) == noise[150].tobytes()


def test_what_is_said_about_a_data_set_does_not_depend_on_its_place(tmp_path: Path) -> None:
    import shutil

    saved(tmp_path / "1", table(2))
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    first, second = (read(tmp_path / name)[0].about for name in "12")
    assert first == second and str(tmp_path) not in first
    assert first != read(saved(tmp_path / "3", table(3)))[0].about
