"""Images without captions, all the way: prepared, trained on, generated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Called

pytestmark = pytest.mark.usefixtures("single_threaded")

SMALL = [
    *("settings.stages=2", "settings.generator_width=4", "settings.discriminator_width=4"),
    *("data.image_size=16", "training.images.gan=16", "training.batch_size=4", "training.device=cpu"),
    *("training.sample_every=16", "training.samples=3", "training.precision=float32"),
]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_folder_of_images_is_prepared_trained_on_and_generated_from(
    ganvas: Callable[..., Called], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(24):
        image = random.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "in" / f"{number}.png")
    refused = ganvas("data", "prepare", "folder", tmp_path / "in", "--out", "data", "--size", "16")
    assert refused.is_one_line() and refused.err.endswith("take them with --option captions=none\n")
    prepare = ("data", "prepare", "folder", tmp_path / "in", "--out", "data", "--size", "16")
    assert ganvas(*prepare, "--option", "captions=none").status == 0

    trained = ganvas("train", "stackgan-v2-unconditional", *SMALL, "--data", "data", "--out", "run")
    assert trained.status == 0, trained.err
    assert trained.out.splitlines()[-1] == "generate with: ganvas generate run"
    sheet = pixels(next((tmp_path / "run" / "samples").glob("gan-*.png")))
    assert sheet.std() > 0

    assert ganvas("generate", "run", "-n", "4", "--out", "plain").status == 0
    images = [pixels(path) for path in sorted((tmp_path / "plain").glob("*.png"))]
    assert [image.shape for image in images] == [(16, 16, 3)] * 4
    assert len({image.tobytes() for image in images}) == 4

    told = ganvas("generate", "run", "a red apple", "another", "-n", "4", "--out", "told")
    assert told.status == 0 and told.err.count("\n") == 1
    assert "trained without captions, so those given are ignored" in told.err
    again = [pixels(path) for path in sorted((tmp_path / "told").glob("*.png"))]
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_every_image_of_a_sample_sheet_has_noise_of_its_own(tmp_path: Path) -> None:
    import torch
    from tiny_runs import write_store

    from ganvas.building import build_system
    from ganvas.pipeline import Model
    from ganvas.recipe import load_recipe
    from ganvas.training.samples import sample_sheet

    store = write_store(tmp_path / "data")
    recipe = load_recipe("stackgan-v2-unconditional", SMALL)
    torch.manual_seed(0)
    system = build_system(recipe).eval().requires_grad_(False)
    seen: list[torch.Tensor] = []
    generate = system.generate
    system.generate = lambda text, noise: (seen.append(noise), generate(text, noise))[1]  # type: ignore[method-assign, func-returns-value]
    sample_sheet(Model(system, recipe, {}, torch.device("cpu")), store, "train", count=3, columns=2)
    assert len({tuple(row.tolist()) for row in torch.cat(seen)[:6]}) == 6
