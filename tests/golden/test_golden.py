"""The model that ships draws what it drew when it was shipped, on any machine, up to rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import thumbnails as golden
import torch

from ganvas import models
from ganvas.pipeline import Model, load


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(device="cpu")
    torch.set_num_threads(before)


def test_sixteen_captions_give_the_stored_thumbnails(model: Model) -> None:
    assert len(set(golden.CAPTIONS)) == 16
    found = golden.distance(golden.thumbnails(model), golden.stored())
    assert found.within, f"{found}; was the model replaced? python tests/golden/thumbnails.py --update"


def test_the_tolerance_tells_another_seed_and_another_caption(model: Model) -> None:
    drawn = golden.thumbnails(model)
    other = golden.thumbnails(model, seed=1)
    for mine, theirs in zip(drawn, other, strict=True):
        assert not golden.distance(mine[None], theirs[None]).within
    assert not golden.distance(drawn, np.roll(drawn, 1, axis=0)).within


def test_the_tolerance_tells_a_model_that_is_one_percent_off() -> None:
    other = load(device="cpu")
    random = torch.Generator().manual_seed(0)
    for parameter in other.system.parameters():
        parameter.mul_(1 + 0.01 * torch.randn(parameter.shape, generator=random))
    assert not golden.distance(golden.thumbnails(other), golden.stored()).within


def test_what_ships_is_small_and_says_what_it_is() -> None:
    found = models.shipped()
    assert next(iter(found)) == models.DEFAULT
    files = [path for folder in found.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= models.MAX_BYTES
    for name, folder in found.items():
        opened = load(name, device="cpu")
        assert opened.system.generates and opened.image_size >= 64
        assert np.asarray(opened.generate(["a smiling cat with heart eyes"])[0]).std() > 10
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"System: `{opened.recipe.system}`" in card and "license: apache-2.0" in card
        assert "CC-BY-4.0" in card and "| r-precision |" in card and "real images" in card
