"""Oxford-102: the official folder with MATLAB files, Reed's captions and class lists, StackGAN's pickles."""

from __future__ import annotations

import csv
import json
import pickle
import random
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.data.matlab import read_whole_numbers
from ganvas.data.oxford102 import CLASS_NAMES, Oxford102Source
from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

REAL = Path(__file__).parents[3] / "shared" / "data" / "oxford102_labels"
LABELS = [77, 77, 3, 3, 102, 102]
IDS = [f"image_{number:05d}" for number in range(1, 7)]


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(name: str, values: Sequence[object], dtype: str = "u1", compressed: bool = False) -> bytes:
    """A row of numbers as MATLAB writes it: flags, shape, name, and the elements."""
    numbers = {"u1": (9, 2), "u2": (11, 4), "f8": (6, 9), "i8": (14, 12)}
    as_class, kind = numbers[dtype]
    matrix = element(
        14,
        element(6, struct.pack("<II", as_class, 0))
        + element(5, struct.pack("<ii", 1, len(values)))
        + element(1, name.encode())
        + element(kind, np.array(values, f"<{dtype}").tobytes()),
    )
    packed = zlib.compress(matrix)
    return struct.pack("<II", 15, len(packed)) + packed if compressed else matrix


def mat(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file, written by a test".ljust(124) + b"\x00\x01IM" + b"".join(variables)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def official(folder: Path, labels: Sequence[int] = LABELS, pictures: bool = True) -> Path:
    """The official folder, as MATLAB wrote it: rows of uint8 and uint16, compressed."""
    jpg = folder / "jpg"
    jpg.mkdir(parents=True)
    (folder / "imagelabels.mat").write_bytes(mat(variable("labels", labels, compressed=True)))
    parts = {"trnid": [2, 3], "valid": [5], "tstid": [1, 4, 6]}
    (folder / "setid.mat").write_bytes(mat(*(variable(name, ids, "u2") for name, ids in parts.items())))
    for number in range(1, len(labels) + 1 if pictures else 1):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(jpg / f"image_{number:05d}.jpg")
    return folder


def texts(folder: Path, labels: Sequence[int] = LABELS) -> Path:
    for number, label in enumerate(labels, 1):
        name = f"image_{number:05d}"
        write_lines(
            folder / f"class_{label:05d}" / f"{name}.txt", [f"caption {k} of {name}" for k in range(10)]
        )
    return folder


def lists(folder: Path, test: Sequence[int] = (77,), train: Sequence[int] = (3, 102)) -> Path:
    write_lines(folder / "testclasses.txt", [f"class_{label:05d}" for label in test])
    write_lines(folder / "trainvalclasses.txt", [f"class_{label:05d}" for label in train])
    return folder


def read(place: Path, **options: str) -> tuple[dict[str, Record], dict[str, str]]:
    """The records by id, and the reasons of what is left out."""
    found = list(Oxford102Source(Request(place=str(place), options=options)).records())
    records = {each.id: each for each in found if isinstance(each, Record)}
    left_out = {each.id: each.reason for each in found if isinstance(each, LeftOut)}
    assert len(records) + len(left_out) == len(found)
    return records, left_out


@pytest.mark.parametrize("captions", ["text_c10", "text", ".", "../text_c10", "../text"])
def test_images_are_read_with_captions_in_the_folder_or_beside_it(captions: str, tmp_path: Path) -> None:
    home = official(tmp_path / "flowers")
    lists(texts(home / captions).parent)
    records, left_out = read(home)
    assert list(records) == IDS and not left_out
    record = records["image_00003"]
    assert record.captions == tuple(f"caption {k} of image_00003" for k in range(10))
    assert record.label == "canterbury bells" and record.attributes == {"class_number": "3"}
    assert record.image == "jpg/image_00003.jpg" and record.box is None
    assert [record.split for record in records.values()] == ["test", "test", *["train"] * 4]


def test_classes_for_training_and_for_validation_are_both_for_training(tmp_path: Path) -> None:
    home = lists(official(tmp_path))
    texts(home / "text_c10")
    (home / "trainvalclasses.txt").unlink()
    with pytest.raises(
        GanvasError, match=r"20 classes.*trainvalclasses\.txt and testclasses\.txt.*split=official"
    ):
        Oxford102Source(Request(place=str(home)))
    write_lines(home / "trainclasses.txt", ["class_00003"])
    write_lines(home / "valclasses.txt", ["class_00102"])
    assert Counter(record.split for record in read(home)[0].values()) == {"train": 4, "test": 2}


def test_a_class_in_neither_list_is_left_out(tmp_path: Path) -> None:
    home = lists(official(tmp_path), train=[3])
    texts(home / "text_c10")
    records, left_out = read(home)
    assert list(records) == IDS[:4]
    assert left_out == dict.fromkeys(IDS[4:], "its class is in neither list of classes")


def test_the_photos_own_split_is_that_of_setid(tmp_path: Path) -> None:
    home = official(tmp_path)
    texts(home / "text_c10")
    parts = {"trnid": [2, 3, 9], "valid": [5, 2], "tstid": [1, 4]}
    (home / "setid.mat").write_bytes(mat(*(variable(name, ids, "f8") for name, ids in parts.items())))
    records, left_out = read(home, split="official")
    assert {name: record.split for name, record in records.items()} == dict(
        zip(IDS[:5], ["test", "train", "train", "test", "val"], strict=True)
    )
    assert left_out == {
        "setid.mat, image 9": "is not in imagelabels.mat",
        "setid.mat, image 2": "is listed twice",
        IDS[5]: "is in no split of setid.mat",
    }


def test_stackgans_pickles_say_the_split_and_bring_the_vectors(tmp_path: Path) -> None:
    home = official(tmp_path / "flowers")
    texts(home / "text_c10")
    lists(home, test=[102], train=[3, 77])  # the pickles come first
    for split, ids in (("train", IDS[:1:-1]), ("test", IDS[:2])):
        (home / split).mkdir()
        (home / split / "filenames.pickle").write_bytes(pickle.dumps([f"jpg/{name}" for name in ids], 0))
        vectors = [np.full((10, 4), IDS.index(name), np.float32) for name in ids]
        (home / split / "char-CNN-RNN-embeddings.pickle").write_bytes(pickle.dumps(vectors, 2))
    assert [record.split for record in read(home)[0].values()] == ["test", "test", *["train"] * 4]
    prepare("oxford102", tmp_path / "out", place=str(home), size=16, workers=1, progress=False)
    assert Store(tmp_path / "out").ids == IDS
    sentences = np.load(tmp_path / "out" / "sentences.npy")
    assert np.array_equal(sentences[:, 0], np.repeat(np.arange(6), 10))


def test_a_store_of_it_is_prepared(tmp_path: Path) -> None:
    home = lists(official(tmp_path / "flowers"))
    texts(home / "text_c10")
    (home / "jpg" / "image_00006.jpg").unlink()
    info = prepare("oxford102", tmp_path / "out", place=str(home), size=16, workers=1, progress=False)
    assert info.splits == {"train": 3, "val": 0, "test": 2} and info.num_classes == 3
    with (tmp_path / "out" / "rejected.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["image_00006", "no image file (jpg/image_00006.jpg)"]]


def test_what_belongs_to_nothing_is_left_out_and_what_lacks_captions_has_none(tmp_path: Path) -> None:
    home = lists(official(tmp_path, [*LABELS, 0, 103]))
    texts(home / "text_c10", LABELS[:5])
    write_lines(home / "text_c10" / "class_00003" / "image_00006.txt", ["in the folder of another class"])
    write_lines(home / "text_c10" / "README.txt", ["of no interest"])
    (home / "jpg" / "image_09999.jpg").write_bytes(b"")
    (home / "jpg" / "image_00004.jpg").unlink()
    (home / "jpg" / "image_00004.jpg").symlink_to("/etc/hostname")
    records, left_out = read(home)
    assert list(records) == [*IDS[:3], *IDS[4:]] and records[IDS[5]].captions == ()
    assert left_out == {
        "jpg/image_00004.jpg": "is a link that leads out of the folder",
        "image_00004": "is a link that is not followed",
        "image_00007": "its class is not one of 1 to 102",
        "image_00008": "its class is not one of 1 to 102",
        "jpg/image_09999.jpg": "is not in imagelabels.mat",
        "text_c10/class_00003/image_00006.txt": "is a caption file without an image",
    }


def test_an_image_without_a_file_is_rejected_when_it_is_loaded(tmp_path: Path) -> None:
    home = lists(official(tmp_path, pictures=False))
    texts(home / "text_c10")
    source = Oxford102Source(Request(place=str(home)))
    with pytest.raises(Rejected, match="no image file"):
        source.load(next(each for each in source.records() if isinstance(each, Record)), 16)


def test_a_wrong_folder_says_which_files_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        GanvasError, match=r"looked for jpg, imagelabels\.mat; missing: jpg, imagelabels\.mat"
    ):
        Oxford102Source(Request(place=str(tmp_path)))
    home = official(tmp_path / "flowers")
    with pytest.raises(
        GanvasError, match=r"no captions; looked for captions\.pickle.*class_00001.*captions=FOLDER"
    ):
        Oxford102Source(Request(place=str(home)))
    (home / "setid.mat").unlink()
    with pytest.raises(GanvasError, match=r"missing: setid\.mat"):
        read(home, split="official")
    with pytest.raises(GanvasError, match="did you mean 'official'"):
        read(home, split="oficial")
    with pytest.raises(GanvasError, match="did you mean 'captions'"):
        read(home, caption="x")


@pytest.mark.parametrize("how", [{}, {"do_compression": True}])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u4", "f4", "f8", "i8"])
def test_what_scipy_writes_is_read(dtype: str, how: dict[str, bool], tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    content = {"other": "text", "labels": np.array([LABELS], dtype), "one": 7, "more": {"a": [1, 2]}}
    scipy_io.savemat(tmp_path / "some.mat", content, **how)
    assert read_whole_numbers(tmp_path / "some.mat", ["one", "labels"]) == {"one": [7], "labels": LABELS}


def test_the_byte_order_is_that_of_the_header(tmp_path: Path) -> None:
    swapped = (
        struct.pack(">II", 14, 56) + struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 1, 3)
    )
    swapped += struct.pack(">HH4s", 3, 1, b"ids") + struct.pack(">IIHHHH", 4, 6, 1, 256, 3, 0)
    path = tmp_path / "some.mat"
    path.write_bytes(mat()[:124] + b"\x01\x00MI" + swapped)
    assert read_whole_numbers(path, ["ids"]) == {"ids": [1, 256, 3]}


GOOD = mat(variable("labels", LABELS, compressed=True))
BAD_MATS = {
    "empty": b"",
    "no MATLAB file": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "cut short": GOOD[:-20],
    "a header alone": GOOD[:128],
    "damaged": GOOD[:140] + bytes(30) + GOOD[170:],
    "too large": GOOD + bytes(1 << 18),
    "unpacked too large": mat(variable("labels", [1] * (1 << 21), compressed=True)),
    "longer than it is": mat(struct.pack("<II", 14, 1 << 31)),
    "without labels": mat(variable("others", LABELS)),
    "labels without numbers": mat(variable("labels", [])),
    "labels that are text": mat(variable("labels", LABELS).replace(b"\x09\0\0\0", b"\x04\0\0\0", 1)),
    "fractions": mat(variable("labels", [1.5], "f8")),
    "no numbers": mat(variable("labels", [np.nan], "f8")),
    "endless numbers": mat(variable("labels", [np.inf], "f8")),
    "large numbers": mat(variable("labels", [2**62], "i8")),
}


@pytest.mark.parametrize("damage", BAD_MATS)
def test_a_matlab_file_that_is_something_else_is_one_line(damage: str, tmp_path: Path) -> None:
    home = lists(official(tmp_path))
    texts(home / "text_c10")
    (home / "imagelabels.mat").write_bytes(BAD_MATS[damage])
    with pytest.raises(GanvasError, match=r"imagelabels\.mat: ") as error:
        read(home)
    assert "\n" not in str(error.value)


def test_damaged_matlab_files_are_numbers_or_an_error_of_one_line(tmp_path: Path) -> None:
    chance = random.Random(1)
    plain = mat(variable("labels", LABELS))
    path = tmp_path / "some.mat"
    outcomes: Counter[str] = Counter()
    for _ in range(3000):
        content = bytearray(chance.choice([GOOD, plain]))
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(128, len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        try:
            numbers = read_whole_numbers(path, ["labels"])["labels"]
        except GanvasError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert all(type(number) is int for number in numbers)
            outcomes["read"] += 1
    assert min(outcomes["refused"], outcomes["read"]) > 20


def test_there_are_102_names_of_classes() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 102
    assert CLASS_NAMES[0] == "pink primrose" and CLASS_NAMES[101] == "blackberry lily"
    assert all(name == name.strip() and "\n" not in name for name in CLASS_NAMES)


needs_real_lists = pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data/oxford102_labels")


@needs_real_lists
def test_the_names_of_the_classes_are_those_that_others_use() -> None:
    names = json.loads((REAL / "cat_to_name.json").read_text())
    assert tuple(names[str(number)] for number in range(1, 103)) == CLASS_NAMES


@needs_real_lists
def test_all_images_are_read_with_the_real_classes(tmp_path: Path) -> None:
    """Numbers and classes are real; there are no pictures, captions and lists of classes are stand-ins.

    The split of ``labels.csv`` is neither by classes nor that of ``setid.mat``, so it is of no use here.
    """
    with (REAL / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = {int(row["image"][6:11]): int(row["class_id"]) for row in rows}
    labels = [classes[number] for number in range(1, 8190)]
    home = lists(official(tmp_path, labels, pictures=False), test=range(1, 21), train=range(21, 103))
    text = home / "stand-in.txt"
    write_lines(text, [f"stand-in caption {k}" for k in range(10)])
    for number, label in enumerate(labels, 1):
        path = home / "text_c10" / f"class_{label:05d}" / f"image_{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(text)
    records, left_out = read(home)
    assert len(records) == 8189 and not left_out
    sizes = Counter(record.label for record in records.values())
    assert len(sizes) == 102 and min(sizes.values()) == 40 and max(sizes.values()) == 258
    split = {s: {r.label for r in records.values() if r.split == s} for s in ("train", "test")}
    assert len(split["train"]) == 82 and len(split["test"]) == 20 and not split["train"] & split["test"]
    assert all(len(record.captions) == 10 for record in records.values())
