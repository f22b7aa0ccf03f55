"""The streaming benchmark runs, and says all that its figures need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "stream.py", "--device", "cpu", "--threads", "1", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)


def test_it_writes_both_sides_of_both_sets_and_the_plan_of_a_large_stream(tmp_path: Path) -> None:
    out = tmp_path / "stream.json"
    small = ["--batch", "4", "--repeat", "2", "--batches", "1", "--samples", "6", "--buffer", "8"]
    done = start(*small, "--shards", "600", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["sets"]) == {"256 x 256", "640 x 480"}
    for part in result["sets"].values():
        seconds = {name: side["seconds"] for name, side in part["sides"].items()}
        assert set(seconds) == {"DataLoader", "stream", "reading alone"}
        told = part["ratios"]["stream over DataLoader"]["of_medians"]
        assert told == pytest.approx(seconds["DataLoader"]["median"] / seconds["stream"]["median"])
        for side in part["sides"].values():
            rate = side["images_per_second"] * part["mean_image_bytes"] / 1e6
            assert side["encoded_megabytes_per_second"] == pytest.approx(rate)
    plan = result["plan"]
    assert plan["every_shard_once_an_epoch"] is True
    shares = plan["samples_of_a_rank_over_mean"]
    assert shares["lowest"] <= 1 <= shares["highest"] < 1.3


@pytest.mark.parametrize(
    ("option", "why"), [("--samples", "should be at least 1"), ("--shards", "should be at least 512")]
)
def test_a_mistake_is_one_line_and_exit_status_2(option: str, why: str) -> None:
    done = start(option, "0")
    assert done.returncode == 2
    assert done.stderr.startswith(f"stream.py: {option} 0: {why}") and done.stderr.count("\n") == 1
