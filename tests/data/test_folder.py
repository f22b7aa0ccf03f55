"""Captioned images in a folder: tables, caption files, splits, and what is wrong with some of them."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.data import folder as module
from ganvas.data import rows as rows_module
from ganvas.data.folder import FolderSource
from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request, open_source
from ganvas.data.splits import hash_rule
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

Rows = Sequence[Mapping[str, object]]


def save(root: Path, *names: str) -> None:
    """Images, each of a colour of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (number % 256, number // 256, 0)).save(path)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_jsonl(rows: Rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows: Rows, delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(
        file, list(dict.fromkeys(key for row in rows for key in row)), delimiter=delimiter
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8-sig")


def as_parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    return file.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "metadata.jsonl": as_jsonl,
    "metadata.csv": as_csv,
    "metadata.parquet": as_parquet,
}


def source(root: Path, **options: str) -> FolderSource:
    return FolderSource(Request(place=str(root), options=options))


def read(root: Path, **options: str) -> tuple[dict[str, Record], dict[str, str]]:
    """Records by id, and reasons by id."""
    both = source(root, **options).records()
    records = {each.id: each for each in both if isinstance(each, Record)}
    reasons = {each.id: each.reason for each in both if isinstance(each, LeftOut)}
    assert len(records) + len(reasons) == len(both)
    return records, reasons


# -- the two conventions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("table", WRITERS)
def test_a_table_in_any_of_three_formats_gives_the_same_records(table: str, tmp_path: Path) -> None:
    save(tmp_path, "a.png", "deep/er/b.JPG")
    rows = [
        {"file_name": "deep/er/b.JPG", "text": "a bee, in a box", "label": "bees"},
        {"file_name": "a.png", "text": "ein Äpfelchen", "label": "fruit"},
        {"file_name": "deep/er/b.JPG", "text": "a bee\nand a line", "label": "bees"},
    ]
    write(tmp_path / table, WRITERS[table](rows))
    records, reasons = read(tmp_path, val="0", test="0")
    assert not reasons
    assert list(records) == ["a", "deep/er/b"]
    assert records["a"] == Record("a", "train", ("ein Äpfelchen",), "fruit", image="a.png")
    assert records["deep/er/b"].captions == ("a bee, in a box", "a bee\nand a line")
    assert records["deep/er/b"].image == "deep/er/b.JPG"


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_captions_may_be_a_list_and_their_column_have_either_name(
    table: str, column: str, tmp_path: Path
) -> None:
    save(tmp_path, "a.png")
    write(tmp_path / table, WRITERS[table]([{"file_name": "a.png", column: ["one", "two"]}]))
    assert read(tmp_path)[0]["a"].captions == ("one", "two")


def test_a_list_in_a_cell_of_csv_stays_the_text_that_it_is(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", as_csv([{"file_name": "a.png", "text": '["one", "two"]'}]))
    assert read(tmp_path)[0]["a"].captions == ('["one", "two"]',)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(delimiter: str, tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    content = as_csv([{"text": "a; b, c\td", "file_name": "a.png"}], delimiter)
    write(tmp_path / "metadata.csv", b"\r\n" + content.removeprefix(b"\xef\xbb\xbf"))
    assert read(tmp_path)[0]["a"].captions == ("a; b, c\td",)


def test_options_choose_the_columns_of_captions_and_classes(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    row = {"file_name": "a.png", "text": "no", "prompt": "yes", "label": "no", "kind": 3}
    write(tmp_path / "metadata.jsonl", as_jsonl([row]))
    record = read(tmp_path, text="prompt", label="kind")[0]["a"]
    assert record.captions == ("yes",)
    assert record.label == "3"


def test_a_text_file_beside_an_image_has_a_caption_a_line(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "x/v1.5.jpeg")
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\n  two \rthree")
    write(tmp_path / "x/v1.5.TXT", "four")
    records, reasons = read(tmp_path)
    assert not reasons
    assert records["a"].captions == ("one", "two", "three")
    assert records["x/v1.5"].captions == ("four",)


def test_a_table_speaks_for_its_folder_and_text_files_for_the_others(tmp_path: Path) -> None:
    save(tmp_path, "train/a.png", "train/deep/b.png", "test/c.png")
    write(tmp_path / "train/metadata.jsonl", as_jsonl([{"file_name": "a.png", "text": "from the table"}]))
    for name in ("train/a", "train/deep/b", "test/c"):
        write(tmp_path / f"{name}.txt", "from the file")
    records, reasons = read(tmp_path)
    assert {name: record.captions[0] for name, record in records.items()} == {
        "test/c": "from the file",
        "train/a": "from the table",
    }
    assert reasons == {
        "train/deep/b": "has no row of use in train/metadata.jsonl, which is read instead of its caption file"
    }


def test_of_two_tables_in_a_folder_one_is_read(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    for table, writer in WRITERS.items():
        write(tmp_path / table, writer([{"file_name": "a.png", "text": table}]))
    records, reasons = read(tmp_path)
    assert records["a"].captions == ("metadata.jsonl",)
    assert set(reasons) == {"metadata.csv", "metadata.parquet"}


def test_images_that_differ_in_their_extension_alone_keep_it(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "a.jpg", "b.png")
    for name in "ab":
        write(tmp_path / f"{name}.txt", name)
    records, _ = read(tmp_path)
    assert list(records) == ["a.jpg", "a.png", "b"]


def test_a_name_is_found_however_it_is_spelt(tmp_path: Path) -> None:
    save(tmp_path, "x/é.png", "x/e\u0301e.png", "x/c.png")
    names = ["x/e\u0301.png", "./x//ée.png", "x\\c.png"]
    write(tmp_path / "metadata.jsonl", as_jsonl([{"file_name": name, "text": "t"} for name in names]))
    records, reasons = read(tmp_path)
    assert not reasons
    assert set(records) == {"x/é", "x/ée", "x/c"}


# -- splits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation", "dev"])
def test_folders_name_splits(name: str, tmp_path: Path) -> None:
    places = {"train": "train/birds/a", "val": f"{name}/a", "test": "test/a"}
    save(tmp_path, *(f"{place}.png" for place in places.values()))
    for place in places.values():
        write(tmp_path / f"{place}.txt", "a bird")
    records, _ = read(tmp_path)
    assert {record.split: record.id for record in records.values()} == places


def test_a_column_names_splits_before_folders_do(tmp_path: Path) -> None:
    save(tmp_path, "train/a.png", "train/b.png", "train/c.png")
    rows = [
        {"file_name": "train/a.png", "text": "t", "split": "Validation"},
        {"file_name": "train/b.png", "text": "t", "split": "test"},
        {"file_name": "train/c.png", "text": "t", "split": ""},
    ]
    write(tmp_path / "metadata.csv", as_csv(rows))
    records, _ = read(tmp_path)
    assert {name: record.split for name, record in records.items()} == {
        "train/a": "val",
        "train/b": "test",
        "train/c": "train",
    }


def many(root: Path, count: int, folder: str = "") -> None:
    """Captioned files that nobody decodes."""
    for number in range(count):
        write(root / folder / f"{number}.jpg", "")
        write(root / folder / f"{number}.txt", "t")


@pytest.mark.parametrize("folder", ["", "train"])
def test_without_splits_a_hash_makes_them_and_more_images_move_none(folder: str, tmp_path: Path) -> None:
    many(tmp_path, 300, folder)
    before = {name: record.split for name, record in read(tmp_path, val="10", test="20")[0].items()}
    shares = Counter(before.values())
    assert 15 <= shares["val"] <= 45 and 35 <= shares["test"] <= 85  # 30 and 60, and four deviations
    many(tmp_path, 400, folder)
    write(tmp_path / folder / "0.png", "")
    after = {record.image: record.split for record in read(tmp_path, val="10", test="20")[0].values()}
    assert {name: after[f"{name}.jpg"] for name in before} == before


def test_images_without_a_split_among_others_that_have_one_are_split_by_the_hash(tmp_path: Path) -> None:
    many(tmp_path, 100)
    many(tmp_path, 3, "test")
    records, _ = read(tmp_path, val="30", test="0")
    assert {record.split for name, record in records.items() if name.startswith("test/")} == {"test"}
    others = {name: record.split for name, record in records.items() if "/" not in name}
    rule = hash_rule({"val": "30", "test": "0"}, "folder")
    assert others == {name: rule(name) for name in others}
    assert set(others.values()) == {"train", "val"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_for_training_where_the_hash_would_leave_none(count: int, tmp_path: Path) -> None:
    rule = hash_rule({"val": "45", "test": "45"}, "folder")
    unlucky = [str(number) for number in range(100) if rule(str(number)) != "train"][:count]
    for name in unlucky:
        write(tmp_path / f"{name}.jpg", "")
        write(tmp_path / f"{name}.txt", "t")
    records, _ = read(tmp_path, val="45", test="45")
    assert [record.split for record in records.values()] == ["train"] * count


@given(st.text(st.characters(codec="utf-8")), st.integers(0, 45), st.integers(0, 45), st.integers(0, 45))
def test_a_larger_share_moves_images_out_of_training_alone(key: str, val: int, test: int, more: int) -> None:
    small = hash_rule({"val": str(min(val, more)), "test": str(test)}, "folder")(key)
    large = hash_rule({"val": str(max(val, more)), "test": str(test)}, "folder")(key)
    assert small == large or (small, large) == ("train", "val")


def test_the_hash_is_the_same_in_every_version() -> None:
    rule = hash_rule({"val": "20", "test": "20"}, "folder")
    expected = ["test", "train", "train", "train", "test", "train", "val", "train"]
    assert [rule(f"img{number}") for number in range(8)] == expected


@pytest.mark.parametrize("share", ["-1", "91", "5%", "5.5", "", "٣", "9999"])
def test_a_share_that_is_no_percentage_is_refused(share: str, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match=r"option val=.*whole percentage from 0 to 90"):
        source(tmp_path, val=share)


def test_shares_leave_something_for_training(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="val=50 and test=41 leave too little for training"):
        source(tmp_path, val="50", test="41")
    with pytest.raises(GanvasError, match="no option 'vall'; did you mean 'val'"):
        source(tmp_path, vall="5")


# -- what is left out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "t"}, "file_name is empty"),
        ({"file_name": None, "text": "t"}, "file_name is empty"),
        ({"file_name": "", "text": "t"}, "file_name is empty"),
        ({"file_name": 3, "text": "t"}, "file_name is a number, not text"),
        ({"file_name": ["good.png"], "text": "t"}, "file_name is a list, not text"),
        ({"file_name": "/etc/passwd", "text": "t"}, "absolute path"),
        ({"file_name": "C:\\a.png", "text": "t"}, "absolute path"),
        ({"file_name": "\\\\host\\a.png", "text": "t"}, "absolute path"),
        ({"file_name": "../good.png", "text": "t"}, r"leads out of the folder \('..'\)"),
        ({"file_name": "x\\..\\..\\good.png", "text": "t"}, "file_name leads out of the folder"),
        ({"file_name": "\ud800.png", "text": "t"}, "file_name is not UTF-8"),
        ({"file_name": "a\0b.png", "text": "t"}, "no such image file"),
        ({"file_name": "gone.png", "text": "t"}, "no such image file"),
        ({"file_name": "deep", "text": "t"}, "no such image file"),
        ({"file_name": ".hidden.png", "text": "t"}, "hidden files are not read"),
        ({"file_name": "out.png", "text": "t"}, "through a link that is not followed"),
        ({"file_name": "way/b.png", "text": "t"}, "through a link that is not followed"),
        ({"file_name": "other.png", "text": 3}, "'text' is or holds a number, not text"),
        ({"file_name": "other.png", "text": {"a": 1}}, "'text' is or holds an object, not text"),
        ({"file_name": "other.png", "text": ["t", None]}, "'text' is or holds empty, not text"),
        ({"file_name": "other.png", "text": "\udcff"}, "'text' is not UTF-8"),
        (
            {"file_name": "other.png", "text": "t", "split": "extra"},
            "split is 'extra', not train, val or test",
        ),
        ({"file_name": "other.png", "text": "t", "split": 1}, "split is a number"),
        ({"file_name": "other.png", "text": "t", "label": [1]}, "'label' is a list"),
        ({"file_name": "other.png", "text": "t", "label": True}, "'label' is true or false"),
        ({"file_name": "good.png", "text": "t", "label": "b"}, "the label 'a', this one 'b'"),
        ({"file_name": "good.png", "text": "t", "split": "val"}, "the split 'test', this one 'val'"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_the_others_are_not(
    row: dict[str, object], reason: str, tmp_path: Path
) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    save(outside, "b.png")
    save(root, "good.png", "deep/z.png", "other.png", ".hidden.png")
    (root / "out.png").symlink_to(outside / "b.png")
    (root / "way").symlink_to(outside)
    good = {"file_name": "good.png", "text": "fine", "label": "a", "split": "test"}
    write(root / "metadata.jsonl", as_jsonl([good, row, {"file_name": "deep/z.png", "text": "fine"}]))
    both = source(root).records()
    assert [record.id for record in both if isinstance(record, Record)] == ["deep/z", "good"]
    left_out = [each for each in both if isinstance(each, LeftOut)]
    assert "\n".join(each.id for each in left_out).encode()
    assert len([each for each in left_out if re.search(reason, each.reason)]) == 1
    assert {each.id for each in left_out} >= {"out.png", "way"}
    told = "other" in [each.id for each in left_out]
    assert told == (row.get("file_name") != "other.png")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b'"metadata"', "is no JSON object"),
        (b'{"file_name": "b.png", "text": "\xff"}', "is not UTF-8"),
        (b'{"file_name": "b.png", "text": "' + b"x" * 1_000_000 + b'"}', "is longer than 1,000,000 bytes"),
        (b'{"file_name": "b.png", "text": "' + b"x" * 3_456_789 + b'"}', "is longer than 1,000,000 bytes"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
    ],
)
def test_a_line_that_is_no_row_is_left_out(line: bytes, reason: str, tmp_path: Path) -> None:
    save(tmp_path, "a.png", "c.png")
    lines = [as_jsonl([{"file_name": f"{name}.png", "text": "t"}]) for name in "ac"]
    write(tmp_path / "metadata.jsonl", b"\xef\xbb\xbf" + lines[0] + b"\n" + line + b"\n" + lines[1])
    records, reasons = read(tmp_path)
    assert set(records) == {"a", "c"}
    assert reasons == {"metadata.jsonl line 3": reason}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            b"b.png,a cat, sitting",
            "has more cells than there are columns (a caption with a comma needs quotes)",
        ),
        (b"b.png,\xff", "is not UTF-8"),
        (b"b.png," + b"x" * 200_000, "is no CSV (field larger than field limit (131072))"),
        (b"b.png," + b"x" * 2_000_000, "is longer than 1,000,000 bytes"),
    ],
)
def test_a_line_of_csv_that_is_no_row_is_left_out(line: bytes, reason: str, tmp_path: Path) -> None:
    save(tmp_path, "a.png", "c.png")
    write(tmp_path / "metadata.csv", b"file_name,text\na.png,t\n" + line + b"\nc.png,t")
    records, reasons = read(tmp_path)
    assert set(records) == {"a", "c"}
    assert reasons == {"metadata.csv line 3": reason}


def test_a_cell_of_parquet_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "c.png")
    bad = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"x\xffy")
    )
    table = pa.table({"file_name": ["a.png", "b.png", "c.png"], "text": bad, "more": [{"a": 1}] * 3})
    pq.write_table(table, tmp_path / "metadata.parquet")
    records, reasons = read(tmp_path)
    assert {name: record.captions for name, record in records.items()} == {"a": ("x",), "c": ("y",)}
    assert reasons == {"b.png": "'text' is or holds unreadable, not text"}


@given(st.binary(max_size=300))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("table", WRITERS)
def test_whatever_a_table_holds_there_are_records_or_one_line(
    table: str, tmp_path: Path, content: bytes
) -> None:
    if not (tmp_path / "a.png").exists():
        save(tmp_path, "a.png")
    write(tmp_path / table, b"file_name,text\n" * table.endswith("csv") + content)
    try:
        for each in source(tmp_path).records():
            assert each.id.encode()
    except GanvasError as error:
        assert "\n" not in str(error) and str(tmp_path) in str(error)


def test_images_and_caption_files_that_cannot_be_used_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CAPTION_FILE_BYTES", 20)
    save(tmp_path, "good.png", "bare.png", "latin.png", "empty.png", "long.png", "._good.png")
    write(tmp_path / "good.txt", "t")
    write(tmp_path / "latin.txt", "é".encode("latin-1"))
    write(tmp_path / "empty.txt", " \n\n")
    write(tmp_path / "long.txt", "x" * 21)
    write(tmp_path / "README.txt", "hello")
    write(tmp_path / "._good.txt", "what macOS leaves behind")
    os.mkfifo(tmp_path / "fifo.txt")
    records, reasons = read(tmp_path)
    assert set(records) == {"good"}
    assert reasons == {
        "README.txt": "is a caption file without an image",
        "bare": "has no caption file beside it",
        "empty": "its caption file is empty",
        "latin": "its caption file is not UTF-8",
        "long": "its caption file has more than 20 bytes",
    }


def test_links_within_the_folder_are_followed_and_no_others(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root, "a.png", "deep/b.png")
    save(tmp_path, "secret.png", "root-2/c.png")
    write(tmp_path / "secret.txt", "secret")
    write(root / "a.txt", "t")
    (root / "again.png").symlink_to("a.png")
    (root / "again.txt").symlink_to(root / "a.txt")
    (root / "loop").symlink_to(".")
    (root / "nothing.png").symlink_to("gone.png")
    (root / "out.png").symlink_to("../root-2/c.png")
    (root / "deep/b.txt").symlink_to(tmp_path / "secret.txt")
    records, reasons = read(root)
    assert set(records) == {"a", "again"}
    assert reasons == {
        "deep/b": "has no caption file beside it",
        "deep/b.txt": "is a link that leads out of the folder",
        "loop": "is a link to a folder, which is not followed",
        "nothing.png": "is a link to nothing",
        "out.png": "is a link that leads out of the folder",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="file names of other systems are Unicode")
def test_a_file_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    write(tmp_path / "a.txt", "t")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png")).write_bytes(b"")
    records, reasons = read(tmp_path)
    assert set(records) == {"a"}
    assert reasons == {"b\\udcff.png": "its name is not UTF-8"}


# -- the whole folder ------------------------------------------------------------------------------------


def test_a_folder_without_captions_says_what_it_looked_for_and_what_is_there(tmp_path: Path) -> None:
    many(tmp_path, 1204)
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    write(tmp_path / "captions.json", "{}")
    with pytest.raises(GanvasError) as error:
        source(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no captions: looked for metadata.jsonl, metadata.csv or metadata.parquet, and for"
        " NAME.txt beside NAME.jpg, here and in sub-folders;"
        " found 1,204 images (.jpg 1,204) and 1 other files (.json 1)"
        "; systems that read no captions take them with --option captions=none"
    )


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="found nothing"):
        source(tmp_path)
    with pytest.raises(GanvasError, match="no such folder"):
        source(tmp_path / "gone")
    with pytest.raises(GanvasError, match="say where it lies"):
        FolderSource(Request())
    save(tmp_path, "a.png")
    write(tmp_path / "a.txt", "t")
    with pytest.raises(GanvasError, match=r"option text names a column, but there is no metadata\.jsonl"):
        source(tmp_path, text="caption")


@pytest.mark.parametrize(
    ("table", "content", "options", "message"),
    [
        ("metadata.jsonl", b"", {}, r"metadata.jsonl: holds no rows \(it is empty\)"),
        ("metadata.csv", b"", {}, r"holds no rows \(it is empty\)"),
        ("metadata.jsonl", b"[\n1]", {}, r"holds no rows \(line 2 is no JSON\)"),
        ("metadata.jsonl", b'{"text": "t"}', {}, "no column 'file_name'; its columns are: text"),
        ("metadata.csv", b"a b,text\n", {}, "no column 'file_name'; its columns are: a b, text"),
        ("metadata.csv", "file_name,text\n".encode("utf-16"), {}, "no column 'file_name'"),
        (
            "metadata.csv",
            b"file_name,prompt\n",
            {},
            "no column 'text' or 'caption' or 'captions'; its.*prompt",
        ),
        (
            "metadata.csv",
            b"file_name,text\n",
            {"text": "prompt"},
            "no column 'prompt'; its .*: file_name, text",
        ),
        ("metadata.csv", b"file_name,text\n", {"label": "kind"}, "no column 'kind'; its .*: file_name, text"),
        ("metadata.parquet", b"PAR1", {}, "metadata.parquet: cannot be read"),
        ("metadata.parquet", as_parquet([{"text": "t"}]), {}, "no column 'file_name'"),
    ],
)
def test_a_table_that_cannot_be_meant_is_an_error_of_one_line(
    table: str, content: bytes, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    save(tmp_path, "a.png")
    write(tmp_path / table, content)
    with pytest.raises(GanvasError, match=message) as error:
        source(tmp_path, **options).records()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("table", WRITERS)
def test_a_table_beyond_the_limit_is_refused(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MAX_BYTES", 3000)
    save(tmp_path, "a.png")
    write(tmp_path / table, WRITERS[table]([{"file_name": "a.png", "text": "x" * 5000}]))
    with pytest.raises(GanvasError, match="more than 0 GB"):
        source(tmp_path).records()


def test_a_prepared_data_set_is_not_read_as_images(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    write(tmp_path / "a.txt", "t")
    about = source(tmp_path).about
    prepare("folder", tmp_path / "prepared", place=str(tmp_path), size=16, workers=1, progress=False)
    save(tmp_path, "prepared/b.png")
    write(tmp_path / "prepared/b.txt", "t")
    assert source(tmp_path).about == about
    with pytest.raises(GanvasError, match="is prepared already; train on it with --data"):
        source(tmp_path / "prepared")


def test_what_is_said_about_a_folder_changes_with_what_is_in_it_and_not_with_its_place(
    tmp_path: Path,
) -> None:
    def about(where: str, caption: str, names: Sequence[str]) -> str:
        save(tmp_path / where, *names)
        write(tmp_path / where / "a.txt", caption)
        return source(tmp_path / where).about

    first = about("1", "a cat", ["a.png"])
    assert first == about("2", "a cat", ["a.png"])
    assert first != about("3", "a bat", ["a.png"])
    assert first != about("4", "a cat", ["a.png", "b.png"])
    assert str(tmp_path) not in first


def test_a_source_travels_without_its_tables(tmp_path: Path) -> None:
    many(tmp_path, 500)
    write(tmp_path / "0.jpg", (tmp_path / "0.txt").read_bytes())
    whole = source(tmp_path)
    travelled = pickle.loads(pickle.dumps(whole))
    assert len(pickle.dumps(whole)) < 2000
    assert travelled.records() == whole.records()
    with pytest.raises(Rejected, match="is no image"):
        travelled.load(Record("0", "train", ("t",), image="0.jpg"), 16)


def test_a_folder_is_prepared_with_what_is_wrong_beside_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root, *(f"{number}.png" for number in range(8)))
    for number in range(8):
        write(root / f"{number}.txt", f"number {number}")
    write(root / "3.png", b"GIF89a")
    write(root / "more.txt", "t")
    info = prepare("folder", tmp_path / "out", place=str(root), size=16, workers=1, progress=False)
    store = Store(tmp_path / "out")
    assert store.ids == [str(number) for number in range(8) if number != 3]
    assert [store.captions[row] for row in (0, 6)] == [["number 0"], ["number 7"]]
    assert store.images[6][0, 0].tolist() == [7, 0, 0]
    assert info.options.items() >= {"text": "", "label": "", "val": "5", "test": "5"}.items()
    with (tmp_path / "out/rejected.csv").open(newline="") as file:
        left_out = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(left_out) == {"3", "more.txt"}


def test_the_table_in_the_docs_is_read_as_the_docs_say(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "your-pictures.md"
    (table,) = re.findall(r"```\n(file_name,.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    save(tmp_path, "cat.jpg", "garden/roses.png")
    write(tmp_path / "metadata.csv", table)
    records, reasons = read(tmp_path)
    assert not reasons
    assert records["cat"].captions == ("a grey cat on a red sofa", "a cat, fast asleep")
    assert [record.label for record in records.values()] == ["cat", "flower"]


# -- without captions ------------------------------------------------------------------------------------


def test_all_images_are_taken_where_captions_are_not_read(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "test/c.png", "train/d.png")
    write(tmp_path / "b.txt", "never read")
    write(tmp_path / "metadata.csv", as_csv([{"file_name": "gone.png", "text": "never read"}]))
    records, reasons = read(tmp_path, captions="none", val="0", test="0")
    assert not reasons and list(records) == ["a", "b", "test/c", "train/d"]
    assert {record.captions for record in records.values()} == {("an image",)}
    assert [record.split for record in records.values()] == ["train", "train", "test", "train"]
    reader = source(tmp_path, captions="none")
    assert pickle.loads(pickle.dumps(reader)).records() == reader.records()
    write(tmp_path / "e.txt", "captions are no part of the data")
    assert source(tmp_path, captions="none").about == reader.about


def test_images_without_captions_are_prepared(tmp_path: Path) -> None:
    save(tmp_path / "in", *(f"{number}.png" for number in range(12)))
    info = prepare("folder", tmp_path / "out", place=tmp_path / "in", size=16, options={"captions": "none"})
    assert sum(info.splits.values()) == info.num_captions == 12 and info.options["captions"] == "none"
    assert Store(tmp_path / "out").captions == [["an image"]] * 12


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"captions": "no"}, "option captions: should be read or none, not 'no'"),
        ({"captions": "none", "label": "kind"}, "option label names a column of a table, but with"),
        ({"captions": "none", "text": "words"}, "option text names a column of a table, but with"),
        ({"captions": "none"}, "no images: looked here and in sub-folders; found 1 other files (.txt 1)"),
    ],
)
def test_what_does_not_go_without_captions_is_one_line(
    options: dict[str, str], problem: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.txt", "a caption without an image")
    with pytest.raises(GanvasError, match=re.escape(problem)):
        source(tmp_path, **options)


def test_the_reader_is_registered(tmp_path: Path) -> None:
    many(tmp_path, 1)
    assert isinstance(open_source("folder", Request(place=str(tmp_path))), FolderSource)
