"""The model that ships: found by its name or without one, and small; captions are not mistaken for runs."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import Called, tiny_tree
from torch.overrides import TorchFunctionMode

import ganvas as package
from ganvas import models
from ganvas.building import bare_system, build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.model_folder import save_model
from ganvas.models import DEFAULT, part_words, place_of
from ganvas.pipeline import Model
from ganvas.recipe import load_recipe, resolve
from ganvas.text import build

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


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool that makes a shipped model."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    return importlib.import_module("ship_model").ship


def a_score(**changes: Any) -> dict[str, Any]:
    return {"name": "r-precision", "value": 0.5, "better": "higher", "protocol": {"split": "test"}, **changes}


def test_the_tool_writes_half_weights_a_card_with_scores_and_nothing_of_training(
    ship: Any, undisturbed: Path, tmp_path: Path
) -> None:
    scores, real = tmp_path / "scores.json", tmp_path / "real.json"
    scores.write_text(json.dumps({"scores": [a_score(), a_score(name="fid", value=12.5, better="lower")]}))
    others = [a_score(value=0.9), a_score(name="fid", protocol={"split": "val"})]
    real.write_text(json.dumps({"scores": others}))
    out = ship(undisturbed, tmp_path / "emoji-default", scores, real, "a note")
    names = ["README.md", "config.json", "model.safetensors", "scores-real.json", "scores.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} >= {torch.float16}
    exact, half = package.load(undisturbed, device="cpu"), package.load(out, device="cpu")
    assert {p.dtype for p in half.system.parameters()} == {torch.float32}
    pictures = [np.asarray(model.generate(["a red ball"])[0], float) for model in (exact, half)]
    assert np.abs(pictures[0] - pictures[1]).max() < 4
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| r-precision | 50.0 % | 90.0 % | higher | split test |" in card
    assert "| fid | 12.5 | \u2013 | lower | split test |" in card
    assert "A note" in card and "`gan-int-cls`" in card and "24 in phase gan" in card and "CC-BY-4.0" in card
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) & stat.S_IROTH


def test_a_model_that_is_too_large_to_ship_is_refused_and_the_old_one_stays(
    ship: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_BYTES", 10_000)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    with pytest.raises(GanvasError, match="MB in float16, more than the 0 MB that may ship"):
        ship(undisturbed, tmp_path / "old", None, None, "")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "config.json").read_text() == "{}"


def test_weights_that_float16_cannot_hold_are_refused(ship: Any, undisturbed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(undisturbed / "model", tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first] + 1e6
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(GanvasError, match=f"'{first}' does not fit into float16"):
        ship(folder, tmp_path / "out", None, None, "")


HEAVY = [
    "lightning_fabric",
    "torchvision",
    "torchmetrics",
    "pandas",
    "pyarrow",
    "rich",
    "tensorboard",
    "matplotlib",
]
HEAVY += ["scipy", "sympy", "transformers", "torch._dynamo", "torch._inductor", "torch._refs", "hypothesis"]


def test_generating_imports_nothing_that_only_training_or_scoring_needs(
    word_model: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from ganvas.cli import main\n"
        f"sys.argv = ['ganvas', 'generate', {str(word_model)!r}, 'a red ball']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"print(*({{n for n in {HEAVY!r} if n in sys.modules}} - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "generated.png\n\n" and done.stderr == ""


class Recorded(TorchFunctionMode):
    """Names of the functions of PyTorch that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("system", ["gan-int-cls", "stackgan", "stackgan++", "attngan", "sd-gan", "xmc-gan"])
def test_a_system_that_waits_for_its_weights_draws_none(system: str) -> None:
    recipe = load_recipe(f"{system.replace('++', '-v2')}-emoji")
    assert recipe.text is not None
    encoder = build(recipe.text, ["a caption"])
    with Recorded() as recorded:
        bare = bare_system(recipe, encoder)
    assert not {"normal_", "uniform_", "trunc_normal_"} & recorded.names and recorded.names
    with Recorded() as recorded:
        whole = build_system(recipe, captions=["a caption"])
    assert {"normal_", "uniform_"} & recorded.names
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    kept = {name: value for name, value in bare.state_dict().items() if not name.startswith("text_encoder.")}
    assert kept and all(value.is_meta and value.shape == shapes[name] for name, value in kept.items())


@pytest.fixture(scope="module")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that reads words: a, red, blue, ball, hat."""
    tree = tiny_tree()
    tree["text"] = {"encoder": "bilstm", "features": 8, "embedding": 8}
    recipe, folder = resolve(tree), tmp_path_factory.mktemp("words") / "model"
    torch.manual_seed(0)
    save_model(build_system(recipe, captions=["a red ball", "a blue hat"]), recipe, folder, {"gan": 4})
    return folder


def test_words_that_were_never_seen_are_reported_once_for_each_caption(
    ganvas: Ganvas, word_model: Path, tmp_path: Path
) -> None:
    captions = ["a red ball", "a zorbly Zorbly hat", "\U0001f600", "\u7ea2\u8272", "a zorbly Zorbly hat"]
    said = ganvas("generate", word_model, *captions, "--out", "images")
    assert said.status == 0 and said.out.count("\n") == 5
    assert said.err.splitlines() == [
        '"a zorbly Zorbly hat": never seen in training: zorbly',
        '"\U0001f600": never seen in training: \U0001f600',
        '"\u7ea2\u8272": never seen in training: \u7ea2\u8272',
    ]
    long = ganvas("generate", word_model, " ".join(f"q{number}x" for number in range(300)))
    lines = long.err.splitlines()
    assert long.status == 0 and len(lines) == 1
    assert lines[0].endswith("q11x and 288 more") and len(lines[0]) < 300
    (tmp_path / "many.txt").write_text("".join(f"q{number}x\n" for number in range(50)))
    many = ganvas("generate", word_model, "--captions", "many.txt", "--out", "many").err.splitlines()
    assert len(many) == 21 and many[-1] == "30 further captions have words that were never seen too"


def test_a_model_names_the_words_that_it_has_never_seen(word_model: Path, undisturbed: Path) -> None:
    assert package.load(word_model, device="cpu").unknown_words("a ball, zorbly") == ["zorbly"]
    assert package.load(undisturbed, device="cpu").unknown_words("zorbly") == []  # reads characters
    with pytest.raises(GanvasError, match="is empty"):
        package.load(word_model, device="cpu").unknown_words(" ")


@pytest.fixture(scope="module")
def opened(word_model: Path) -> Model:
    return package.load(word_model, device="cpu")


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=200))
@example("a red ball " * 300)
@example("\U0001f469\U0001f3fd\u200d\U0001f680")
@example("\u0644\u0623\u0633\u062f \u0432\u043e \u732b")
@example("\ud800")
def test_any_text_generates_an_image_or_is_refused_in_one_line(opened: Model, caption: str) -> None:
    try:
        (image,) = opened.generate([caption])
    except GanvasError as refused:
        assert "\n" not in str(refused) and str(refused).startswith("caption: ")
        assert not caption.strip() or not caption.isprintable()
    else:
        assert image.size == (16, 16)
        assert all(set(word) <= set(caption) for word in opened.unknown_words(caption))


def test_models_lists_what_ships_and_what_was_trained(
    ganvas: Ganvas, stand_in: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed / "model", tmp_path / "runs" / "mine" / "model")
    shutil.copytree(undisturbed / "model", tmp_path / "runs" / "group" / "other" / "model")
    broken = Path(shutil.copytree(undisturbed / "model", tmp_path / "runs" / "zbroken" / "model"))
    (broken / "config.json").write_text("[]")
    config = json.loads((stand_in / "config.json").read_text())
    config["shipped"] = {"licence": "Apache-2.0", "run": "here"}
    (stand_in / "config.json").write_text(json.dumps(config))
    said = ganvas("models")
    assert said.status == 0 and said.err == ""
    head, first, *others = [re.split(r"  +", line) for line in said.out.splitlines()]
    assert head == ["name", "system", "pixels", "images seen", "data", "licence", "MB", "from"]
    seen = "text 12, gan 24, style 8"
    megabytes = first[6]
    assert float(megabytes) > 0
    assert first == [
        *(DEFAULT, "gan-int-cls", "16", seen, "emoji", "Apache-2.0", megabytes),
        "ships with Ganvas, trained as tiny",
    ]
    assert [row[0] for row in others] == ["runs/group/other", "runs/mine", "runs/zbroken"]
    assert others[0][1:4] == ["gan-int-cls", "16", seen] and others[0][-1] == "trained here"
    assert others[2][-1] == "cannot be read"
    assert len(ganvas("models", "nowhere").out.splitlines()) == 2
    for row in others[:2]:
        assert ganvas("generate", row[0], "a red ball").status == 0


def test_models_needs_no_torch() -> None:
    code = (
        "import sys; from ganvas.models import listing; listing.list_models(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool that makes the pictures of the documentation."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    return importlib.import_module("readme_pictures")


def test_the_pictures_of_the_readme_are_of_the_first_seeds_and_no_larger_than_allowed(
    pictures: Any, word_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = pictures.of_seeds(package.load(word_model, device="cpu"))
    assert drawn.width > 8 * 96 and drawn.height > 6 * 96
    pictures.write(drawn, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == drawn.size
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with pytest.raises(GanvasError, match="more than 1,000"):
        pictures.write(drawn, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_best_and_worst_are_one_for_each_drawing(pictures: Any) -> None:
    order, labels = [4, 2, 0, 1, 3], ["cat", "dog", "cat", "hat", "cat"]
    assert pictures.first_of_each(order, labels) == [4, 1, 3]
    assert pictures.first_of_each(order[::-1], labels) == [3, 1, 0]
