"""Runs whose encoders come from another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import tiny_recipe, tiny_tree

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import resolve
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")


def test_the_text_encoder_comes_as_it_is_and_its_phase_is_left_out(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    run = train(tiny_recipe(encoders=str(undisturbed), seed=5), store, tmp_path / "run")
    theirs, ours = (load_file(folder / "model" / "model.safetensors") for folder in (undisturbed, run.folder))
    for name, value in theirs.items():
        if name.startswith("text_encoder."):
            torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
    assert any((ours[name] != value).any() for name, value in theirs.items() if name.startswith("generator."))
    trained = json.loads((run.model / "config.json").read_text())["trained"]
    assert "text" not in trained and trained["gan"] == 24
    assert len(load(run.folder).generate(["a red ball"])) == 1


def test_a_vocabulary_comes_along(store: Store, tmp_path: Path) -> None:
    tree = tiny_tree()
    tree["text"] = {"encoder": "bilstm", "features": 8, "embedding": 6}
    first = train(resolve(tree), store, tmp_path / "first")
    words = (first.model / "tokenizer.json").read_text()
    tree["training"] |= {"encoders": str(first.folder), "seed": 5}
    tree["text"]["min_count"] = 1000  # a vocabulary made here would be empty
    second = train(resolve(tree), store, tmp_path / "second")
    assert (second.model / "tokenizer.json").read_text() == words


def test_encoders_of_other_settings_are_refused_in_one_line(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    tree = tiny_tree(encoders=str(undisturbed))
    tree["text"]["channels"] = 16
    with pytest.raises(GanvasError, match=r"training\.encoders: .*does not fit this recipe") as refused:
        train(resolve(tree), store, tmp_path / "run")
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_no_such_model_is_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="nowhere: no such folder"):
        train(tiny_recipe(encoders=str(tmp_path / "nowhere")), store, tmp_path / "run")
