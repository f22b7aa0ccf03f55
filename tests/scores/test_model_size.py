"""Speed and size: parameters, FLOPs in closed form, times that carry their machine."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.scores.model_size import SizeProtocol, model_size, num_flops, num_parameters

pytestmark = pytest.mark.usefixtures("single_threaded")


class Linear(nn.Module):
    """A system whose size is plain: two linear layers, from 8 to 32 to 3 x 4 x 4."""

    generates, training_only = True, ("discriminator",)

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 48))
        self.text_encoder = nn.Embedding(10, 4)
        self.discriminator = nn.Linear(48, 1)

    def embed(self, captions: list[str]) -> Tensor:
        return torch.zeros(len(captions), 4)

    def draw_noise(self, like: Tensor) -> Tensor:
        return torch.zeros(len(like), 8)

    def generate(self, text: Tensor, noise: Tensor) -> list[Tensor]:
        return [self.generator(noise).view(-1, 3, 4, 4)]


def linear_model() -> Model:
    recipe: Any = SimpleNamespace(name="linear")
    system: Any = Linear()
    system.image_size = 4
    return Model(system, recipe, {}, torch.device("cpu"))


def test_parameters_and_flops_in_closed_form() -> None:
    model = linear_model()
    generator = 8 * 32 + 32 + 32 * 48 + 48
    assert num_parameters(model) == {
        "generator": generator,
        "text_encoder": 40,
        "total": generator + 40,
    }
    assert num_flops(model) == 2 * (8 * 32 + 32 * 48)


def test_scores_of_a_model_carry_the_machine_where_it_matters(undisturbed: Path) -> None:
    model = load(undisturbed, device="cpu")
    folder = undisturbed / "model"
    scores = {
        score.name: score
        for score in model_size(model, SizeProtocol(batches=(1, 8), repeats=3), folder=undisturbed)
    }
    assert list(scores) == ["parameters", "FLOPs", "ms per image, batch 1", "ms per image, batch 8"]
    size, flops, single, many = scores.values()
    parts = size.facts["parts"]
    assert size.value == parts["total"] == sum(count for name, count in parts.items() if name != "total")
    assert "generator" in parts and "text_encoder" in parts and "discriminator" not in parts
    weights = (folder / "model.safetensors").stat().st_size
    assert 0 < weights - size.facts["weight_bytes"] < 20_000  # names and shapes
    assert size.facts["folder_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert flops.value > 0 and "device" not in flops.protocol
    for score, batch in ((single, 1), (many, 8)):
        assert score.value > 0 and score.better == "lower" and len(score.facts["rounds"]) == 3
        assert score.protocol["batches"] == [batch] and score.protocol["threads"] == 1
        assert score.protocol["device"].startswith("cpu, ") and score.protocol["image_size"] == 16


def test_what_generates_nothing_has_no_speed() -> None:
    retriever = load(str(files("ganvas.scores") / "retrievers" / "emoji"), device="cpu")
    with pytest.raises(GanvasError, match="'retriever-emoji' generates nothing"):
        model_size(retriever)


@pytest.mark.parametrize("changes", [{"repeats": 0}, {"batches": ()}, {"batches": (0,)}])
def test_no_repeats_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(GanvasError, match="at least 1"):
        SizeProtocol(**changes)
