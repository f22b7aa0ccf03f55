"""Classifiers: they learn their labels' names from the data, then the labels, and keep both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import COLOURS, THINGS, Called

from ganvas.data.labels import label_names, label_numbers
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.networks.inception import Inception
from ganvas.pipeline import load
from ganvas.recipe import Recipe, load_recipe, resolve
from ganvas.scores.classifiers import open_classifier
from ganvas.systems.base import Batch
from ganvas.systems.classifier import Classifier, ClassifierSettings, distorted
from ganvas.text.encoder import NoText
from ganvas.training.labels import with_labels
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")


def coloured_store(path: Path, *, splits: tuple[int, int, int] = (40, 4, 12)) -> Store:
    """Squares of a colour each: it is their attribute; every fifth image has none."""
    names = [s for s, n in zip(("train", "val", "test"), splits, strict=True) for _ in range(n)]
    random = np.random.default_rng(0)
    with StoreWriter(path, name="squares", size=16, source="drawn here", licence="CC0-1.0") as writer:
        for number, split in enumerate(names):
            colour = list(COLOURS)[number % 4]
            image = random.integers(0, 40, (16, 16, 3)) + np.array(COLOURS[colour]) * 4 // 5
            record = Record(
                id=str(number),
                split=split,
                captions=(f"a {colour} thing",),
                label=THINGS[number % 5],
                attributes={"colour": colour} if number % 5 else {},
            )
            writer.add(record, image.clip(0, 255).astype(np.uint8))
        writer.finish()
    return Store(path)


def colour_recipe(**training: object) -> Recipe:
    return resolve(
        {
            "name": "colours",
            "system": "classifier",
            "data": {"image_size": 16, "mismatch": "image"},
            "settings": {"heads": ["colour", "class"], "width": 4},
            "training": {
                "images": {"classes": 800},
                "batch_size": 16,
                "device": "cpu",
                "precision": "float32",
                "ema_half_life": 50,
                **training,
            },
        }
    )


def test_a_run_learns_the_colours_and_its_model_folder_knows_their_names(tmp_path: Path) -> None:
    store = coloured_store(tmp_path / "data")
    run = train(colour_recipe(), store, tmp_path / "run")
    system = load(run.folder, device="cpu").system
    assert isinstance(system, Classifier)
    assert system.labels == {"colour": ("blue", "green", "red", "yellow"), "class": tuple(sorted(THINGS))}
    rows = store.rows("test")
    pixels = torch.from_numpy(store.images.squares(rows)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        said = system.logits(pixels)
    wanted = label_numbers(store, system.labels, rows)[:, 0]
    assert (said["colour"].argmax(dim=1).numpy() == wanted)[wanted >= 0].all() and (wanted < 0).any()
    assert said["class"].shape == (len(rows), 5)


def test_a_run_goes_on_with_the_labels_that_it_began_with(tmp_path: Path) -> None:
    store = coloured_store(tmp_path / "data")
    whole = train(colour_recipe(images={"classes": 64}), store, tmp_path / "whole")
    train(colour_recipe(images={"classes": 32}), store, tmp_path / "parts")
    parts = train(colour_recipe(images={"classes": 64}), store, tmp_path / "parts")
    weights = [run.model / "model.safetensors" for run in (whole, parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def classifier(**changes: object) -> Classifier:
    torch.manual_seed(0)
    labels = {"colour": ("red", "green"), "shape": ("ball", "cube", "hat")}
    settings = ClassifierSettings(heads=("colour", "shape"), labels=labels, width=4, **changes)  # type: ignore[arg-type]
    return Classifier(settings, NoText(), 16)


def loss_of(system: Classifier, targets: list[list[int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = Batch(images=torch.zeros(len(targets), 3, 16, 16), targets=torch.tensor(targets))
    sizes = {"colour": 2, "shape": 3}
    total, terms = system.loss(batch, {name: torch.zeros(len(targets), k) for name, k in sizes.items()})
    return total, dict(terms)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_even_logits_cost_the_logarithm_of_the_number_of_labels(smoothing: float) -> None:
    total, _ = loss_of(classifier(smoothing=smoothing), [[0, 2], [1, 0]])
    assert total.item() == pytest.approx((np.log(2) + np.log(3)) / 2)


def test_images_without_a_label_count_for_nothing() -> None:
    total, terms = loss_of(classifier(), [[0, -1], [1, -1], [-1, -1]])
    assert total.item() == pytest.approx(np.log(2) / 2, abs=1e-6)
    assert (terms["colour_accuracy"], terms["shape_accuracy"]) == (0.5, 0)


def test_images_of_any_size_are_taken_and_none_are_made() -> None:
    system = classifier().eval()
    assert {name: tuple(out.shape) for name, out in system.logits(torch.zeros(2, 3, 40, 24)).items()} == {
        "colour": (2, 2),
        "shape": (2, 3),
    }
    with pytest.raises(TypeError, match="generates nothing"):
        system.generate(system.embed(["x"]), torch.zeros(1, 0))


def test_without_distortion_images_stay_and_with_it_they_move_but_keep_their_range() -> None:
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(distorted(images, zoom=0, shift=0, grain=0), images, atol=1e-5, rtol=0)
    moved = distorted(images, zoom=0.1, shift=0.1, grain=0)
    assert moved.shape == images.shape and not torch.allclose(moved, images, atol=0.1)
    assert moved.abs().max() <= images.abs().max() + 1e-6
    noisy = distorted(torch.zeros(64, 3, 16, 16), zoom=0.1, shift=0.1, grain=0.5)
    deviations = noisy.flatten(1).std(dim=1)
    assert deviations.max() < 0.55 and deviations.max() > 0.4 and deviations.min() < 0.05


def test_labels_are_numbered_in_order_of_name_and_what_is_unknown_is_minus_one(tmp_path: Path) -> None:
    store = coloured_store(tmp_path)
    names = label_names(store, ["class", "colour"])
    assert names == {"class": tuple(sorted(THINGS)), "colour": ("blue", "green", "red", "yellow")}
    numbers = label_numbers(store, {"colour": ("green", "red")}, np.arange(6))
    assert numbers[:, 0].tolist() == [
        -1,
        0,
        -1,
        -1,
        1,
        -1,
    ]  # red without its record, green, blue, yellow, ...
    assert label_numbers(store, {}, np.arange(6)).shape == (6, 0)


def test_data_without_such_labels_are_refused(tmp_path: Path) -> None:
    store = coloured_store(tmp_path)
    recipe = colour_recipe()
    wrong = replace(recipe, settings=replace(recipe.settings, heads=("color",)))
    with pytest.raises(GanvasError, match=r"0 different values of 'color'.*did you mean 'colour'"):
        with_labels(wrong, store)


def test_a_recipe_of_another_system_and_given_labels_stay_as_they_are(tmp_path: Path) -> None:
    store = coloured_store(tmp_path)
    demo = load_recipe("gan-int-cls-emoji-demo")
    assert with_labels(demo, store) is demo
    filled = with_labels(colour_recipe(), store)
    assert filled.settings.labels and with_labels(filled, store) is filled
    assert resolve(filled.to_dict()) == filled


# --- Inception


def inception(**changes: object) -> Classifier:
    labels = {"class": ("owl", "wren", "gull")}
    settings = ClassifierSettings(network="inception-torchvision", labels=labels, **changes)  # type: ignore[arg-type]
    return Classifier(settings, NoText(), 64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like torchvision's file: the trunk's names, and heads that are not wanted."""
    torch.manual_seed(0)
    network = Inception(tensorflow=False)
    for value in network.parameters():
        if value.dim() > 1:
            value.data.normal_(0, (2 / value[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    tensors = {
        **network.state_dict(),
        "fc.weight": torch.zeros(1000, 2048),
        "AuxLogits.fc.bias": torch.zeros(1000),
    }
    torch.save(tensors, path)
    return path


def test_an_inception_sees_images_of_any_size_at_299_pixels_and_has_a_head_for_the_data() -> None:
    with torch.device("meta"):
        system = inception()
        said = system.eval().logits(torch.zeros(2, 3, 64, 64))
    assert said["class"].shape == (2, 3)
    assert sum(p.numel() for p in system.trunk.parameters()) == 21_785_568
    assert sum(p.numel() for p in system.heads.parameters()) == 2048 * 3 + 3


def test_training_starts_from_the_weights_of_a_file_and_a_saved_model_needs_it_no_more(
    weights: Path, tmp_path: Path
) -> None:
    store = coloured_store(tmp_path / "data", splits=(8, 2, 2))
    given = tmp_path / "given.pth"
    given.write_bytes(weights.read_bytes())
    tree = colour_recipe().to_dict()
    tree["settings"] |= {"network": "inception-torchvision", "weights": str(given), "frozen": True}
    tree["training"] |= {"images": {"classes": 8}, "batch_size": 4}
    run = train(resolve(tree), store, tmp_path / "run")
    given.unlink()
    source = open_classifier(str(run.folder), "class", device="cpu")
    assert source.classes == tuple(sorted(THINGS)) and source.logits(store.images[np.arange(2)]).shape == (
        2,
        5,
    )
    system = load(run.folder, device="cpu").system
    assert isinstance(system, Classifier)
    kept, came = system.trunk.state_dict(), torch.load(weights, weights_only=True)
    assert all(torch.equal(kept[name], came[name]) for name in kept)  # running statistics too


def test_all_of_an_inception_learns_unless_it_is_frozen(weights: Path) -> None:
    for frozen in (False, True):
        system = inception(weights=str(weights), frozen=frozen)
        (phase,) = system.phases()
        (turn,) = phase.turns
        learning = {id(p) for module in turn.modules for p in module.parameters()}
        assert learning == {id(p) for p in (system.heads if frozen else system).parameters()}
    assert phase.start is not None
    phase.start()
    system.requires_grad_(False).heads.requires_grad_(True)
    batch = Batch(images=torch.randn(2, 3, 64, 64), targets=torch.tensor([[0], [2]]))
    turn.loss(batch, phase.draw(batch)).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in system.heads.parameters())


def test_weights_that_are_none_of_an_inception_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pth", tmp_path / "text.pth"):
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(
            GanvasError, match=r"\.pth: holds no weights for .*inception-torchvision"
        ) as refused:
            inception(weights=str(path)).start()
        assert "\n" not in str(refused.value)


def test_a_file_of_weights_that_is_not_there_is_told_before_a_run_begins(tmp_path: Path) -> None:
    store = coloured_store(tmp_path / "data", splits=(8, 2, 2))
    tree = colour_recipe().to_dict()
    tree["settings"] |= {"network": "inception-torchvision", "weights": str(tmp_path / "nowhere.pth")}
    with pytest.raises(GanvasError, match=r"there is no file .*nowhere\.pth") as refused:
        train(resolve(tree), store, tmp_path / "run")
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_weights_to_download_are_fetched_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganvas.networks.weights.fetched", lambda name, url, others: weights)
    monkeypatch.delenv("GANVAS_WEIGHTS_INCEPTION_TORCHVISION", raising=False)
    system = inception(weights="download")
    system.start()
    assert torch.equal(
        system.trunk.state_dict()["Mixed_7c.branch1x1.conv.weight"],
        torch.load(weights, weights_only=True)["Mixed_7c.branch1x1.conv.weight"],
    )


@pytest.mark.parametrize("name", ["classifier-cub", "classifier-oxford102", "classifier-inception"])
def test_the_recipes_of_the_papers_data_fine_tune_an_inception(name: str) -> None:
    settings = load_recipe(name).settings
    assert settings.network == "inception-torchvision" and settings.weights == "download"
    assert settings.heads == ("class",) and not settings.frozen


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("settings.weights=inception.pth", "starts from nothing"),
        ("settings.frozen=true", "starts from nothing"),
        ("settings={network: inception-fid, heads: [style], frozen: true}", "needs settings.weights"),
        ("settings.network=inception", "inception-fid"),
        ("settings.heads=[]", "at least one thing"),
        ("settings.heads=[style, style]", "each once"),
        ("settings.labels={style: [a, b]}", "leave them out"),
        ("settings.dropout=1.0", "below 1"),
        ("text={encoder: bilstm}", "reads no captions"),
    ],
)
def test_a_wrong_setting_is_one_line(override: str, words: str) -> None:
    with pytest.raises(GanvasError, match=words) as refused:
        load_recipe("classifier-emoji", [override])
    assert "\n" not in str(refused.value)


def test_it_is_trained_from_the_command_line(ganvas: Callable[..., Called], tmp_path: Path) -> None:
    coloured_store(tmp_path / "data")
    small = ["settings.width=4", "data.image_size=16", "training.images.classes=32", "training.batch_size=16"]
    said = ganvas("train", "classifier", "--data", tmp_path / "data", "--out", tmp_path / "run", *small)
    assert said.status == 0, said.err
    assert "Text encoder: none" in (tmp_path / "run" / "model" / "README.md").read_text()
    wrong = ganvas(
        "train",
        "classifier",
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "x",
        *small,
        "training.images={gan: 5}",
    )
    assert wrong.is_one_line() and "no phase 'gan'" in wrong.err
    made = ganvas("generate", tmp_path / "run", "a red thing")
    assert made.is_one_line() and "generates nothing" in made.err
