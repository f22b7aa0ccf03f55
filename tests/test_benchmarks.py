"""The benchmarks run, say all that their figures need, and compare like with like."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ganvas.recipe import load_recipe
from ganvas.training.steps import seed_of

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
RECIPE = "gan-int-cls-emoji-demo"
SMALL = ["settings.generator_width=8", "settings.discriminator_width=8", "data.image_size=16"]
TINY = [
    *(part for value in SMALL for part in ("--set", value)),
    "--batch",
    "4",
    "--repeat",
    "2",
    "--steps",
    "1",
]
CPU = torch.device("cpu")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "--device", "cpu", "--threads", "1"]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)


def result_of(out: Path, *arguments: str) -> dict[str, Any]:
    done = start(*arguments, "--out", str(out))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def medians_explain_ratio(part: dict[str, Any], name: str, slow: str, fast: str) -> bool:
    a, b = (part["sides"][side]["seconds"] for side in (slow, fast))
    told = part["ratios"][name]
    return (
        told["of_medians"] == pytest.approx(a["median"] / b["median"])
        and 0 < told["lowest_round"] <= told["highest_round"]
        and all(side["min"] <= side["median"] <= side["max"] for side in (a, b))
    )


def test_the_speed_benchmark_writes_both_sides_their_ratio_and_how_it_was_made(tmp_path: Path) -> None:
    result = result_of(tmp_path / "deep" / "speed.json", "speed.py", RECIPE, *TINY)
    assert result["recipe"] == RECIPE
    assert result["machine"]["threads"] == 1 and result["machine"]["torch"] == torch.__version__
    assert result["protocol"]["batch"] == 4 and result["protocol"]["overrides"] == SMALL
    step, generation = result["step"], result["generation"]
    assert medians_explain_ratio(step, "all", "plain", "ganvas")
    assert medians_explain_ratio(step, "step alone", "plain", "float32 contiguous")
    assert medians_explain_ratio(generation, "all", "plain", "ganvas")
    assert medians_explain_ratio(generation, "as users call it", "plain", "Model.generate_arrays")
    for side in (*step["sides"].values(), *generation["sides"].values()):
        assert len(side["seconds"]["rounds"]) == 2
        assert side["images_per_second"] == pytest.approx(4 / side["seconds"]["median"])
    assert min(step["matmul_peak_tflops"][name] for name in ("float32", "bfloat16")) > 0
    assert 0 < step["sides"]["ganvas"]["share_of_peak"] < 1
    assert len(step["profile_of_ganvas"]) == 5
    assert all(0 < row["share"] < 1 for row in step["profile_of_ganvas"])
    # the discriminator's weight gradients in the generator's turn
    assert step["sides"]["ganvas"]["gflop"] < step["sides"]["plain"]["gflop"]


def test_the_feed_benchmark_writes_the_feed_its_peers_and_its_share_of_a_step(tmp_path: Path) -> None:
    small = ["--size", "16", "--images", "40", "--batches", "2"]
    result = result_of(tmp_path / "feed.json", "feed.py", *small, *TINY)
    for kind in ("host", "ready"):
        for workers in (0, 2):
            other = f"DataLoader {workers} workers, {kind}"
            assert medians_explain_ratio(result["rates"], f"feed over {other}", other, f"feed, {kind}")
    training = result["training"]
    assert training["recipe"] == RECIPE
    assert 0 < training["waiting_share"] < 1
    assert all(len(side["seconds"]["rounds"]) == 3 for side in training["sides"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed.py", "retriever-emoji"], "speed.py: recipe retriever-emoji: trains no generator"),
        (["feed.py", "--data", "nowhere"], "feed.py: nowhere: no prepared data set here"),
        (["feed.py", "--size", "8"], "feed.py: --size 8: should be at least 16"),
    ],
    ids=["no generator", "no data", "too small"],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments: list[str], message: str) -> None:
    done = start(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("speed")


@pytest.fixture
def common(speed: ModuleType) -> ModuleType:
    return sys.modules["common"]


def test_the_plain_step_computes_what_the_loop_computes(speed: ModuleType, common: ModuleType) -> None:
    fixed = ["training.device=cpu", "training.precision=float32", "training.channels_last=false"]
    recipe = load_recipe(RECIPE, [*SMALL, *fixed, "training.batch_size=4"])
    one, other = common.make_bench(recipe, CPU), common.make_bench(recipe, CPU)
    before = {name: value.clone() for name, value in one.system.state_dict().items()}
    batch = speed.random_batch(one, CPU)
    one.loop()._step(1, batch)
    work = speed.plain_step(other, batch)
    torch.manual_seed(seed_of(recipe.training.seed, one.number, 1, 0))
    work()
    theirs = other.system.state_dict()
    for name, value in one.system.state_dict().items():
        # a quarter of Adam's first step: gradients that are all but zero have rounding errors for signs
        torch.testing.assert_close(value, theirs[name], atol=5e-5, rtol=1e-5)
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, theirs[name])}
    assert moved == {"generator", "discriminator"}


def test_sides_take_turns_and_the_first_rounds_only_warm_up(common: ModuleType) -> None:
    calls: list[str] = []
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = common.interleave(sides, rounds=3, warmup=2, device=CPU)
    assert "".join(calls) == "ababababab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_of_medians_and_carries_the_extremes_of_its_rounds(common: ModuleType) -> None:
    found = common.ratio([4.0, 6.0, 100.0], [2.0, 2.0, 4.0])
    assert found == {"of_medians": 3.0, "lowest_round": 2.0, "highest_round": 25.0}


def test_the_photos_benchmark_prepares_and_feeds_beside_its_peers(tmp_path: Path) -> None:
    small = ["--count", "4", "--batch", "2", "--repeat", "1", "--batches", "1"]
    result = result_of(tmp_path / "photos.json", "photos.py", *small)
    for part in ("preparing", "preparing large photos"):
        for name in ("Pillow to PNG", "Pillow to JPEG", "Pillow, decoding alone"):
            assert medians_explain_ratio(result[part], f"ganvas over {name}", name, "ganvas")
    assert result["preparing large photos"]["pixels"] == [2560, 1920]
    feeding, peer = result["feeding"], "DataLoader 2 workers"
    assert medians_explain_ratio(feeding, f"feed over {peer}", peer, "feed")
    assert (feeding["sizes"], feeding["batch"]) == ([64, 128, 256], 2)


def test_the_startup_benchmark_says_what_generating_takes_beyond_torch(
    tmp_path: Path, undisturbed: Path
) -> None:
    result = result_of(tmp_path / "startup.json", "startup.py", "--model", str(undisturbed), "--repeat", "1")
    sides = result["sides"]
    assert set(sides) >= {"import ganvas", "import torch", "generate"}
    more = result["more_than_import_torch"]["seconds_of_medians"]
    assert more == sides["generate"]["seconds"]["median"] - sides["import torch"]["seconds"]["median"]
    assert result["bar"]["met"] == (more <= result["bar"]["more_seconds_than_import_torch"])
    assert result["times_import_torch"]["of_medians"] > 0 and "machine_was_busy" in result["protocol"]


def test_the_table_of_systems_has_every_point_of_either_budget(undisturbed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    score = {"name": "r-precision", "value": 0.25, "spread": 0.05, "better": "higher", "protocol": {}}
    other = {"name": "ms per image", "value": 3.0, "spread": None, "better": "lower", "protocol": {}}
    points = [
        {"limits": {"images": {"gan": 8}}, "images": 8, "seconds": 2.5, "scores": [score, other]},
        {
            "limits": {"images": {"gan": 9}, "seconds": {"gan": 4}},
            "images": 9,
            "seconds": 4,
            "scores": [score],
        },
    ]
    (run / "points.json").write_text(json.dumps(points))
    command = [sys.executable, "systems.py", str(run), "--out", str(tmp_path / "out.json"), "--note", "alone"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[3:6] for line in done.stdout.splitlines() if " 25.0 % ± 5.0 " in line] == [
        [" 8 ", " 2 ", " 25.0 % ± 5.0 "],
        [" 9 ", " 4 ", " 25.0 % ± 5.0 "],
    ]
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [s["name"] for point in result["rows"][0]["points"] for s in point["scores"]] == [
        "r-precision"
    ] * 2
    assert result["machine"]["note"] == "alone" and result["rows"][0]["generator_parameters"] > 0
    (run / "points.json").unlink()
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "has no points.json" in done.stderr
