"""``ganvas score`` and ``ganvas ablate``: what is scored, what a result says, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_runs import Called, tiny_tree

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import load_recipe
from ganvas.scores import makers, protocols
from ganvas.scores import pictures as scored_pictures
from ganvas.scores.ablation import list_variants
from ganvas.scores.budget import Budget, parts_of
from ganvas.scores.pictures import chosen_captions, from_folder, generated, real
from ganvas.scores.protocols import PROTOCOLS, NamedProtocol, Wanted, chosen_protocol
from ganvas.scores.score import Score, compared, differences, read_scores
from ganvas.scores.scoring import Job, Missing, against, score

SCORE = Score(
    name="brightness", value=0.5, spread=0.1, better="higher", protocol={"split": "test", "num_images": 3}
)


def brightness(job: Job) -> list[Score]:
    """Mean level of all images: a score that needs no network."""
    pictures = job.target.pictures
    values = np.concatenate([batch.mean(axis=(1, 2, 3)) for batch in pictures.batches()])
    assert len(values) == len(pictures)
    return [
        Score(name="brightness", value=float(values.mean()), better="higher", protocol=dict(pictures.about))
    ]


def never(_: Job) -> list[Score]:
    raise Missing("give a network with --use weights=PATH")


@pytest.fixture(autouse=True)
def _plain_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(makers.MAKERS, "brightness", brightness)
    monkeypatch.setitem(makers.MAKERS, "never", never)
    wanted = (Wanted(score="brightness"), Wanted(score="never"))
    plain = NamedProtocol(name="ganvas", about="A test.", data=None, split="test", scores=wanted)
    monkeypatch.setitem(protocols.PROTOCOLS, "ganvas", plain)


# --- scores


def test_scores_of_one_protocol_are_compared_in_their_direction() -> None:
    worse = replace(SCORE, value=0.25)
    assert compared(SCORE, worse) == 0.25 == -compared(worse, SCORE)
    lower = replace(SCORE, better="lower")
    assert compared(replace(lower, value=0.75), lower) == -0.25


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(SCORE, name="darkness"), "brightness is not darkness"),
        (replace(SCORE, protocol={"split": "val", "num_images": 3}), 'split: "test" here, "val" there'),
        (replace(SCORE, protocol={"split": "test"}), "num_images: 3 here, null there"),
    ],
)
def test_scores_of_two_protocols_are_refused_and_the_difference_is_told(other: Score, said: str) -> None:
    assert differences(SCORE, other) == [said]
    with pytest.raises(GanvasError, match="cannot be compared") as refused:
        compared(SCORE, other)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"scores": [{"name": 3}]}', b'{"scores": 3}', b"\xff"]
)
def test_what_is_no_file_of_scores_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(GanvasError, match="is no file of scores") as refused:
        read_scores(tmp_path / "x.json")
    assert "\n" not in str(refused.value)


# --- what is scored


def test_captions_are_taken_in_turns_until_there_are_enough(store: Store) -> None:
    rows = store.rows("test")
    captions, owners = chosen_captions(store, "test", None, 0)
    assert captions == [store.captions[row][0] for row in rows] and owners.tolist() == rows.tolist()
    captions, owners = chosen_captions(store, "test", 7, 0)
    assert captions[3:6] == [store.captions[row][1] for row in rows]
    assert captions[6] == captions[0] and owners[6] == rows[0]
    few, _ = chosen_captions(store, "train", 5, 0)
    assert len(set(few)) == 5 and few == chosen_captions(store, "train", 5, 0)[0]
    assert few != chosen_captions(store, "train", 5, 1)[0]
    with pytest.raises(GanvasError, match="at least 1"):
        chosen_captions(store, "test", 0, 0)


def test_generated_images_are_the_same_each_time_and_each_has_its_noise(
    undisturbed: Path, store: Store
) -> None:
    pictures = generated(load(undisturbed, device="cpu"), store, split="test", num=5)
    first, again = (np.concatenate(list(pictures.batches())) for _ in range(2))
    assert first.shape == (5, 16, 16, 3) and (first == again).all()
    assert (first[0] != first[3]).any()  # the same image's first and second caption


@pytest.mark.parametrize(("most", "times"), [(2**27, 1), (100, 3)])
def test_images_are_generated_once_for_all_scores_where_memory_can_hold_them(
    undisturbed: Path, store: Store, monkeypatch: pytest.MonkeyPatch, most: int, times: int
) -> None:
    monkeypatch.setattr(scored_pictures, "_KEPT_BYTES", most)
    model, calls = load(undisturbed, device="cpu"), []
    make = model.generate_arrays
    monkeypatch.setattr(model, "generate_arrays", lambda *a, **k: calls.append(1) or make(*a, **k))
    pictures = generated(model, store, split="test", num=5)
    next(iter(pictures.batches()))  # who stops on the way leaves nothing half made
    calls.clear()
    found = [np.concatenate(list(pictures.batches())) for _ in range(3)]
    assert len(calls) == times and all((other == found[0]).all() for other in found) and len(found[0]) == 5


def test_real_images_are_those_of_the_captions_and_shuffled_ones_are_not(store: Store) -> None:
    shown = np.concatenate(list(real(store, split="train").batches()))
    assert (shown == store.images[store.rows("train")]).all()
    mixed = np.concatenate(list(real(store, split="train", shuffled=True).batches()))
    assert (mixed != shown).any() and sorted(mixed.sum((1, 2, 3))) == sorted(shown.sum((1, 2, 3)))


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for row in store.rows("test").tolist():
        Image.fromarray(store.images[row]).save(path / f"{row}.png")
        (path / f"{row}.txt").write_text(store.captions[row][1] + "\n", encoding="utf-8")
    return path


def test_a_folder_of_images_is_scored_by_its_captions(folder: Path, store: Store) -> None:
    pictures = from_folder(folder, store, split="test")
    assert pictures.rows.tolist() == store.rows("test").tolist()
    assert (np.concatenate(list(pictures.batches())) == store.images[pictures.rows]).all()


def _mixed(folder: Path) -> None:
    Image.new("RGB", (8, 16)).save(sorted(folder.glob("*.png"))[1])


def _broken(folder: Path) -> None:
    sorted(folder.glob("*.png"))[1].write_bytes(b"no image")


def _silent(folder: Path) -> None:
    sorted(folder.glob("*.txt"))[1].unlink()


def _unknown(folder: Path) -> None:
    sorted(folder.glob("*.txt"))[1].write_text("something else\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_mixed, "bring all images to one size"),
        (_broken, "cannot be scored: is no image"),
        (_silent, "every image needs its caption"),
        (_unknown, "no image of split 'test' has the caption 'something else'"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    damage: Callable[[Path], None], said: str, folder: Path, store: Store, ganvas: Callable[..., Called]
) -> None:
    damage(folder)
    done = ganvas("score", folder, "--data", store.path)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1


# --- the command


def test_a_run_is_scored_and_the_file_says_all(
    undisturbed: Path, store: Store, ganvas: Callable[..., Called], tmp_path: Path
) -> None:
    done = ganvas("score", undisturbed, "--data", store.path, "--out", "scores.json")
    assert (
        done.status == 0
        and done.out.startswith("brightness  ")
        and "never: not made; give a network" in done.err
    )
    tree = json.loads((tmp_path / "scores.json").read_text())
    assert (tree["model"], tree["protocol"], tree["images"]) == ("run", "ganvas", "generated")
    (found,) = tree["scores"]
    assert found["protocol"] == {"data": store.info.fingerprint, "split": "test", "num_images": 3, "seed": 0}
    assert tree["about"]["trained"] == {"text": 12, "gan": 24, "style": 8} and "never" in tree["missing"]
    again = ganvas("score", undisturbed, "--data", store.path, "--out", "2.json", "--against", "scores.json")
    assert again.status == 0 and "(there: " in again.out
    other = ganvas("score", "real", "--data", store.path, "--num", "2", "--against", "scores.json")
    assert other.status == 2 and "num_images: 2 here, 3 there" in other.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["real", "--protocol", "attngan-cup"], "did you mean 'attngan-cub'"),
        (["real", "--protocol", "attngan-cub"], "is for data set 'cub', and"),
        (["real", "--only", "brightnes"], "did you mean 'brightness'"),
        (["real", "--use", "retreiver=x"], "did you mean 'retriever'"),
        (["real", "--use", "retriever"], "write key=value"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, store: Store, ganvas: Callable[..., Called]
) -> None:
    done = ganvas("score", *arguments, "--data", store.path)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1


def test_every_protocol_asks_for_scores_that_can_be_made() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.about.endswith(".")
        assert {want.score for want in protocol.scores} <= set(makers.MAKERS)


def test_data_without_a_test_split_are_scored_on_val(store: Store, tmp_path: Path) -> None:
    from tiny_runs import write_store

    assert chosen_protocol(None, store).split == "test"
    assert chosen_protocol(None, write_store(tmp_path / "d", splits=(4, 2, 0))).split == "val"
    with pytest.raises(GanvasError, match=r"scores split 'test', and .* has train"):
        chosen_protocol("ganvas", write_store(tmp_path / "t", splits=(4, 0, 0)))


def test_a_score_asked_for_need_not_be_of_the_protocol(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def another(job: Job) -> list[Score]:
        seen.append(dict(job.settings))
        return []

    monkeypatch.setitem(makers.MAKERS, "another", another)
    only = ["another", "brightness"]
    assert [made.name for made in score("real", store.path, only=only).scores] == ["brightness"]
    assert seen == [{}]


def test_an_earlier_result_without_the_same_scores_is_refused(store: Store, tmp_path: Path) -> None:
    result = score("real", store.path)
    (tmp_path / "x.json").write_text(replace_scores(result.to_json()))
    with pytest.raises(GanvasError, match=r"has none of these scores \(brightness\)"):
        against(result, tmp_path / "x.json")


def replace_scores(text: str) -> str:
    tree = json.loads(text)
    tree["scores"][0]["name"] = "darkness"
    return json.dumps(tree)


# --- ablation


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tree: dict[str, Any] = tiny_tree(images={"text": 4, "gan": 8})
    tree["variants"] = {"GAN": ["settings.matching_aware=false", "settings.interpolation=false"]}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_variants_are_trained_scored_and_put_into_a_table(
    recipe: Path, store: Store, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    first = ganvas("ablate", recipe, "--data", store.path, "--out", "table", "--only", "whole")
    assert first.status == 0, first.err
    done = ganvas("ablate", recipe, "--data", store.path, "--out", "table")
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [(row["name"], row["images"]) for row in rows] == [("whole", 12), ("GAN", 12)]
    assert all(row["seconds"] > 0 and row["scores"][0]["name"] == "brightness" for row in rows)
    text = (tmp_path / "table" / "table.md").read_text()
    assert text.count("**") == 2 and "brightness: higher is better, 3 images of split test" in text
    assert (tmp_path / "table" / "GAN" / "model").is_dir()
    before = (tmp_path / "table" / "GAN" / "scores.json").stat().st_mtime_ns
    assert ganvas("ablate", recipe, "--data", store.path, "--out", "table").status == 0
    assert (tmp_path / "table" / "GAN" / "scores.json").stat().st_mtime_ns == before
    longer = ganvas("ablate", recipe, "training.images.gan=16", "--data", store.path, "--out", "table")
    assert longer.status == 0
    assert (tmp_path / "table" / "GAN" / "scores.json").stat().st_mtime_ns != before


def test_variants_that_cannot_be_are_told_before_anything_is_trained(recipe: Path) -> None:
    assert [variant.name for variant in list_variants([str(recipe)])] == ["whole", "GAN"]
    with pytest.raises(GanvasError, match="did you mean 'GAN'"):
        list_variants([str(recipe)], ["GANN"])
    tree = yaml.safe_load(recipe.read_text())
    tree["variants"]["GAN"] = ["settings.matching_awar=false"]
    recipe.write_text(yaml.safe_dump(tree))
    with pytest.raises(GanvasError, match="matching_aware"):
        list_variants([str(recipe)])
    with pytest.raises(GanvasError, match="would have one name"):
        list_variants(["gan-int-cls-emoji", "gan-int-cls-emoji"])


def test_one_budget_for_all_is_scored_along_the_runs_and_never_done_again(
    recipe: Path,
    store: Store,
    tmp_path: Path,
    ganvas: Callable[..., Called],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = NamedProtocol(
        name="dark", about="A test.", data=None, split="test", scores=(Wanted(score="never"),)
    )
    monkeypatch.setitem(protocols.PROTOCOLS, "dark", nothing)

    def call(*more: object) -> Called:
        return ganvas("ablate", recipe, "--whole", "--data", store.path, "--out", "table", *more)

    done = call("--images", 16, "--points", 2)
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [(row["name"], row["images"]) for row in rows] == [("tiny", 8), ("tiny", 16)]
    assert all(row["seconds"] > 0 and row["scores"][0]["name"] == "brightness" for row in rows)
    run = tmp_path / "table" / "tiny"
    points = json.loads((run / "points.json").read_text())
    assert [point["limits"]["images"] for point in points] == [{"text": 4, "gan": 8}, {"text": 4, "gan": 16}]
    assert [point["images"] for point in points] == [8, 16]
    before = (run / "points.json").stat().st_mtime_ns
    assert call("--images", 16, "--points", 2).status == 0
    assert (run / "points.json").stat().st_mtime_ns == before
    assert call("--images", 16, "--points", 1, "--protocol", "dark").status == 0
    dark = json.loads((run / "points.json").read_text())[2:]
    assert [(p["protocol"], p["images"], [s["name"] for s in p["scores"]]) for p in dark] == [
        ("dark", 16, [])
    ]
    longer = call("--images", 24, "--points", 3)
    assert longer.status == 0, longer.err
    assert len(json.loads((run / "points.json").read_text())) == 4
    past = call("--images", 4)
    assert past.status == 2 and "was not scored at 4" in past.err


def test_a_budget_of_seconds_ends_each_phase_when_they_are_over(
    recipe: Path, store: Store, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    def call(*more: object) -> Called:
        return ganvas("ablate", recipe, "--whole", "--data", store.path, "--out", "table", *more)

    def points() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((tmp_path / "table" / "tiny" / "points.json").read_text())
        return found

    every_step = "training.log_every=1"
    done = call("--seconds", 1e-6, every_step)
    assert done.status == 0, done.err
    (first,) = points()
    assert first["limits"]["seconds"] == {"gan": 1e-6} and first["images"] == 4 and first["seconds"] > 0
    assert call("--seconds", 1e-6, every_step).status == 0
    assert points() == [first]
    longer = first["seconds"] + 1e-3
    assert call("--seconds", longer, every_step).status == 0
    second = points()[1]
    assert second["limits"]["seconds"] == {"gan": longer} and second["images"] > 4
    assert second["seconds"] >= longer - 1e-4  # four decimals are kept
    past = call("--seconds", 5e-7, every_step)
    assert past.status == 2 and "was not scored at 5e-07" in past.err


def test_a_budget_takes_encoders_over_and_leaves_the_rest_of_the_recipe(
    recipe: Path, store: Store, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    trained = ganvas("train", recipe, "--data", store.path, "--out", "encoders")
    assert trained.status == 0, trained.err
    done = ganvas(
        *("ablate", recipe, "--whole", "--data", store.path, "--out", "table"),
        *("--images", 8, "--encoders", "encoders"),
    )
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "table" / "tiny" / "model" / "config.json").read_text())
    assert config["recipe"]["training"]["encoders"] == "encoders"
    theirs = load(tmp_path / "encoders").system.text_encoder.state_dict()
    ours = load(tmp_path / "table" / "tiny").system.text_encoder.state_dict()
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--points", 2), "belong to a budget"),
        (("--encoders", "runs/x"), "belong to a budget"),
        (("--images", 2, "--points", 3), "at least 1 point, and an image for each"),
        (("--images", 8, "--points", 0), "at least 1 point"),
        (("--images", 8, "--seconds", 9), "a budget is one of them"),
        (("--seconds", -1), "a budget is one of them, above 0"),
    ],
)
def test_budgets_that_cannot_be_are_refused(
    given: tuple[object, ...], message: str, recipe: Path, store: Store, ganvas: Callable[..., Called]
) -> None:
    done = ganvas("ablate", recipe, "--data", store.path, "--out", "table", *given)
    assert done.status == 2 and message in done.err


def test_stages_one_after_the_other_get_the_budget_each_and_captions_of_a_picture_count(store: Store) -> None:
    def parts(name: str, points: int) -> list[tuple[dict[str, float], float]]:
        found = parts_of(Budget(images=60, points=points), load_recipe(name), store)
        given = [
            {phase: int(images) for phase, images in part.limits["images"].items() if phase in part.captions}
            for part in found
        ]
        return [(dict(seen), part.generated(seen)) for seen, part in zip(given, found, strict=True)]

    assert parts("stackgan-emoji", 3) == [
        ({"stage1": 40, "stage2": 0}, 40),
        ({"stage1": 60, "stage2": 20}, 80),
        ({"stage1": 60, "stage2": 60}, 120),
    ]
    assert parts("sd-gan-emoji", 1) == [({"gan": 30}, 60)]
    assert parts("attngan-emoji", 2) == [({"gan": 30}, 30), ({"gan": 60}, 60)]


def test_stages_share_seconds(store: Store) -> None:
    found = parts_of(Budget(seconds=60, points=3), load_recipe("stackgan-emoji"), store)
    assert [part.limits["seconds"] for part in found] == [
        {"stage1": 20},
        {"stage1": 30, "stage2": 10},
        {"stage1": 30, "stage2": 30},
    ]
    assert [part.limits["images"]["stage2"] > 0 for part in found] == [False, True, True]


@pytest.fixture(autouse=True)
def _quick(single_threaded: None) -> Iterator[None]:
    yield
