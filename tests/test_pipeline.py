"""A trained model: the same images whatever the batch, and damaged files refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import tiny_recipe, tiny_tree

import ganvas as package
from ganvas import pipeline
from ganvas.building import build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.model_folder import save_model
from ganvas.pipeline import MAX_IMAGES, Model, load
from ganvas.recipe import resolve
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")

CAPTIONS = ["a red ball", "one hat, blue", "x", "a green star " * 12, "a yellow bird", "una estrella"]


@pytest.fixture(scope="session")
def model(undisturbed: Path) -> Model:
    return load(undisturbed, device="cpu")


ENCODERS = [
    {"encoder": "char-cnn-rnn", "channels": 64, "embedding": 128},
    {"encoder": "bilstm", "features": 64},
]


def wide_model(text: dict[str, Any] = ENCODERS[0]) -> Model:
    """An untrained model, wide enough that kernels round differently for other batches."""
    tree = tiny_tree()
    tree["data"]["image_size"] = 32
    tree["settings"] |= {"generator_width": 24, "projection": 64}
    tree["text"] = text
    torch.manual_seed(0)
    system = build_system(resolve(tree), captions=CAPTIONS).eval().requires_grad_(False)
    for module in system.generator.modules():  # type: ignore[union-attr]
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 0.1)  # type: ignore[union-attr]
    return Model(system, resolve(tree), {"style": 8}, torch.device("cpu"))


def float_bits(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """In place of rounding to 256 levels, which hides most differences."""
    return images.permute(0, 2, 3, 1).contiguous().numpy().view(np.uint8)


@pytest.mark.parametrize("text", ENCODERS, ids=lambda text: text["encoder"])
def test_an_image_is_the_same_whatever_the_batch_size_and_wherever_its_caption_stands(
    text: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "to_uint8", float_bits)
    model, n = wide_model(text), 3

    def generate(captions: list[str], batch_size: int) -> list[bytes]:
        arrays = model.generate_arrays(captions, n=n, seed=5, batch_size=batch_size)
        return [image.tobytes() for batch in arrays for image in batch]

    alone = {caption: generate([caption], 1) for caption in CAPTIONS}
    assert len({image for images in alone.values() for image in images}) == n * len(CAPTIONS)
    for order in (CAPTIONS, CAPTIONS[::-1], CAPTIONS[2:] * 5):
        for batch_size in (1, 3, 64):
            expected = [image for caption in order for image in alone[caption]]
            assert generate(order, batch_size) == expected


def test_the_number_of_images_changes_no_image(model: Model) -> None:
    one = model.generate(["a red ball"], n=1, seed=3)
    many = model.generate(["a red ball"], n=40, seed=3)
    assert one[0].tobytes() == many[0].tobytes()
    assert len({image.tobytes() for image in many}) == 40


def test_seed_and_caption_change_the_image_and_repeating_does_not() -> None:
    model = wide_model()
    first, again, other_seed = (model.generate(["a red ball"], seed=seed)[0].tobytes() for seed in (1, 1, 2))
    assert first == again != other_seed
    assert first != model.generate(["a blue hat"], seed=1)[0].tobytes()


def test_generating_leaves_the_global_random_state_alone(model: Model) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    model.generate(["a red ball"], n=5)
    assert torch.equal(torch.rand(1), expected)


def test_scores_get_noise_of_its_own_for_every_image(model: Model) -> None:
    (batch,) = model.generate_arrays(["a red ball"] * 8, same_noise=False)
    assert len({image.tobytes() for image in batch}) == 8 and batch.dtype == np.uint8
    (batch,) = model.generate_arrays(["a red ball"] * 8)
    assert len({image.tobytes() for image in batch}) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"captions": []}, "no caption given"),
        ({"captions": [""]}, "caption: is empty"),
        ({"captions": ["a", "\u200b \t"]}, "is empty"),
        ({"captions": [5]}, "give a string"),
        ({"captions": ["x" * 10_001]}, "10,001 characters"),
        ({"captions": ["\ud800"]}, "surrogate"),
        ({"captions": ["a"], "n": 0}, "n=0"),
        ({"captions": ["a"], "n": -3}, "n=-3"),
        ({"captions": ["a"], "n": MAX_IMAGES + 1}, "at most 100,000"),
        ({"captions": ["a"] * 2, "n": MAX_IMAGES // 2 + 1}, "at most 100,000"),
        ({"captions": ["a"], "seed": -1}, "seed=-1"),
        ({"captions": ["a"], "seed": 2**63}, "between 0 and 2"),
        ({"captions": ["a"], "batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_generated_is_one_line(model: Model, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(GanvasError, match=words) as refused:
        model.generate(**arguments)
    assert "\n" not in str(refused.value)


def test_a_caption_as_long_as_allowed_and_a_bare_string_work(model: Model) -> None:
    assert len(model.generate(["y" * 10_000])) == 1
    assert model.generate("a red ball")[0].tobytes() == model.generate(["a red ball"])[0].tobytes()
    assert model.generate(["a"], seed=2**63 - 1)[0].size == (16, 16)


def test_a_style_is_taken_over_after_a_style_phase_and_refused_without_one(
    undisturbed: Path, store: Store, tmp_path: Path
) -> None:
    model = wide_model()
    red, blue = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (16, 16), "blue")
    styled = [
        model.generate(["a red ball"], style_from=image, seed=seed)[0].tobytes()
        for image, seed in ((red, 0), (red, 1), (blue, 0))
    ]
    assert styled[0] == styled[1] != styled[2]
    assert load(undisturbed, device="cpu").generate(["a red ball"], style_from=red)
    without = train(tiny_recipe(images={"text": 4, "gan": 8}), store, tmp_path / "run")
    with pytest.raises(GanvasError, match=r"no trained style encoder; .*training\.images\.style="):
        load(without.folder, device="cpu").generate(["a red ball"], style_from=red)


def test_a_model_opens_from_anywhere(undisturbed: Path, model: Model, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(undisturbed / "model", tmp_path / "some where" / "né"))
    expected = model.generate(["a red ball"], seed=4)[0].tobytes()
    for path in (elsewhere, str(elsewhere), undisturbed / "model"):
        opened = package.load(path, device="cpu")
        assert opened.generate(["a red ball"], seed=4)[0].tobytes() == expected
        assert opened.trained == {"text": 12, "gan": 24, "style": 8} and opened.image_size == 16


def test_a_saved_model_holds_what_generating_needs_and_nothing_more(undisturbed: Path) -> None:
    names = sorted(p.name for p in (undisturbed / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    from safetensors import safe_open

    with safe_open(undisturbed / "model" / "model.safetensors", "pt") as file:
        groups = {name.split(".", 1)[0] for name in file.keys()}  # noqa: SIM118  it is no mapping
    assert groups == {"generator", "text_encoder", "style_encoder"}


def test_nonsense_is_no_model(tmp_path: Path, store: Store) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    for path, words in (
        (tmp_path / "missing", "no such folder"),
        (tmp_path, "holds no model"),
        (tmp_path / "file", "holds no model"),
        (store.path, "holds no model"),
        (tmp_path / "run", "has not saved a model yet"),
    ):
        with pytest.raises(GanvasError, match=words):
            load(path, device="cpu")


def test_a_device_that_is_not_there_is_one_line(undisturbed: Path) -> None:
    with pytest.raises(GanvasError, match="no such device; did you mean 'cuda'"):
        load(undisturbed, device="cudaa")
    if not torch.cuda.is_available():
        with pytest.raises(GanvasError, match="device 'cuda': this machine has none"):
            load(undisturbed, device="cuda")


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed / "model", tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(GanvasError) as error:
        load(folder, device="cpu")
    text = str(error.value)
    assert "\n" not in text and len(text) < 600 and str(folder) in text
    return text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b'{"format": 1}', b'{"format": 99}'],
)
def test_edited_files_of_a_model_are_one_line(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_truncated_or_missing_file_of_a_model_is_one_line(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in (len(whole) - 2, len(whole) // 2, 9):
        (folder / name).write_bytes(whole[:length])
        assert name in refused(folder)
    (folder / name).unlink()
    assert "config.json" in refused(folder) or name in refused(folder)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["recipe"]["settings"].update(generator_width=8), "config asks for"),
        (lambda c: c["recipe"]["data"].update(image_size=32), "generator"),
        (lambda c: c["recipe"].update(system="nonsense"), "no system 'nonsense'"),
        (lambda c: c["recipe"]["settings"].update(extra=1), "unknown key 'settings.extra'"),
        (lambda c: c["recipe"]["settings"].update(generator_width=10**14), "cannot be built"),
        (lambda c: c.update(recipe=5), "is no config"),
        (lambda c: c.update(trained=5), "is no config"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_one_line(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit_config(folder, change)
    with pytest.raises(GanvasError, match=words) as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_in_place_of_a_file_of_a_model_is_refused_and_not_run(
    store: Store, tmp_path: Path, name: str, how: str
) -> None:
    tree = tiny_tree()
    tree["text"] = {"encoder": "bilstm", "features": 8, "embedding": 8}
    recipe, folder = resolve(tree), tmp_path / "model"
    save_model(build_system(recipe, captions=CAPTIONS), recipe, folder, {"gan": 4})
    assert load(folder, device="cpu")
    mark = tmp_path / "mark"
    if how == "pickle":
        (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"generator": Payload(mark)}, folder / name)
    with pytest.raises(GanvasError, match=name) as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value) and not mark.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": {}}'])
def test_an_edited_vocabulary_is_one_line(tmp_path: Path, content: bytes) -> None:
    tree = tiny_tree()
    tree["text"] = {"encoder": "bilstm", "features": 8, "embedding": 8}
    recipe, folder = resolve(tree), tmp_path / "model"
    save_model(build_system(recipe, captions=CAPTIONS), recipe, folder, {"gan": 4})
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(GanvasError, match=r"tokenizer\.json") as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(GanvasError):
        load(folder, device="cpu")


def test_the_model_card_shows_how_to_use_it(undisturbed: Path) -> None:
    card = (undisturbed / "model" / "README.md").read_text()
    assert "24 in phase gan" in card and "load(" in card


def test_what_is_trained_to_score_generates_nothing() -> None:
    from importlib.resources import as_file, files

    with (
        as_file(files("ganvas.scores") / "retrievers" / "emoji") as folder,
        pytest.raises(GanvasError, match="generates nothing"),
    ):
        load(folder, device="cpu").generate(["a red apple"])


def test_bfloat16_draws_nearly_the_same(undisturbed: Path) -> None:
    exact, fast = (
        np.asarray(load(undisturbed, device="cpu", precision=precision).generate(["a red ball"])[0], float)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - fast).mean() < 3
    with pytest.raises(GanvasError, match="precision 'int8': should be one of float32, bfloat16, auto"):
        load(undisturbed, precision="int8")
