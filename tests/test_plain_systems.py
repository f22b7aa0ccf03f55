"""The plain sides of the benchmarks compute what our systems compute."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ganvas.errors import GanvasError
from ganvas.recipe import load_recipe

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
STACKED = [
    "data.image_size=128",
    "settings.generator_width=18",
    "settings.discriminator_width=4",
    "settings.damsm_weight=0",  # the whole network is slow; its losses have tests of their own below
]
# 10,000 times: L_ALR and L_LVR are small beside the others
SYSTEMS = {
    "attngan": STACKED,
    "sd-gan": STACKED,
    "alr-gan": [*STACKED, "settings.layout.alr_weight=10000", "settings.layout.lvr_weight=10000"],
    "xmc-gan": [
        "data.image_size=32",
        "settings.generator_width=2",
        "settings.discriminator_width=2",
        "settings.frozen=resnet50",
        "settings.frozen_side=16",
    ],
}


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("newest")


def case_of(newest: ModuleType, name: str, *more: str) -> Any:
    attngan = sys.modules["attngan"]
    entry = newest.SYSTEMS.get(name)
    recipe, overrides, make = (
        (entry.recipe, entry.overrides, entry.case)
        if entry
        else (attngan.RECIPE, attngan.RANDOM_INCEPTION, attngan.make_case)
    )
    fixed = ["training.device=cpu", "training.batch_size=3", "training.num_devices=1"]
    return make(load_recipe(recipe, [*overrides, *fixed, *SYSTEMS[name], *more]), 3)


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_of_both_sides_agree_after_an_update_and_images_too(newest: ModuleType, name: str) -> None:
    case = case_of(newest, name)
    against = sys.modules["against_plain"]
    plain = case.make_plain()
    bench = case.make_ours(plain, "float32")
    ours = case.our_work(bench)
    found = against.losses_apart(ours(), plain(case.inputs))
    assert set(found) == {"discriminator_loss", "generator_loss"}
    assert max(found.values()) < 1e-4
    images = [against.plain_images(case, plain), against.our_images(case, plain, "float32")]
    one, other = (work() for work in images)
    assert one.shape == (len(case.inputs.noise), 3, *case.inputs.images[-1].shape[2:])
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_sides_that_compute_something_else_are_refused(newest: ModuleType) -> None:
    against, zero = sys.modules["against_plain"], torch.tensor(1.0)
    terms = {"discriminator_loss": zero, "generator_loss": torch.tensor(1.01)}
    with pytest.raises(GanvasError, match=r"do not compute the same: generator_loss is 1.0e-02 off"):
        against.losses_apart(terms, (zero, zero))


def test_the_plain_losses_of_damsm_are_ours(newest: ModuleType) -> None:
    from ganvas.losses.damsm import damsm_losses, sentence_scores, word_scores

    plain, draw = sys.modules["plain_attngan"], torch.Generator().manual_seed(0)
    regions, words, codes, sentences = (
        torch.randn(*shape, generator=draw) for shape in ((3, 6, 2, 2), (3, 5, 6), (3, 6), (3, 6))
    )
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    ours = damsm_losses(word_scores(regions, words, mask), sentence_scores(codes, sentences))
    theirs = plain.word_loss(regions, words.transpose(1, 2), [5, 2, 3], (4.0, 5.0, 10.0))
    assert sum(ours.words).item() == pytest.approx(theirs.item(), rel=1e-5)
    theirs = plain.sentence_loss(codes, sentences, 10.0)
    assert sum(ours.sentence).item() == pytest.approx(theirs.item(), rel=1e-5)


SMALL = ["--size", "32", "--batch", "2", "--repeat", "1", "--device", "cpu"]
SMALL += [part for value in SYSTEMS["xmc-gan"][1:] for part in ("--set", value)]


def call(newest: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["newest.py", "xmc-gan", *SMALL, *arguments])
    newest.main()


def test_the_file_says_how_far_apart_losses_are_how_fast_both_sides_and_their_memory(
    newest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, against, path = [], sys.modules["against_plain"], tmp_path / "xmc-gan.json"

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 0, stdout=f"{len(commands)}.5\n")

    monkeypatch.setattr(against.subprocess, "run", run)
    peak = {"float32": 1.0, "bfloat16": 1.0}  # its matrix products take long
    monkeypatch.setattr(against, "matmul_peak", lambda device: peak)
    call(newest, monkeypatch, "--out", str(path))
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["what"].startswith("XMC-GAN") and result["batch"] == 2
    assert max(result["train"]["losses_apart"].values()) < 1e-4
    for part in ("train", "generate"):
        seconds = {name: side["seconds"] for name, side in result[part]["sides"].items()}
        assert all(len(side["rounds"]) == 1 for side in seconds.values())
        told = result[part]["ratios"]["ganvas"]["of_medians"]
        assert told == pytest.approx(seconds["plain"]["median"] / seconds["ganvas"]["median"])
    assert result["memory_mib_an_image"] == {"plain": 1.5, "ganvas": 2.5}
    own = ["newest.py", "xmc-gan", *SMALL, "--out", str(path), "--memory-of"]
    assert commands == [[*own, "plain"], [*own, "ganvas"]]
    assert "times plain" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["plain", "ganvas"])
def test_a_process_of_its_own_says_what_a_side_s_steps_take(
    newest: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    call(newest, monkeypatch, "--memory-of", side)
    assert float(capsys.readouterr().out) > 0
