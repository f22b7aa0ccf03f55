"""The reader of tar shards: img2dataset's layout and its relatives, here and over the network."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from shard_sets import Parts, img2dataset, picture, served, write_shard

from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request, open_source
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError


def read(place: object, **options: str) -> list[Record | LeftOut]:
    return list(open_source("webdataset", Request(place=str(place), options=options)).records())


def captions(place: object, **options: str) -> list[tuple[str, ...]]:
    return [entry.captions for entry in read(place, **options) if isinstance(entry, Record)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return img2dataset(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder behind a server that knows no ranges."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with served(folder) as place:
        yield place


def test_a_record_carries_its_image_and_its_id_names_shard_and_key(folder: Path) -> None:
    source = open_source("webdataset", Request(place=str(folder)))
    records = [entry for entry in source.records() if isinstance(entry, Record)]
    assert [record.id for record in records[:5]] == [
        *(f"00000/{i:09d}" for i in range(4)),
        "00001/000000004",
    ]
    assert [record.captions for record in records] == [(f"caption {i}",) for i in range(12)]
    again = pickle.loads(pickle.dumps(source))
    pixels = again.load(records[7], 16)
    assert pixels.shape == (16, 16, 3) and np.abs(pixels.astype(int) - (35, 100, 50)).max() <= 3


def test_the_key_of_the_captions_can_be_chosen_and_may_hold_several(folder: Path) -> None:
    assert captions(folder, text="other")[0] == ("first of 0", "second of 0")
    assert captions(folder, text="caption")[0] == ("caption 0",)


def test_the_json_serves_where_there_is_no_txt(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("1", {"png": b"x", "json": b'{"caption": "from json"}'})])
    assert captions(tmp_path) == [("from json",)]


def test_the_store_holds_every_sample_and_the_same_wherever_the_shards_lie(
    folder: Path, address: str, tmp_path: Path
) -> None:
    info = prepare("webdataset", tmp_path / "here", size=16, place=str(folder), workers=1, progress=False)
    assert sum(info.splits.values()) == 12 and Store(tmp_path / "here").captions[3] == ["caption 3"]
    place = address + "/{00000..00002}.tar"
    remote = prepare("webdataset", tmp_path / "there", size=16, place=place, workers=1, progress=False)
    assert remote.fingerprint == info.fingerprint


def test_a_page_that_lists_shards_is_a_folder(address: str) -> None:
    assert len(read(address)) == 12


def test_an_object_store_is_a_folder_too(folder: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.put(str(folder), "/bucket/shards", recursive=True)
    assert captions("memory://bucket/shards") == captions(folder)
    assert captions("memory://bucket/shards/0000[12].tar") == captions(folder)[4:]


def test_a_missing_shard_on_a_server_is_one_line(address: str) -> None:
    with pytest.raises(GanvasError, match=r"http://.*/00009\.tar: cannot be read"):
        read(f"{address}/00009.tar")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"avif": b"x", "txt": b"words"}, "no image among its parts (.avif, .txt)"),
        ({"jpg": b"x"}, "no caption (neither .txt nor .json)"),
        ({"jpg": b"x", "json": b"{"}, ".json is no JSON"),
        ({"jpg": b"x", "json": b"[" * 100_000}, ".json is no JSON"),
        ({"jpg": b"x", "json": b'{"text": "words"}'}, ".json has no text at 'caption'"),
        ({"jpg": b"x", "json": b'{"caption": null}'}, ".json has no text at 'caption'"),
        ({"jpg": b"x", "json": b'["caption"]'}, ".json has no text at 'caption'"),
        ({"jpg": b"x", "txt": b"\xff\xfe"}, ".txt is no UTF-8 text"),
        ({"jpg": b"x", "txt": b"w" * 1_000_001}, ".txt has more than 1,000,000 bytes"),
    ],
)
def test_what_nothing_can_be_made_of_is_left_out_with_its_reason(
    tmp_path: Path, parts: Parts, reason: str
) -> None:
    write_shard(tmp_path / "a.tar", [("1", parts), ("2", {"jpg": b"x", "txt": b"fine"})])
    left_out, fine = read(tmp_path)
    assert left_out == LeftOut("a/1", reason)
    assert isinstance(fine, Record) and fine.captions == ("fine",)


def test_half_of_a_character_becomes_text_that_can_be_stored(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("1", {"jpg": b"x", "json": b'{"caption": "a \\ud800 b"}'})])
    assert captions(tmp_path) == [("a ? b",)]


def test_an_image_that_cannot_be_decoded_is_rejected(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("1", {"jpg": picture(1)[:300], "txt": b"words"})])
    source = open_source("webdataset", Request(place=str(tmp_path)))
    (record,) = source.records()
    assert isinstance(record, Record)
    with pytest.raises(Rejected):
        source.load(record, 16)


def test_an_attack_stops_the_work_with_shard_and_member(tmp_path: Path) -> None:
    img2dataset(tmp_path)
    with tarfile.open(tmp_path / "00001.tar", "a") as tar:
        info = tarfile.TarInfo("evil.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(GanvasError, match=r"00001\.tar: member evil\.jpg is a symbolic link"):
        prepare("webdataset", tmp_path / "out", size=16, place=str(tmp_path), workers=1, progress=False)
    assert not (tmp_path / "out").exists()


def test_splits_are_shares_by_hash_and_a_tiny_set_is_for_training(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [(f"{i:04d}", {"jpg": b"x", "txt": b"w"}) for i in range(1000)])
    found = [entry.split for entry in read(tmp_path, val="20", test="10") if isinstance(entry, Record)]
    assert 150 < found.count("val") < 250 and 60 < found.count("test") < 140
    write_shard(tmp_path / "a.tar", [("0", {"jpg": b"x", "txt": b"w"})])
    assert [entry.split for entry in read(tmp_path, val="45", test="45") if isinstance(entry, Record)] == [
        "train"
    ]


def test_what_the_data_are_does_not_depend_on_where_they_lie(folder: Path, tmp_path: Path) -> None:
    here = open_source("webdataset", Request(place=str(folder)))
    copy = open_source("webdataset", Request(place=str(img2dataset(tmp_path / "copy"))))
    assert here.about == copy.about and here.about.startswith("3 shards of images with captions (")
    img2dataset(tmp_path / "copy", (40, 40, 40))  # tars grow by 10 KiB at a time
    assert open_source("webdataset", Request(place=str(tmp_path / "copy"))).about != here.about


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(), "say where its shards lie"),
        (Request(place="nowhere"), "nowhere: no such file or folder"),
        (Request(place=".", options={"txet": "x"}), "did you mean 'text'"),
        (Request(place=".", options={"val": "95"}), "percentage"),
    ],
)
def test_a_wrong_request_is_one_line(request_: Request, why: str) -> None:
    with pytest.raises(GanvasError, match=why):
        open_source("webdataset", request_)
