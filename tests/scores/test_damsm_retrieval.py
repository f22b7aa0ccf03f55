"""Retrieval by DAMSM on held-out images, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import COLOURS, THINGS, write_store
from torch import Tensor

from ganvas.building import build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.layers.region_encoder import Regions
from ganvas.model_folder import save_model
from ganvas.recipe import load_recipe
from ganvas.scores.damsm_encoders import open_damsm
from ganvas.scores.damsm_retrieval import DamsmRetrievalProtocol, damsm_retrieval
from ganvas.scores.pictures import real
from ganvas.scores.retrieval import RetrievalProtocol, r_precision
from ganvas.systems.damsm import DamsmEncoders
from ganvas.text.encoder import Text

OVERRIDES = ["settings.width=4", "text.features=8", "text.embedding=4", "data.image_size=16"]
Make = Callable[[], DamsmEncoders]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(tmp_path / "data", splits=(2, 2, 16))


@pytest.fixture
def encoders(store: Store) -> DamsmEncoders:
    torch.manual_seed(0)
    captions = [caption for row in store.captions for caption in row]
    system = build_system(load_recipe("damsm-emoji", OVERRIDES), captions=captions).eval()
    assert isinstance(system, DamsmEncoders)
    return system


def oracle(encoders: DamsmEncoders, store: Store, monkeypatch: pytest.MonkeyPatch, *, blind: bool) -> None:
    """Encoders that see colour and thing: in the image's pixels (which they know), and in the words.

    A blind one sees the same in every image.
    """
    names = [*COLOURS, *THINGS]
    known = {image.tobytes(): row for row, image in enumerate(store.images.squares(store.rows("test")))}

    def vector(caption: str) -> Tensor:
        return torch.tensor([float(name in caption) for name in names])

    def image_regions(images: Tensor) -> Regions:
        pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        rows = [known[image.tobytes()] for image in pixels]
        captions = [store.captions[store.rows("test")[row]][0] for row in rows]
        code = torch.stack([vector("red ball" if blind else caption) for caption in captions])
        return Regions(torch.diag_embed(code), code)  # a region for each name

    def embed(captions: Sequence[str]) -> Text:
        sentence = torch.stack([vector(caption) for caption in captions])
        words = torch.stack([torch.diag(row)[row.argsort(descending=True)[:2]] for row in sentence])
        return Text(sentence, words, torch.ones(len(captions), 2, dtype=torch.bool))

    monkeypatch.setattr(encoders, "image_regions", image_regions)
    monkeypatch.setattr(encoders, "embed", embed)


def test_encoders_that_see_what_captions_say_find_all_of_them_both_ways(
    encoders: DamsmEncoders, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle(encoders, store, monkeypatch, blind=False)
    scores = damsm_retrieval(encoders, store, DamsmRetrievalProtocol(candidates=10))
    assert [(score.name, score.value) for score in scores] == [
        ("damsm retrieval by sentence, image to text", 1.0),
        ("damsm retrieval by sentence, text to image", 1.0),
        ("damsm retrieval by words, image to text", 1.0),
        ("damsm retrieval by words, text to image", 1.0),
    ]
    assert all(score.facts["chance"] == 0.1 and score.better == "higher" for score in scores)
    assert scores[0].protocol["split"] == "test" and scores[0].protocol["num_images"] == 16


def test_encoders_that_see_nothing_find_what_chance_finds(
    encoders: DamsmEncoders, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle(encoders, store, monkeypatch, blind=True)
    found = [
        damsm_retrieval(
            encoders, store, DamsmRetrievalProtocol(candidates=4, candidate_seed=seed, by=("sentence",))
        )[1].value
        for seed in range(40)
    ]
    assert sum(found) / len(found) == pytest.approx(0.25, abs=0.06)  # 640 draws


def test_the_same_seed_gives_the_same_numbers(encoders: DamsmEncoders, store: Store) -> None:
    protocol = DamsmRetrievalProtocol(candidates=5, num_images=12)
    first, again = (damsm_retrieval(encoders, store, protocol) for _ in range(2))
    assert first == again and first[0].protocol["num_images"] == 12


def test_r_precision_takes_the_same_encoders(encoders: DamsmEncoders, store: Store) -> None:
    protocol = RetrievalProtocol(candidates=5, folds=2, retriever="damsm")
    score = r_precision(
        real(store, split="test"), store, protocol, encoder=encoders, name="r-precision damsm"
    )
    assert 0 <= score.value <= 1 and score.name == "r-precision damsm"


@pytest.mark.parametrize("protocol", [{"candidates": 17}, {"candidates": 1}, {"num_images": 3}])
def test_too_few_images_or_candidates_are_one_line(
    encoders: DamsmEncoders, store: Store, protocol: Any
) -> None:
    with pytest.raises(GanvasError, match="retrieval among") as refused:
        damsm_retrieval(encoders, store, DamsmRetrievalProtocol(**{"candidates": 4, **protocol}))
    assert "\n" not in str(refused.value)


def test_encoders_are_opened_from_a_model_folder_and_others_refused(
    encoders: DamsmEncoders, store: Store, tmp_path: Path
) -> None:
    save_model(encoders, load_recipe("damsm-emoji", OVERRIDES), tmp_path / "model", {"damsm": 48})
    opened, _ = open_damsm(tmp_path / "model")
    protocol = DamsmRetrievalProtocol(candidates=5)
    assert damsm_retrieval(opened, store, protocol) == damsm_retrieval(encoders, store, protocol)
    recipe = load_recipe("retriever-emoji", ["text.features=8", "settings.joint_embedding.image_width=4"])
    save_model(build_system(recipe, captions=["a"]), recipe, tmp_path / "other", {})
    with pytest.raises(GanvasError, match="was trained without DAMSM"):
        open_damsm(tmp_path / "other")
