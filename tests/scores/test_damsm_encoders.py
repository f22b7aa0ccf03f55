"""R-precision by the encoders that a system was trained with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import SIZE, write_store

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe, load_recipe
from ganvas.scores.damsm_encoders import open_damsm
from ganvas.scores.scoring import score
from ganvas.training.checkpoint import load_checkpoint
from ganvas.training.loop import train
from ganvas.training.run import Run

pytestmark = pytest.mark.usefixtures("single_threaded")

SMALL = [
    f"data.image_size={SIZE}",
    "text.features=8",
    "text.embedding=4",
    "training.batch_size=4",
    "training.batch_sizes={}",
    "training.sample_every=0",
    "training.device=cpu",
    "training.precision=float32",
]
ATTNGAN = ["settings.stages=2", "settings.generator_width=4", "settings.discriminator_width=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("damsm") / "data", splits=(14, 2, 104))


def attngan(*more: str) -> Recipe:
    images = "training.images={damsm: 8, gan: 8}"
    return load_recipe("attngan-emoji", [*SMALL, *ATTNGAN, "settings.damsm.width=4", images, *more])


@pytest.fixture(scope="module")
def run(data: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(attngan(), data, tmp_path_factory.mktemp("run") / "run")


def test_a_run_with_damsm_is_scored_by_its_own_encoders(data: Store, run: Run) -> None:
    encoders, name = open_damsm(run.folder)
    latest = run.latest()
    assert latest and name == "attngan-emoji"
    tensors = load_checkpoint(latest)[0]["system"]
    for key, value in encoders.damsm.image_encoder.state_dict().items():
        torch.testing.assert_close(value, tensors[f"damsm.image_encoder.{key}"], rtol=0, atol=0)
    [found] = score(str(run.folder), data.path, protocol="ganvas", only=["r-precision damsm"]).scores
    assert found.name == "r-precision damsm" and 0 <= found.value < 0.2
    assert found.protocol["retriever"] == "attngan-emoji" and found.protocol["candidates"] == 100


def test_real_images_are_retrieved_both_ways_by_the_encoders_of_a_run(data: Store, run: Run) -> None:
    use = {"damsm": str(run.folder)}
    found = score("real", data.path, protocol="ganvas", only=["damsm retrieval"], tools=use).scores
    assert len(found) == 4 and all(0 <= one.value <= 1 for one in found)


def test_a_run_that_took_its_encoders_over_leads_to_them(data: Store, run: Run, tmp_path: Path) -> None:
    later = train(attngan(f"training.encoders={run.folder}", "training.seed=3"), data, tmp_path / "later")
    ours, theirs = open_damsm(later.folder)[0], open_damsm(run.folder)[0]
    for mine, its in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_a_model_without_its_run_says_what_it_needs(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.model, tmp_path / "model")
    with pytest.raises(
        GanvasError, match="goes without DAMSM's image encoder; give the run with --use damsm"
    ):
        open_damsm(tmp_path / "model")


def test_a_system_without_damsm_is_named(undisturbed: Path) -> None:
    with pytest.raises(GanvasError, match=r"was trained without DAMSM \(system 'gan-int-cls'\)"):
        open_damsm(undisturbed)
