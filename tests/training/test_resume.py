"""Going on with a run: with its own recipe and data, with larger budgets, and not when it is over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import SIZE, Called, logged_losses, outcome, tiny_recipe, tiny_tree, write_store

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import resolve
from ganvas.training.log import read_log, seconds_of
from ganvas.training.loop import train
from ganvas.training.run import open_run, read_recipe

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "batch_size", 2),
        ("training", "seed", 1),
        ("training", "precision", "bfloat16"),
        ("training", "ema_half_life", 3),
        ("training", "channels_last", False),
        ("training", "batch_sizes", {"gan": 2}),
        ("data", "flip", 0.25),
        ("data", "mismatch", "image"),
        ("text", "channels", 16),
        ("settings", "interpolation", False),
        ("settings", "learning_rate", 0.001),
    ],
)
def test_another_setting_is_refused_by_its_name(
    store: Store, run: Path, section: str, key: str, value: Any
) -> None:
    tree = tiny_tree()
    tree[section][key] = value
    before = outcome(run)
    with pytest.raises(GanvasError, match=rf"{section}\.{key}.*choose another folder with --out") as refused:
        train(resolve(tree), store, run)
    assert "\n" not in str(refused.value) and outcome(run) == before


def test_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", splits=(13, 4, 3))
    with pytest.raises(
        GanvasError, match=f"{run}: this run was trained on other data than {other.path} holds"
    ):
        train(tiny_recipe(), other, run)


def test_too_small_images_are_refused_before_a_folder_is_made(
    ganvas: Callable[..., Called], store: Store, tmp_path: Path
) -> None:
    called = ganvas("train", "gan-int-cls-emoji-demo", "--data", store.path, "--out", tmp_path / "new")
    assert called.is_one_line() and "--size" in called.err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "free", [{"log_every": 5}, {"keep": 1}, {"samples": 3}, {"device": "auto"}, {"save_every": 4}]
)
def test_what_only_watches_a_run_may_change(store: Store, run: Path, free: dict[str, Any]) -> None:
    train(tiny_recipe(**free), store, run)


def test_a_run_that_is_over_says_so_and_changes_nothing(
    store: Store, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = outcome(run)
    checkpoints = sorted(p.name for p in (run / "checkpoints").iterdir())
    train(tiny_recipe(), store, run)
    assert outcome(run) == before and sorted(p.name for p in (run / "checkpoints").iterdir()) == checkpoints
    assert "is trained already" in capsys.readouterr().err


def test_a_larger_budget_of_the_last_phase_goes_on_as_if_it_had_been_there_from_the_start(
    store: Store, run: Path, tmp_path: Path
) -> None:
    images = {"text": 12, "gan": 24, "style": 20}
    train(tiny_recipe(images=images, log_every=1), store, run)
    whole = train(tiny_recipe(images=images, log_every=1), store, tmp_path / "whole").folder
    assert outcome(run)[1] == outcome(whole)[1]
    assert logged_losses(run)[-3:] == logged_losses(whole)[-3:]
    assert load(run, device="cpu").trained == images


def test_a_larger_budget_of_a_phase_that_others_build_on_is_refused(store: Store, run: Path) -> None:
    with pytest.raises(GanvasError, match=r"training\.images\.gan: 48 are asked for.*over after 24.*--out"):
        train(tiny_recipe(images={"text": 12, "gan": 48, "style": 8}), store, run)


def test_seconds_end_a_phase_before_its_images_and_more_of_them_go_on(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def call(seconds: float, **images: int) -> tuple[int, int]:
        tree = tiny_tree()
        tree["training"] |= {"images": {"text": 4, "gan": 10_000} | images, "seconds": {"gan": seconds}}
        tree["training"]["log_every"] = 2
        seen = load(train(resolve(tree), store, run).folder).trained
        return seen["gan"], seen.get("style", 0)

    assert call(1e-6) == (8, 0)  # a row of the log is two steps of four
    assert call(1e-6) == (8, 0)
    took = seconds_of(read_log(run), ["gan"])
    assert call(took) == (8, 0)
    assert call(took + 1e-6) == (16, 0)
    assert call(took, style=8) == (16, 8)
    with pytest.raises(GanvasError, match=r"is over after 16 in .* seconds, and phase style builds on it"):
        call(1000 * took + 1000, style=16)


def test_a_smaller_budget_tells_the_truth_about_what_was_trained(store: Store, run: Path) -> None:
    train(tiny_recipe(images={"text": 12, "gan": 24, "style": 4}), store, run)
    assert load(run, device="cpu").trained == {"text": 12, "gan": 24, "style": 8}


def test_a_phase_may_be_added_later(store: Store, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_recipe(images={"text": 12, "gan": 24}), store, run)
    assert load(run, device="cpu").trained == {"text": 12, "gan": 24}
    train(tiny_recipe(), store, run)
    assert outcome(run) == outcome(undisturbed)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"gen": 8}, "has no phase 'gen'; did you mean 'gan'"),
        ({"gan": -1}, r"training\.images\.gan: should be at least 0, not -1"),
    ],
)
def test_budgets_of_unknown_phases_or_below_zero_are_refused_before_a_folder_is_made(
    store: Store, tmp_path: Path, images: dict[str, int], said: str
) -> None:
    with pytest.raises(GanvasError, match=said):
        train(tiny_recipe(images=images), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "name: x", "\x00"])
def test_an_edited_recipe_of_a_run_is_one_line(store: Store, run: Path, text: str) -> None:
    (run / "recipe.yaml").write_text(text)
    with pytest.raises(GanvasError) as refused:
        train(tiny_recipe(), store, run)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["", "[]", "5", "{", '{"data": 5}', '{"data": {}}', "[" * 100_000])
def test_an_edited_run_json_is_one_line(store: Store, run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(GanvasError, match=f"{run / 'run.json'}: was changed or damaged"):
        train(tiny_recipe(), store, run)


def test_a_folder_that_holds_something_else_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(GanvasError, match="exists and is no run; choose another folder with --out"):
        train(tiny_recipe(), store, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_becomes_a_run(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = open_run(tmp_path / "empty", tiny_recipe(), store)
    assert read_recipe(run.folder) == tiny_recipe()
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["data"] == {"name": "squares", "size": SIZE, "fingerprint": store.info.fingerprint}


def test_a_torn_last_line_of_the_log_is_written_again(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_recipe(images={"text": 12, "gan": 12}), store, run)
    with (run / "log.csv").open("a") as file:
        file.write("gan,6,24,10.0,,,,1.37")
    train(tiny_recipe(), store, run)
    assert outcome(run) == outcome(undisturbed)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'"' + b"x" * 200_000])
def test_a_log_that_is_no_log_is_refused_in_one_line(store: Store, run: Path, content: bytes) -> None:
    (run / "log.csv").write_bytes(content)
    with pytest.raises(GanvasError, match=f"{run / 'log.csv'}: cannot be read"):
        train(tiny_recipe(images={"text": 12, "gan": 24, "style": 16}), store, run)


def test_the_resolved_recipe_lies_in_the_run(undisturbed: Path) -> None:
    assert yaml.safe_load((undisturbed / "recipe.yaml").read_text()) == tiny_recipe().to_dict() | {
        "settings": yaml.safe_load(tiny_recipe().to_yaml())["settings"]
    }
    assert read_recipe(undisturbed) == tiny_recipe()


def test_tensorboard_gets_the_rows_of_the_log(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "tensorboard" / "gan"))
    events.Reload()
    rows = [row for row in logged_losses(undisturbed) if row["phase"] == "gan"]
    shown = events.Scalars("gan/generator_loss")
    assert [point.step for point in shown] == [int(row["step"]) for row in rows]
    assert [point.value for point in shown] == pytest.approx([float(row["generator_loss"]) for row in rows])


def test_no_samples_are_drawn_where_none_are_asked_for_and_the_last_step_where_they_are(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    assert list((undisturbed / "samples").iterdir()) == []
    run = train(
        tiny_recipe(sample_every=1000, images={"text": 4, "gan": 8, "style": 4}), store, tmp_path / "run"
    )
    assert [p.name for p in run.samples.iterdir()] == ["gan-00000008.png"]
