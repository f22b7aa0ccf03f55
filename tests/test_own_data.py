"""From a folder of pictures to generated images, by commands alone: prepare, train, resume, generate."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SMALL_SYSTEM

COCO_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_mini"
SHORT = [*SMALL_SYSTEM, "training.batch_size=8", "training.batch_sizes.text=8", "training.device=cpu"]


def ganvas(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganvas", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def pictures(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        size = (int(random.integers(20, 90)), int(random.integers(20, 90)))
        Image.new("RGB", size, tuple(random.integers(0, 256, 3).tolist())).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}\none of forty\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["folder", "coco"])
def test_pictures_become_a_model_that_generates(tmp_path: Path, name: str) -> None:
    if name == "coco" and not COCO_MINI.is_dir():
        pytest.skip("the photos of coco_mini are not here")
    source = pictures(tmp_path / "mine") if name == "folder" else COCO_MINI
    ganvas("data", "prepare", name, source, "--out", "data", "--size", 64, folder=tmp_path)
    train = ["train", "gan-int-cls", "--data", "data", "--out", "run", *SHORT]
    ganvas(*train, "training.images={text: 16, gan: 24}", folder=tmp_path)
    before = logged(tmp_path / "run")
    ganvas(*train, "training.images={text: 16, gan: 48}", folder=tmp_path)
    after = logged(tmp_path / "run")
    assert after[: len(before)] == before and after[-1] == ("gan", "48") != before[-1]
    ganvas("generate", "run", "a dog on a beach", "--out", "dog.png", folder=tmp_path)
    with Image.open(tmp_path / "dog.png") as image:
        assert image.size == (64, 64) and np.asarray(image).std() > 0


def logged(run: Path) -> list[tuple[str, str]]:
    """Phases and images seen of the rows of the log."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [(row["phase"], row["images"]) for row in csv.DictReader(file)]
