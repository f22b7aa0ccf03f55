"""The command line: whatever the user gets wrong is one line on standard error, and nothing is written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from test_images import png_that_claims
from tiny_runs import Called, tiny_tree

from ganvas import __version__
from ganvas.data.store import Store
from ganvas.recipe import list_recipes

Ganvas = Callable[..., Called]
pytestmark = pytest.mark.usefixtures("single_threaded")


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder in which commands are called, with some files that they are given."""
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "bomb.png").write_bytes(png_that_claims(50_000, 50_000))
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("ein grüner Ball".encode("latin-1"))
    (tmp_path / "captions.txt").write_text("\ufeffa red ball\n\n  a blue hat \n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("system: gan-int-cls\nsytem: 5\n")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_tree()))
    return tmp_path


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

GENERATE: list[Any] = [
    (["missing", "a red ball"], "missing: no such folder"),
    (["file", "a red ball"], "holds no model"),
    (["RUN", ""], "caption 1: is empty"),
    (["RUN", "fine", " \t"], "caption 2: is empty"),
    (["RUN", "x" * 10_001], "10,001 characters"),
    (["RUN", "a\udcffb"], "no valid Unicode"),
    (["RUN", "a", "-n", "-1"], "n=-1"),
    (["RUN", "a", "-n", "0"], "n=0"),
    (["RUN", "a", "-n", "many"], "'-n'"),
    (["RUN", "a", "-n", "100001", "--out", "folder"], "at most 100,000"),
    (["RUN", "a", "-n", "2000"], "too many for one sheet"),
    (["RUN", "a", "--seed", "-1"], "seed=-1"),
    (["RUN", "a", "--seed", "99999999999999999999"], "seed=99999999999999999999"),
    (["RUN", "a", "--seed", "x"], "--seed"),
    (["RUN", "a", "--out", "a.jpg"], "a.jpg: images are written as PNG"),
    (["RUN", "a", "--out", "missing/a.png"], "missing"),
    (["RUN", "a", "--out", "file/a.png"], "file"),
    (["RUN", "a", "--out", "file/folder"], "file/folder: cannot make this folder"),
    (["RUN", "a", "--out", "file"], "file: cannot make this folder"),
    (["RUN", "a", "--out", "/proc/a.png"], "/proc/a.png"),
    (["RUN", "a", "--out", "/proc/folder"], "/proc/folder"),
    (["RUN", "a", "--style-from", "missing.png"], "missing.png: no such image file"),
    (["RUN", "a", "--style-from", "empty.png"], "empty.png: is no image"),
    (["RUN", "a", "--style-from", "text.png"], "text.png: is no image"),
    (["RUN", "a", "--style-from", "bomb.png"], "bomb.png"),
    (["RUN", "a", "--style-from", "."], "no such image file"),
    (["RUN", "--captions", "missing.txt"], "missing.txt: captions cannot be read"),
    (["RUN", "--captions", "."], "captions cannot be read"),
    (["RUN", "--captions", "latin.txt"], "latin.txt: captions must be UTF-8"),
    (["RUN", "--captions", "empty.txt"], "no caption given"),
    (["RUN", "--captions", "/dev/zero"], "/dev/zero: more than 10,000,000 bytes"),
    (["RUN", "a", "--device", "tpu"], "device 'tpu'"),
    pytest.param(["RUN", "a", "--device", "cuda"], "device 'cuda': this machine has none", marks=NO_GPU),
    (["--model", "missing", "a"], "missing: no such folder"),
    (["runs/missing", "a red ball"], "if it is a caption, name the model too: --model emoji-default"),
    (["RUN", "a", "--sead", "1"], "--sead"),
]


@pytest.mark.parametrize(("arguments", "words"), GENERATE)
def test_generating_refuses_in_one_line_and_writes_nothing(
    ganvas: Ganvas, place: Path, undisturbed: Path, arguments: list[str], words: str
) -> None:
    before = everything_in(place)
    called = ganvas("generate", *(str(undisturbed) if word == "RUN" else word for word in arguments))
    assert called.is_one_line() and words in called.err and called.out == "", called
    assert everything_in(place) == before


TRAIN: list[Any] = [
    (["nonsense"], "no recipe 'nonsense'"),
    (["gan-int-cls-emoji-dmo"], "did you mean 'gan-int-cls-emoji-demo'?"),
    (["missing.yaml"], "missing.yaml: no such file"),
    (["recipe.yaml"], "unknown key 'sytem' (value 5); did you mean 'system'?"),
    (["tiny.yaml", "training.bach_size=3"], "did you mean 'training.batch_size'?"),
    (["tiny.yaml", "--data", "missing"], "missing: no prepared data set here"),
    (["tiny.yaml", "--data", "file"], "file: no prepared data set here"),
    (["tiny.yaml", "--data", "STORE", "--out", "file"], "file: exists and is no run"),
    (["tiny.yaml", "--data", "STORE", "--out", "file/run"], "file/run: cannot write here"),
    (["tiny.yaml", "--data", "STORE", "--out", "/proc/run"], "/proc/run: cannot write here"),
    (["tiny.yaml", "--data", "STORE", "--out", "run", "data.image_size=32"], "prepare it with --size 32"),
    (["tiny.yaml", "--data", "STORE", "--out", "run", "training.images.gam=1"], "did you mean 'gan'?"),
    (["tiny.yaml", "--data", "STORE", "training.device=tpu"], "device 'tpu'"),
    pytest.param(["tiny.yaml", "training.device=cuda"], "device 'cuda': this machine has none", marks=NO_GPU),
    pytest.param(
        ["tiny.yaml", "training.device=mps"],
        "device 'mps'",
        marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has it"),
    ),
    (["tiny.yaml", "data.set=nonsense"], "no data set 'nonsense'"),
    (["tiny.yaml", "data.options={language: xx}"], "xx"),
    (["tiny.yaml", "data.options={colour: red}"], "colour"),
    ([], "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "words"), TRAIN)
def test_training_refuses_in_one_line_and_writes_nothing(
    ganvas: Ganvas, place: Path, store: Store, arguments: list[str], words: str
) -> None:
    before = everything_in(place)
    called = ganvas("train", *(str(store.path) if word == "STORE" else word for word in arguments))
    assert called.is_one_line() and words in called.err and called.out == "", called
    assert everything_in(place) == before


OTHERS: list[Any] = [
    (["recipes", "nonsense"], "no recipe 'nonsense'"),
    (["data", "prepare", "emojii"], "no data set 'emojii'; did you mean 'emoji'?"),
    (["data", "prepare", "emoji", "--size", "7"], "size 7 is not between"),
    (["data", "prepare", "emoji", "--size", "100000"], "size 100000 is not between"),
    (["data", "prepare", "emoji", "--size", "big"], "'--size'"),
    (["data", "prepare", "emoji", "--language", "xx"], "xx"),
    (["data", "prepare", "emoji", "--workers", "0"], "workers 0"),
    (["data", "prepare", "emoji", "--out", "file"], "file: is a file"),
    (["data", "prepare", "emoji", "--out", "."], "is not empty and holds no prepared data set"),
    (["data", "prepare", "emoji", "--out", "/proc/data"], "/proc/data: cannot write here"),
    (["data", "prepare", "emoji", "--out", "file/data"], "cannot write here"),
    (["data", "show", "missing"], "no prepared data set here"),
    (["data", "show", "STORE", "--split", "tset"], "no split 'tset' here; did you mean 'test'?"),
    (["data", "show", "STORE", "--count", "0"], "count 0"),
    (["data", "show", "STORE", "--count", "-5"], "count -5"),
    (["data", "show", "STORE", "--seed", "-1"], "'--seed'"),
    (["data", "show", "STORE", "--out", "sheet.jpg"], "sheet.jpg: images are written as PNG"),
    (["data", "show", "STORE", "--out", "missing/sheet.png"], "missing"),
    (["data", "inspect", "missing"], "no prepared data set here"),
    (["data", "inspect", "file"], "no prepared data set here"),
    (["demo", "training.bach_size=3"], "did you mean 'training.batch_size'?"),
    (["demo", "--out", "file"], "file"),
    (["nonsense"], "nonsense"),
    (["data", "nonsense"], "nonsense"),
    (["--nonsense"], "--nonsense"),
]


@pytest.mark.parametrize(("arguments", "words"), OTHERS)
def test_every_other_command_refuses_in_one_line_and_writes_nothing(
    ganvas: Ganvas, place: Path, store: Store, arguments: list[str], words: str
) -> None:
    before = everything_in(place)
    called = ganvas(*(str(store.path) if word == "STORE" else word for word in arguments))
    assert called.is_one_line() and words in called.err and called.out == "", called
    assert everything_in(place) == before


def test_a_caption_of_ten_thousand_characters_works(ganvas: Ganvas, place: Path, undisturbed: Path) -> None:
    called = ganvas("generate", undisturbed, "x" * 10_000, "--out", "long.png")
    assert called == Called(0, "long.png\n", "")
    assert Image.open(place / "long.png").size == (16, 16)
    assert ganvas("generate", undisturbed, "x" * 10_000, "a", "-n", "2", "--out", "sheet.png").status == 0
    assert ganvas("generate", undisturbed, "é" * 10_000, "/", "--out", "folder").status == 0
    assert len(list((place / "folder").iterdir())) == 2


def test_images_go_to_a_file_a_sheet_or_a_folder(ganvas: Ganvas, place: Path, undisturbed: Path) -> None:
    assert ganvas("generate", undisturbed, "a red ball").out == "generated.png\n"
    called = ganvas("generate", undisturbed, "--captions", "captions.txt", "-n", "2", "--out", "many")
    names = ["0000-a-red-ball-0", "0000-a-red-ball-1", "0001-a-blue-hat-0", "0001-a-blue-hat-1"]
    assert called.status == 0 and called.out.split() == [f"many/{name}.png" for name in names]
    assert (place / "generated.png").read_bytes() == (place / "many" / "0000-a-red-ball-0.png").read_bytes()
    assert ganvas("generate", undisturbed, "--captions", "captions.txt", "--out", "sheet.PNG").status == 0
    assert Image.open(place / "sheet.PNG").width > 32
    assert ganvas("generate", undisturbed, "a", "--style-from", "red.png").status == 0
    assert not [name for name in everything_in(place) if "partial" in name]


def test_captions_come_from_standard_input(
    ganvas: Ganvas, place: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    pipe("a red ball\r\nun globo rojo ñ\n".encode())
    assert len(ganvas("generate", undisturbed, "--captions", "-", "--out", "piped").out.split()) == 2
    pipe(b"a red ball")
    assert ganvas("generate", undisturbed, "--out", "one").out == "one/0000-a-red-ball-0.png\n"
    for content, words in (
        (b"", "no caption given"),
        (b"\xff\xfe", "UTF-8"),
        (b"x\n" * 5_000_001, "more than"),
    ):
        pipe(content)
        called = ganvas("generate", undisturbed, "--captions", "-")
        assert called.is_one_line() and words in called.err
    monkeypatch.setattr(sys, "stdin", None)
    assert "no caption given" in ganvas("generate", undisturbed).err


def test_a_run_without_a_style_phase_refuses_a_style(ganvas: Ganvas, place: Path, store: Store) -> None:
    done = ganvas(
        "train", "tiny.yaml", "training.images={text: 4, gan: 8}", "--data", store.path, "--out", "run"
    )
    assert done.status == 0 and done.out.startswith("trained: run\n")
    called = ganvas("generate", "run", "a", "--style-from", "red.png")
    assert called.is_one_line() and "no trained style encoder" in called.err


def test_the_whole_way_from_training_to_an_image(ganvas: Ganvas, place: Path, store: Store) -> None:
    done = ganvas("train", "tiny.yaml", "--data", store.path)
    assert done.status == 0 and "trained: runs/tiny" in done.out
    again = ganvas("train", "tiny.yaml", "--data", store.path)
    assert (
        again.status == 0
        and again.err == "runs/tiny: is trained already; larger training.images would go on\n"
    )
    assert ganvas("generate", "runs/tiny", "a red ball").status == 0
    other = ganvas("train", "tiny.yaml", "training.batch_size=2", "--data", store.path)
    assert other.is_one_line() and "training.batch_size=4, now asked for 2" in other.err


def test_a_dry_run_prints_the_recipe_and_writes_nothing(ganvas: Ganvas, place: Path) -> None:
    before = everything_in(place)
    called = ganvas("train", "tiny.yaml", "training.seed=5", "--dry-run")
    assert called.status == 0 and yaml.safe_load(called.out)["training"]["seed"] == 5
    assert everything_in(place) == before


def test_recipes_are_listed_and_printed(ganvas: Ganvas) -> None:
    listed = ganvas("recipes")
    assert listed.status == 0 and [line.split()[0] for line in listed.out.splitlines()] == sorted(
        list_recipes()
    )
    for name in list_recipes():
        assert yaml.safe_load(ganvas("recipes", name).out)["name"] == name


def test_version_and_help(ganvas: Ganvas) -> None:
    assert ganvas("--version") == Called(0, f"ganvas {__version__}\n", "")
    for arguments in (["--help"], ["train", "--help"], ["data", "--help"], ["data", "prepare", "--help"]):
        called = ganvas(*arguments)
        assert called.status == 0 and "Usage" in called.out and called.err == ""
    bare = ganvas()
    assert bare.status == 2 and "Usage" in bare.out + bare.err and "Traceback" not in bare.err


def test_data_can_be_looked_at(ganvas: Ganvas, place: Path, store: Store) -> None:
    assert ganvas("data", "show", store.path, "--out", "sheet.png", "--split", "test").out == "sheet.png\n"
    called = ganvas("data", "inspect", store.path)
    assert called.status == 0 and "squares" in called.out


def process(*arguments: str | Path, folder: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ganvas", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, **options)


def test_a_process_of_its_own_refuses_in_one_line(place: Path, undisturbed: Path) -> None:
    done = process(
        "generate", undisturbed, "--captions", "-", "--style-from", "bomb.png", folder=place, input=b"a ball"
    )
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"ganvas: bomb.png")
    done = process("generate", undisturbed, "--captions", "-", folder=place, input=b"\xff")
    assert done.returncode == 2 and done.stderr == b"ganvas: -: captions must be UTF-8 text, one a line\n"
    assert not (place / "generated.png").exists()


def test_a_reader_that_goes_away_ends_the_command_quietly(place: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ganvas", "recipes", "gan-int-cls-emoji-demo"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode in (1, 141) and done.stderr == b""


def test_an_unforeseen_error_of_the_system_is_one_line_too(
    ganvas: Ganvas, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ganvas.recipe as recipe_module

    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(recipe_module, "list_recipes", fail)
    assert ganvas("recipes") == Called(1, "", "ganvas: /some/file: Permission denied\n")
    monkeypatch.setattr(recipe_module, "list_recipes", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert ganvas("recipes") == Called(130, "", "ganvas: interrupted\n")
