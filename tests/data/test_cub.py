"""CUB-200-2011: the official folder, StackGAN's and AttnGAN's layout, and the real lists."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.data.cub import TEST_CLASSES, CubSource
from ganvas.data.pixels import Fit, around, region
from ganvas.data.prepare import prepare
from ganvas.data.source import LeftOut, Rejected, Request
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError

REAL = Path(__file__).parents[3] / "shared" / "data" / "cub_metadata"
needs_real_lists = pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data/cub_metadata")

ALBATROSS, AUKLET, WREN = "001.Black_footed_Albatross", "005.Crested_Auklet", "196.House_Wren"
NAMES = [
    f"{species}/Bird_{number:04d}_{7 * number}" for species in (ALBATROSS, AUKLET, WREN) for number in (1, 2)
]
WORDS = ["<end>", "this", "bird", "is", "red", "blue", "small"]


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def official(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """The official folder with small images: 40 x 20 pixels, whose right half is white, and a box there."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    for name in names:
        path = folder / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    species = sorted({name.split("/")[0] for name in names})
    numbered = list(enumerate(names, 1))
    write_lines(folder / "images.txt", [f"{i} {name}.jpg" for i, name in numbered])
    write_lines(folder / "bounding_boxes.txt", [f"{i} 24.0 4.0 12.0 12.0" for i, _ in numbered])
    write_lines(folder / "classes.txt", [f"{int(name[:3])} {name}" for name in species])
    write_lines(folder / "image_class_labels.txt", [f"{i} {int(name[:3])}" for i, name in numbered])
    write_lines(folder / "train_test_split.txt", [f"{i} {i % 2}" for i, _ in numbered])
    return folder


def texts(folder: Path, names: Sequence[str] = NAMES, count: int = 10) -> Path:
    for name in names:
        write_lines(folder / f"{name}.txt", [f"caption {k} of {name}" for k in range(count)])
    return folder


def birds(folder: Path, captions: int = 10, vectors: int | None = 10, protocol: int = 2) -> Path:
    """AttnGAN's folder: the first class is for testing, and the images of train are in reversed order."""
    official(folder / "CUB_200_2011")
    names = {"train": NAMES[:1:-1], "test": NAMES[:2]}
    content: list[object] = []
    for split, images in names.items():
        place = folder / split
        place.mkdir()
        (place / "filenames.pickle").write_bytes(pickle.dumps(images, 0))
        numbers = [np.int64(int(image[:3])) for image in images]
        (place / "class_info.pickle").write_bytes(pickle.dumps(numbers, protocol))
        content.append([words(image, k) for image in images for k in range(captions)])
        if vectors:
            arrays = [np.stack([vector(image, k) for k in range(vectors)]) for image in images]
            (place / "char-CNN-RNN-embeddings.pickle").write_bytes(pickle.dumps(arrays, protocol))
    content += [dict(enumerate(WORDS)), {word: index for index, word in enumerate(WORDS)}]
    (folder / "captions.pickle").write_bytes(pickle.dumps(content, protocol))
    return folder


def words(image: str, k: int) -> list[int]:
    """Caption k of an image: no two are the same."""
    digits = [*divmod(10 * NAMES.index(image) + k, 6)]
    return [1, 2, 3, *[1 + digit for digit in (digits[0] // 6, digits[0] % 6, digits[1])]]


def vector(image: str, k: int) -> np.ndarray:
    return np.full(8, 10 * NAMES.index(image) + k, np.float32)


def read(place: Path, fit: Fit | None = None, **options: str) -> tuple[dict[str, Record], dict[str, str]]:
    """The records by id, and the reasons of what is left out."""
    found = list(CubSource(Request(place=str(place), options=options, fit=fit)).records())
    records = {each.id: each for each in found if isinstance(each, Record)}
    left_out = {each.id: each.reason for each in found if isinstance(each, LeftOut)}
    assert len(records) + len(left_out) == len(found)
    return records, left_out


@pytest.mark.parametrize("captions", ["text_c10", "text", "../text_c10", "../text"])
@pytest.mark.parametrize("given", ["the folder", "its parent"])
def test_the_official_folder_is_read_with_captions_in_it_or_beside_it(
    given: str, captions: str, tmp_path: Path
) -> None:
    home = official(tmp_path / "CUB_200_2011")
    texts(home / captions)
    records, left_out = read(home if given == "the folder" else tmp_path)
    assert list(records) == NAMES and not left_out
    record = records[NAMES[0]]
    assert record.captions == tuple(f"caption {k} of {NAMES[0]}" for k in range(10))
    assert record.label == "Black footed Albatross" and record.attributes == {"class_number": "1"}
    assert record.box == (24, 4, 12, 12) and record.image == f"images/{NAMES[0]}.jpg"
    assert {name: record.split for name, record in records.items()} == {
        name: "test" if name.startswith(ALBATROSS) else "train" for name in NAMES
    }


def test_captions_may_lie_anywhere_if_the_user_says_so(tmp_path: Path) -> None:
    home = official(tmp_path / "CUB_200_2011")
    with pytest.raises(
        GanvasError, match=r"no captions; looked for captions\.pickle.*text_c10.*captions=FOLDER"
    ):
        CubSource(Request(place=str(home)))
    elsewhere = texts(tmp_path / "cub_icml" / "text_c10")
    for folder in (elsewhere, elsewhere.parent):
        assert read(home, captions=str(folder))[0][NAMES[0]].captions[0].startswith("caption 0")
    with pytest.raises(GanvasError, match="and no folder of caption files"):
        read(home, captions=str(tmp_path / "nowhere"))


def test_the_same_data_in_another_place_are_the_same_and_changed_data_are_not(tmp_path: Path) -> None:
    def about(folder: Path, **options: str) -> tuple[str, dict[str, str]]:
        source = CubSource(Request(place=str(folder), options=options))
        return source.about, source.options

    first, second = official(tmp_path / "a"), official(tmp_path / "b")
    texts(first / "text_c10")
    texts(tmp_path / "elsewhere" / "text_c10")
    assert about(first) == about(second, captions=str(tmp_path / "elsewhere"))
    assert str(tmp_path) not in repr(about(first))
    before = about(first)
    write_lines(first / "text_c10" / f"{NAMES[0]}.txt", [f"kaption {k} of {NAMES[0]}" for k in range(10)])
    after = about(first)
    assert before != after
    (second / "images" / f"{NAMES[0]}.jpg").unlink()
    assert about(second, captions=str(tmp_path / "elsewhere")) != before


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_attngans_captions_are_joined_words_in_the_order_of_its_lists(protocol: int, tmp_path: Path) -> None:
    records, left_out = read(birds(tmp_path, protocol=protocol))
    assert list(records) == NAMES and not left_out
    for name, record in records.items():
        expected = [" ".join(WORDS[index] for index in words(name, k)) for k in range(10)]
        assert list(record.captions) == expected
        assert record.split == ("test" if name.startswith(ALBATROSS) else "train")


def test_a_store_of_attngans_folder_has_vocabulary_and_sentences(tmp_path: Path) -> None:
    prepare("cub", tmp_path / "out", place=str(birds(tmp_path / "birds")), size=16, workers=1, progress=False)
    store = Store(tmp_path / "out")
    vocabulary = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert vocabulary == {word: index for index, word in enumerate(WORDS)}
    assert next(iter(vocabulary)) == "<end>"
    sentences = np.load(tmp_path / "out" / "sentences.npy", mmap_mode="r")
    assert sentences.shape == (60, 8) and sentences.dtype == np.float32
    row = 0
    for name, captions in zip(store.ids, store.captions, strict=True):
        for caption in captions:
            k = next(k for k in range(10) if caption == " ".join(WORDS[i] for i in words(name, k)))
            assert (sentences[row] == vector(name, k)).all()
            row += 1


def test_text_files_beside_the_pickles_have_sentences_but_no_vocabulary(tmp_path: Path) -> None:
    folder = birds(tmp_path / "birds")
    (folder / "captions.pickle").unlink()
    texts(folder / "text")
    # caption 3 of the first image cannot be used, and the last image has no picture
    lines = [f"caption {k} of {NAMES[0]}" for k in range(10)]
    write_lines(folder / "text" / f"{NAMES[0]}.txt", [*lines[:3], "a \x07 bell", *lines[4:]])
    (folder / "CUB_200_2011" / "images" / f"{NAMES[-1]}.jpg").unlink()
    prepare("cub", tmp_path / "out", place=str(folder), size=16, workers=1, progress=False)
    assert Store(tmp_path / "out").ids == NAMES[:-1]
    assert not (tmp_path / "out" / "vocabulary.json").exists()
    sentences = np.load(tmp_path / "out" / "sentences.npy")
    expected = [vector(name, k) for name in NAMES[:-1] for k in range(10) if (name, k) != (NAMES[0], 3)]
    assert np.array_equal(sentences, np.stack(expected))


def _other_images(folder: Path) -> None:
    path = folder / "train" / "char-CNN-RNN-embeddings.pickle"
    path.write_bytes(pickle.dumps([np.zeros((10, 8), np.float32)], 2))


def _hostile(folder: Path) -> None:
    (folder / "train" / "char-CNN-RNN-embeddings.pickle").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")


def _missing(folder: Path) -> None:
    (folder / "test" / "char-CNN-RNN-embeddings.pickle").unlink()


def _other_width(folder: Path) -> None:
    path = folder / "test" / "char-CNN-RNN-embeddings.pickle"
    path.write_bytes(pickle.dumps([np.zeros((10, 9), np.float32)] * 2, 2))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_other_images, "is not 4 arrays"),
        (_missing, "no file"),
        (_other_width, "vectors of 9 numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_not_kept_and_the_log_says_why(
    damage: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = birds(tmp_path / "birds")
    damage(folder)
    with caplog.at_level(logging.WARNING):
        prepare("cub", tmp_path / "out", place=str(folder), size=16, workers=1, progress=False)
    assert not (tmp_path / "out" / "sentences.npy").exists()
    (message,) = [record.getMessage() for record in caplog.records if "sentences" in record.getMessage()]
    assert reason in message and "\n" not in message


def test_vectors_that_ask_for_more_than_data_stop_the_work(tmp_path: Path) -> None:
    folder = birds(tmp_path / "birds")
    _hostile(folder)
    with pytest.raises(GanvasError, match=r"embeddings\.pickle: asks for 'posix\.system'"):
        prepare("cub", tmp_path / "out", place=str(folder), size=16, workers=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_nine_vectors_for_ten_captions_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare("cub", tmp_path / "out", place=str(birds(tmp_path / "birds", vectors=9)), size=16, workers=1)
    assert not (tmp_path / "out" / "sentences.npy").exists()
    assert "has 10 captions, but 9 vectors" in caplog.text


def test_a_birds_folder_without_vectors_is_no_reason_to_say_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = birds(tmp_path / "birds", vectors=None)
    prepare("cub", tmp_path / "out", place=str(place), size=16, workers=1, progress=False)
    assert not (tmp_path / "out" / "sentences.npy").exists() and not caplog.text


def _pickled(*content: object) -> bytes:
    return pickle.dumps(list(content), 2)


INDEX = dict(enumerate(WORDS))
INVERSE = {word: index for index, word in enumerate(WORDS)}
CAPTIONS = [[1, 2]] * 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "'posix.system'"),
        (b"garbage", "cannot be read as a pickle"),
        (_pickled(1, 2), "is not \\[train captions"),
        (_pickled(CAPTIONS[:39], CAPTIONS[:20], INDEX, INVERSE), "39 captions for the 4 images of train"),
        (_pickled(CAPTIONS, CAPTIONS[:20], INDEX, {**INVERSE, "red": 5}), "do not agree"),
        (_pickled(CAPTIONS, CAPTIONS[:20], {1: "a", 2: "b"}, {"a": 1, "b": 2}), "do not agree"),
        (_pickled(CAPTIONS, CAPTIONS[:20], {"a": 0}, {0: "a"}), "not from indices to words"),
    ],
)
def test_a_captions_pickle_that_is_something_else_is_one_line(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (birds(tmp_path) / "captions.pickle").write_bytes(content)
    with pytest.raises(GanvasError, match=reason) as error:
        CubSource(Request(place=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("caption", [[1, 99], [1, "red"], "red", None, [-1], [1] * 9000])
def test_captions_that_are_no_words_leave_their_image_out(caption: object, tmp_path: Path) -> None:
    captions = [*CAPTIONS[:39], caption]
    path = birds(tmp_path) / "captions.pickle"
    path.write_bytes(_pickled(captions, CAPTIONS[:20], INDEX, INVERSE))
    records, left_out = read(tmp_path)
    assert set(NAMES) - set(records) == set(left_out) == {NAMES[2]}  # the last one of train
    assert "its captions in captions.pickle" in left_out[NAMES[2]]


def test_a_captions_pickle_needs_the_names_beside_it(tmp_path: Path) -> None:
    (birds(tmp_path) / "train" / "filenames.pickle").unlink()
    with pytest.raises(GanvasError, match=r"train/filenames\.pickle and test/filenames\.pickle"):
        CubSource(Request(place=str(tmp_path)))


def test_names_that_are_used_twice_or_are_none_are_one_line(tmp_path: Path) -> None:
    path = birds(tmp_path) / "test" / "filenames.pickle"
    path.write_bytes(pickle.dumps(NAMES[1:3]))
    with pytest.raises(GanvasError, match="named twice"):
        CubSource(Request(place=str(tmp_path)))
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(GanvasError, match="is not a list of names"):
        CubSource(Request(place=str(tmp_path)))


def test_an_image_that_only_the_lists_or_only_the_pickles_know_is_left_out(tmp_path: Path) -> None:
    folder = birds(tmp_path)
    lines = (folder / "CUB_200_2011" / "images.txt").read_text().splitlines()
    extra = f"{WREN}/Bird_9999_1"
    write_lines(folder / "CUB_200_2011" / "images.txt", [*lines[:-1], f"6 {extra}.jpg"])
    records, left_out = read(folder)
    assert list(records) == NAMES[:-1]
    assert left_out == {
        extra: "is neither in train/filenames.pickle nor in test/filenames.pickle",
        NAMES[-1]: "has captions in captions.pickle, but is not in the data set",
        f"images/{NAMES[-1]}.jpg": "is not listed in images.txt",
    }


@pytest.mark.parametrize("train", [["trainvalclasses.txt"], ["trainclasses.txt", "valclasses.txt"]])
def test_lists_of_classes_beside_the_captions_split_them(train: list[str], tmp_path: Path) -> None:
    home = official(tmp_path / "CUB_200_2011")
    texts(tmp_path / "text_c10")
    write_lines(tmp_path / "testclasses.txt", [WREN])
    write_lines(tmp_path / train[0], [ALBATROSS])
    if train[1:]:
        write_lines(tmp_path / train[1], [""])
    records, left_out = read(home)
    assert {name: record.split for name, record in records.items()} == {
        **dict.fromkeys(NAMES[:2], "train"),
        **dict.fromkeys(NAMES[4:], "test"),
    }
    assert left_out == dict.fromkeys(NAMES[2:4], "its class is in neither list of classes")
    write_lines(tmp_path / train[0], [ALBATROSS, WREN])
    with pytest.raises(GanvasError, match="for training and for testing"):
        CubSource(Request(place=str(home)))


def test_the_official_split_is_there_for_who_asks_for_it(tmp_path: Path) -> None:
    home = official(tmp_path)
    texts(home / "text_c10")
    write_lines(home / "train_test_split.txt", ["1 0", "2 1", "3 1", "4 0", "5 2"])
    records, left_out = read(home, split="official")
    assert {name: record.split for name, record in records.items()} == dict(
        zip(NAMES[:4], ["test", "train", "train", "test"], strict=True)
    )
    assert left_out == dict.fromkeys(NAMES[4:], "is not in train_test_split.txt")
    (home / "train_test_split.txt").unlink()
    with pytest.raises(GanvasError, match=r"looked for .*train_test_split\.txt"):
        read(home, split="official")


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"split": "oficial"}, "did you mean 'official'"), ({"splits": "x"}, "did you mean 'split'")],
)
def test_wrong_options_are_one_line(options: dict[str, str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match=reason):
        CubSource(Request(place=str(tmp_path), options=options))


@pytest.mark.parametrize("missing", ["images.txt", "bounding_boxes.txt"])
def test_a_wrong_folder_says_which_files_were_looked_for(missing: str, tmp_path: Path) -> None:
    with pytest.raises(
        GanvasError, match=r"looked for images, images\.txt, bounding_boxes\.txt, here and in"
    ):
        CubSource(Request(place=str(tmp_path)))
    home = official(tmp_path / "CUB_200_2011")
    texts(home / "text_c10")
    (home / missing).unlink()
    with pytest.raises(GanvasError, match=f"CUB_200_2011 lacks {missing}$"):
        CubSource(Request(place=str(tmp_path)))
    with pytest.raises(GanvasError, match="no such folder"):
        CubSource(Request(place=str(tmp_path / "nowhere")))
    with pytest.raises(GanvasError, match="say where it lies"):
        CubSource(Request())


BAD_LINES = {
    "images.txt": {
        "": {},
        "7": {"images.txt, line 7": "is not a number and a value"},
        "seven 001.A/b.jpg": {"images.txt, line 7": "is not a number and a value"},
        f"1 {WREN}/c.jpg": {"images.txt, line 7": "has the number of an earlier line"},
        f"7 {NAMES[0]}.jpg": {NAMES[0]: "is listed twice in images.txt"},
        "7 ../../secret.jpg": {"../../secret": "its name leads out of the folder, or is none"},
        "7 /etc/passwd": {"/etc/passwd": "its name leads out of the folder, or is none"},
        "7 001.A/../../b.jpg": {"001.A/../../b": "its name leads out of the folder, or is none"},
        "7 ..\\b.jpg": {"..\\b": "its name leads out of the folder, or is none"},
        "7 c:/b.jpg": {"c:/b": "its name leads out of the folder, or is none"},
        f"7 {WREN}/\0.jpg": {f"{WREN}/\0": "its name leads out of the folder, or is none"},
        f"7 {WREN}/c.jpg": {f"{WREN}/c": "has no class in image_class_labels.txt and classes.txt"},
    },
    "bounding_boxes.txt": {
        "7 1 2 3 4": {},
        "x": {"bounding_boxes.txt, line 7": "is not a number and a value"},
        "1 0 0 9 9": {"bounding_boxes.txt, line 7": "has the number of an earlier line"},
    },
}


@pytest.mark.parametrize(
    ("table", "line"), [(table, line) for table in BAD_LINES for line in BAD_LINES[table]]
)
def test_a_bad_line_is_left_out_and_the_others_are_read(table: str, line: str, tmp_path: Path) -> None:
    home = official(tmp_path)
    texts(home / "text_c10")
    with (home / table).open("a") as file:
        file.write(line + "\n")
    records, left_out = read(home)
    assert list(records) == NAMES
    assert left_out == BAD_LINES[table][line]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("1 2 3", "is not four numbers"),
        ("1 2 3 4 5", "is not four numbers"),
        ("a b c d", "is not four numbers"),
        ("1 2 0 4", "is empty or endless"),
        ("1 2 -3 4", "is empty or endless"),
        ("nan 2 3 4", "is empty or endless"),
        ("1 2 inf 4", "is empty or endless"),
        ("1 2 1e300 4", "is empty or endless"),
    ],
)
def test_an_image_whose_box_is_none_is_left_out_unless_no_box_is_wanted(
    box: str, reason: str, tmp_path: Path
) -> None:
    home = official(tmp_path)
    texts(home / "text_c10")
    write_lines(home / "bounding_boxes.txt", [f"1 {box}", *(f"{i} 1 2 3 4" for i in (3, 4, 5, 6))])
    records, left_out = read(home)
    assert list(records) == NAMES[2:]
    assert reason in left_out[NAMES[0]] and left_out[NAMES[1]] == "has no bounding box"
    (home / "bounding_boxes.txt").unlink()
    records, left_out = read(home, fit=Fit(resize="square"))
    assert list(records) == NAMES and not left_out and records[NAMES[0]].box is None


def test_what_belongs_to_nothing_is_left_out_and_what_lacks_captions_has_none(tmp_path: Path) -> None:
    home = official(tmp_path)
    texts(home / "text_c10", NAMES[1:])
    write_lines(home / "text_c10" / WREN / "Stranger_1.txt", ["a bird"])
    (home / "images" / WREN / "Stranger_2.jpg").write_bytes(b"")
    (home / "images" / WREN / ".hidden.jpg").write_bytes(b"")
    (home / "images" / WREN / "Link.jpg").symlink_to("/etc/hostname")
    (home / "text_c10" / WREN / "Link.txt").symlink_to("/etc/hostname")
    (home / "text_c10" / f"{NAMES[1]}.txt").write_bytes(b"a" * 2_000_000)
    (home / "text_c10" / f"{NAMES[2]}.txt").write_bytes(
        b"\xef\xbb\xbfa caf\xff\xfe bird\r\n\r\n \r\nlast\r\n\r\n"
    )
    (home / "images" / f"{NAMES[3]}.jpg").unlink()
    records, left_out = read(home)
    assert left_out == {
        f"images/{WREN}/Link.jpg": "is a link that leads out of the folder",
        f"text_c10/{WREN}/Link.txt": "is a link that leads out of the folder",
        f"images/{WREN}/Stranger_2.jpg": "is not listed in images.txt",
        f"text_c10/{WREN}/Stranger_1.txt": "is a caption file without an image",
        NAMES[1]: "Bird_0002_14.txt has more than 1,048,576 bytes",
    }
    assert records[NAMES[0]].captions == ()
    assert records[NAMES[2]].captions == ("a caf  bird", "", "", "last")
    source = CubSource(Request(place=str(home)))
    with pytest.raises(Rejected, match="no image file"):
        source.load(records[NAMES[3]], 16)


def test_without_lists_of_classes_the_folders_say_the_class(tmp_path: Path) -> None:
    names = [*NAMES, "201.Dodo/Dodo_1"]
    home = official(tmp_path, names)
    texts(home / "text_c10", names)
    (home / "classes.txt").unlink()
    records, _ = read(home)
    assert records["201.Dodo/Dodo_1"].label == "Dodo" and records[NAMES[0]].label == "Black footed Albatross"


@pytest.mark.parametrize("fit", [None, Fit(box=True), Fit()])
def test_an_image_is_cropped_around_its_box_unless_told_otherwise(fit: Fit | None, tmp_path: Path) -> None:
    # 40 x 20 pixels, white from column 20 on; box (24, 4, 12, 12): R = int(.75 * 12) = 9, its middle is
    # (30, 10), so columns 21 to 39 and rows 1 to 19: all white. Without the box, columns 10 to 30: half.
    home = official(tmp_path)
    texts(home / "text_c10")
    source = CubSource(Request(place=str(home), fit=fit))
    pixels = source.load(next(r for r in source.records() if isinstance(r, Record)), 18)
    assert pixels.shape == (18, 18, 3) and pixels[:, -1].mean() > 250
    if fit is None or fit.box:
        assert pixels[:, 0].mean() > 250
    else:
        assert pixels[:, 0].mean() < 5


def real_folder(folder: Path) -> Path:
    """The real lists, with stand-in pictures and captions at the real paths.

    Every picture is one grey JPEG of 500 x 400 pixels and every caption file one text, linked 11,788 times.
    """
    home = folder / "CUB_200_2011"
    home.mkdir(parents=True)
    for name in (
        "images.txt",
        "bounding_boxes.txt",
        "classes.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
    ):
        (home / name).write_bytes((REAL / name).read_bytes())
    Image.new("RGB", (500, 400), "grey").save(folder / "stand-in.jpg")
    write_lines(folder / "stand-in.txt", [f"stand-in caption {k}" for k in range(10)])
    for line in (REAL / "images.txt").read_text().splitlines():
        name = line.split()[1]
        for kind, path in (("jpg", home / "images" / name), ("txt", folder / "text" / f"{name[:-4]}.txt")):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / f"stand-in.{kind}", path)
    return folder


@pytest.fixture(scope="module")
def real_records(real: Path) -> tuple[dict[str, Record], dict[str, str]]:
    return read(real)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_folder(tmp_path_factory.mktemp("birds"))


def _check_all_rows(records: dict[str, Record], left_out: dict[str, str]) -> None:
    assert len(records) == 11_788 and not left_out
    assert Counter(record.split for record in records.values()) == {"train": 8_855, "test": 2_933}
    classes = {split: {r.label for r in records.values() if r.split == split} for split in ("train", "test")}
    assert {split: len(labels) for split, labels in classes.items()} == {"train": 150, "test": 50}
    assert not classes["train"] & classes["test"]


@needs_real_lists
def test_all_rows_of_the_real_lists_with_the_split_that_ganvas_knows(
    real_records: tuple[dict[str, Record], dict[str, str]],
) -> None:
    records, left_out = real_records
    _check_all_rows(records, left_out)
    known = pickle.loads((REAL / "attngan" / "test" / "filenames.pickle").read_bytes(), encoding="latin1")
    assert {record.id for record in records.values() if record.split == "test"} == set(known)
    assert {int(name[:3]) for name in known} == TEST_CLASSES and len(TEST_CLASSES) == 50
    first = next(iter(records.values()))
    assert first.id == "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"
    assert first.box == (60, 27, 325, 304) and len(first.captions) == 10


@needs_real_lists
def test_all_rows_of_the_real_lists_with_the_real_pickles(real: Path, tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011").symlink_to(real / "CUB_200_2011")
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(REAL / "attngan" / split)
    records, left_out = read(tmp_path, captions=str(real / "text"))
    _check_all_rows(records, left_out)


@needs_real_lists
def test_the_official_split_of_the_real_lists_has_every_class_in_both(real: Path) -> None:
    records, _ = read(real, split="official")
    assert Counter(record.split for record in records.values()) == {"train": 5_994, "test": 5_794}
    assert all(len({r.label for r in records.values() if r.split == s}) == 200 for s in ("train", "test"))


@needs_real_lists
@pytest.mark.parametrize(
    ("name", "width", "height", "crop"),
    [
        # the boxes are real; the pictures are not here, so their sizes are chosen
        # box (60, 27, 325, 304): R = int(.75 * 325) = int(243.75) = 243; its middle is
        # (int((120 + 325) / 2), int((54 + 304) / 2)) = (222, 179);
        # 222 - 243 = -21 -> 0, 179 - 243 = -64 -> 0, 222 + 243 = 465, 179 + 243 = 422 -> 335
        ("001.Black_footed_Albatross/Black_Footed_Albatross_0046_18", 500, 335, (0, 0, 465, 335)),
        # box (139, 30, 153, 264): R = int(198) = 198; middle (int(431 / 2), int(324 / 2)) = (215, 162);
        # 215 - 198 = 17, 162 - 198 = -36 -> 0, 215 + 198 = 413, 162 + 198 = 360 -> 336
        ("001.Black_footed_Albatross/Black_Footed_Albatross_0009_34", 500, 336, (17, 0, 413, 336)),
        # box (14, 112, 388, 186): R = int(291) = 291; middle (int(416 / 2), int(410 / 2)) = (208, 205);
        # 208 - 291 = -83 -> 0, 205 - 291 = -86 -> 0, 208 + 291 = 499, 205 + 291 = 496 -> 347
        ("001.Black_footed_Albatross/Black_Footed_Albatross_0002_55", 500, 347, (0, 0, 499, 347)),
    ],
)
def test_crops_of_real_boxes_are_those_computed_by_hand(
    name: str,
    width: int,
    height: int,
    crop: tuple[int, int, int, int],
    real_records: tuple[dict[str, Record], dict[str, str]],
) -> None:
    box = real_records[0][name].box
    assert box is not None and around(box, width, height) == crop
    left, top, right, bottom = crop
    side = min(right - left, bottom - top)
    margin = (right - left - side) // 2
    # all three are wider than high: the middle square is cut left and right
    assert region(width, height, Fit(box=True), box) == (left + margin, 0, left + margin + side, side)


@needs_real_lists
def test_a_store_of_the_first_real_images_is_prepared(real: Path, tmp_path: Path) -> None:
    home = tmp_path / "CUB_200_2011"
    home.mkdir()
    for name in ("bounding_boxes.txt", "classes.txt", "image_class_labels.txt"):
        (home / name).symlink_to(REAL / name)
    lines = (REAL / "images.txt").read_text().splitlines()[:200]
    write_lines(home / "images.txt", lines)
    for line in lines:
        path = home / "images" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(real / "CUB_200_2011" / "images" / line.split()[1], path)
    info = prepare(
        "cub",
        tmp_path / "out",
        place=str(tmp_path),
        options={"captions": str(real / "text")},
        size=16,
        workers=1,
        progress=False,
        allow_rejects=True,  # the captions of the other 11,588 images
    )
    species = [line.split()[1][:3] for line in lines]
    assert info.splits == {
        "train": sum(int(number) not in TEST_CLASSES for number in species),
        "val": 0,
        "test": sum(int(number) in TEST_CLASSES for number in species),
    }
    assert info.num_captions == 2000
