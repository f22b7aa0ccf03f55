"""Looking at a prepared data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from ganvas.data.show import inspect, show, words
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("data") / "store"
    random = np.random.default_rng(0)
    with StoreWriter(path, name="balls", size=16, source="made [here]", licence="CC0-1.0") as writer:
        for number in range(20):
            record = Record(
                id=str(number),
                split="test" if number < 5 else "train",
                captions=(f"a ball, number {number}", "one [red] ball"),
                label=f"ball {number % 2}",
                attributes={"parity": "even" if number % 2 == 0 else "odd"},
            )
            writer.add(record, random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        writer.finish()
    return Store(path)


def inspect_text(store: Store) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(inspect(store))
    return capture.get()


def test_a_contact_sheet_is_a_png_that_the_seed_decides(store: Store, tmp_path: Path) -> None:
    paths = [show(store, tmp_path / f"{n}.png", count=12, seed=seed) for n, seed in enumerate([0, 0, 1])]
    first, again, other = (np.asarray(Image.open(path)) for path in paths)
    assert (first == again).all()
    assert first.shape != other.shape or (first != other).any()


def test_a_contact_sheet_grows_with_the_images_and_stops_at_what_there_is(
    store: Store, tmp_path: Path
) -> None:
    heights = [
        Image.open(show(store, tmp_path / f"{count}.png", count=count)).height for count in (8, 20, 500)
    ]
    assert heights[0] < heights[1] == heights[2]


def test_a_contact_sheet_of_one_split_shows_that_split(store: Store, tmp_path: Path) -> None:
    test = Image.open(show(store, tmp_path / "test.png", split="test"))
    train = Image.open(show(store, tmp_path / "train.png", split="train"))
    assert test.height < train.height


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"split": "val"}, "no split 'val'"), ({"count": 0}, "1 to 500"), ({"count": 501}, "1 to 500")],
)
def test_a_sheet_that_cannot_be_made_is_refused(
    store: Store, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(GanvasError, match=message):
        show(store, tmp_path / "sheet.png", **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_inspecting_tells_what_the_store_holds(store: Store) -> None:
    text = inspect_text(store)
    for fact in (
        "20 of 16 x 16 px",
        "train 15, val 0, test 5",
        "2, such as ball",
        "40 (2.0 an image)",
        "25 different ones",
        "3 to 4 words",
        "ball 40",
        "20 words",
        "made [here]",
        "CC0-1.0",
        store.info.fingerprint,
        "parity",
        "even 10, odd 10",
    ):
        assert fact in text, (fact, text)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red ball, two o'clock.", ["a", "red", "ball", "two", "o'clock"]),
        ("medium-light skin", ["medium-light", "skin"]),
        ("葡萄，noto 风格", ["葡", "萄", "noto", "风", "格"]),
        ("", []),
    ],
)
def test_words_are_counted_as_people_would(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected


@given(st.text())
def test_words_hold_no_spaces(caption: str) -> None:
    assert all(word and not any(sign.isspace() for sign in word) for word in words(caption))
