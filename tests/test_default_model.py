"""The model that ships: found by its name or without one, and small; captions are not mistaken for runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import Called

import ganvas as package
from ganvas import models
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.models import DEFAULT, part_words, place_of

Ganvas = Callable[..., Called]
pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture
def stand_in(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the one that ships."""
    home = tmp_path / "package"
    folder = Path(shutil.copytree(undisturbed / "model", home / DEFAULT))
    monkeypatch.setattr(models, "_HOME", home)
    return folder


CAPTIONS_ALONE = [
    ["a smiling cat"],
    ["a cat", "a dog"],
    ["cat"],
    ["\U0001f600"],
    ["\u7b11\u8138"],
    ["a cat", "dog"],
    ["black/white, or a grey cat"],
    ["a cat / a dog"],
    [""],
    ["", "a cat"],
    ["  "],
    ["x" * 10_001],
    ["a\udcffb c"],
    ["a\0b c"],
    [],
]


@pytest.mark.parametrize("words", CAPTIONS_ALONE, ids=lambda words: repr(words)[:40])
def test_captions_alone_are_for_the_default_model(words: list[str]) -> None:
    assert part_words(words) == (DEFAULT, words)


def test_a_first_word_that_exists_or_ships_is_the_model(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my run").mkdir()
    for name in ("my run", ".", str(tmp_path), DEFAULT, "package"):
        assert part_words([name, "a cat"]) == (name, ["a cat"])
        assert part_words([name]) == (name, [])


@pytest.mark.parametrize(
    "words",
    [
        ["runs/frist", "a cat"],
        ["runs/frist"],
        ["./frist"],
        ["frist", "a cat"],
        ["frist", "cat"],
        ["emoji-defualt"],
        ["emoji-defualt", "a cat"],
        ["my runs/frist", "a cat"],
        ["/my frist"],
    ],
)
def test_a_mistyped_model_is_never_taken_for_a_caption(
    words: list[str], stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs").mkdir()
    with pytest.raises(
        GanvasError, match=r"no such folder, and no model that ships .*--model emoji-default"
    ) as no:
        part_words(words)
    assert str(no.value).startswith(f"{words[0]}:") and "\n" not in str(no.value)


def test_a_single_word_before_a_file_of_captions_is_a_model() -> None:
    with pytest.raises(GanvasError, match="frist: no such folder"):
        part_words(["frist"], more_captions=True)
    assert part_words(["a cat"], more_captions=True) == (DEFAULT, ["a cat"])


@given(st.lists(st.text(max_size=40), max_size=4), st.booleans())
def test_any_words_are_parted_without_a_loss_or_refused_in_one_line(words: list[str], more: bool) -> None:
    try:
        model, captions = part_words(words, more_captions=more)
    except GanvasError as refused:
        assert str(refused).startswith(words[0][:99]) and "--model" in str(refused)
    else:
        assert (captions == words and model == DEFAULT) or [model, *captions] == words


def test_a_model_is_loaded_without_a_name_by_name_or_from_a_folder(stand_in: Path) -> None:
    expected = package.load(stand_in, device="cpu").generate(["a red ball"])[0].tobytes()
    for opened in (package.load(device="cpu"), package.load(DEFAULT, device="cpu")):
        assert opened.generate(["a red ball"])[0].tobytes() == expected
    with pytest.raises(GanvasError, match="did you mean 'emoji-default'"):
        package.load("emoji-defalt")


def test_a_folder_of_that_name_comes_before_the_model_that_ships(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(DEFAULT) == stand_in
    (tmp_path / DEFAULT).mkdir()
    assert place_of(DEFAULT) == Path(DEFAULT)


def test_generating_takes_captions_alone_a_run_a_name_or_an_option(
    ganvas: Ganvas, stand_in: Path, undisturbed: Path, tmp_path: Path
) -> None:
    ways: list[list[Any]] = [
        ["a red ball"],
        [DEFAULT, "a red ball"],
        [undisturbed, "a red ball"],
        ["--model", DEFAULT, "a red ball"],
        ["--model", undisturbed, "a red ball"],
    ]
    drawn = set()
    for way in ways:
        assert ganvas("generate", *way) == Called(0, "generated.png\n", "")
        drawn.add((tmp_path / "generated.png").read_bytes())
    assert len(drawn) == 1
    assert ganvas("generate", "a red ball", "a blue hat", "--out", "two").out.count("\n") == 2
    assert ganvas("generate", "--model", DEFAULT, "ball", "hat", "--out", "words").out.count("\n") == 2
    assert len(list((tmp_path / "two").iterdir())) == len(list((tmp_path / "words").iterdir())) == 2
    with Image.open(tmp_path / "generated.png") as image:
        assert image.size == (16, 16)


def test_scores_comparisons_and_encoders_take_a_shipped_model_by_its_name(
    ganvas: Ganvas, stand_in: Path, undisturbed: Path, store: Store, tmp_path: Path
) -> None:
    made = ganvas("score", DEFAULT, "--data", store.path, "--only", "size", "--out", "scores.json")
    assert made.status == 0, made
    assert json.loads((tmp_path / "scores.json").read_text())["model"] == DEFAULT
    assert not (stand_in / "scores.json").exists()
    page = ganvas("compare", DEFAULT, undisturbed, "--caption", "a red ball", "--out", "page.html")
    assert page.status == 0 and DEFAULT in (tmp_path / "page.html").read_text(encoding="utf-8"), page
