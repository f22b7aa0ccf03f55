"""R-precision by a dual encoder: chance, perfection, ties, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import write_store

from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.scores import retrieval
from ganvas.scores.retrieval import RetrievalProtocol, first_ranked, load_retriever, score_model, score_real

pytestmark = pytest.mark.usefixtures("single_threaded")
MANY = 2000


def unit(count: int, seed: int, dim: int = 32) -> torch.Tensor:
    features = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=1)


@pytest.mark.parametrize("candidates", [2, 10, 100])
def test_random_features_score_chance(candidates: int) -> None:
    share = first_ranked(unit(MANY, 0), unit(MANY, 1), candidates, 0).mean().item()
    chance = 1 / candidates
    assert abs(share - chance) < 4 * sqrt(chance * (1 - chance) / MANY)


@pytest.mark.parametrize("constant", ["images", "texts", "both"])
def test_constant_features_score_chance_because_ties_are_broken_at_random(constant: str) -> None:
    images, texts = unit(MANY, 0), unit(MANY, 1)
    if constant != "texts":
        images = torch.zeros_like(images)
    if constant != "images":
        texts = torch.ones_like(texts)
    share = first_ranked(images, texts, 100, 0).mean().item()
    assert abs(share - 0.01) < 4 * sqrt(0.01 * 0.99 / MANY)


def test_perfect_features_score_everything_and_opposite_ones_nothing() -> None:
    features = unit(300, 0)
    assert first_ranked(features, features, 100, 0).tolist() == [1.0] * 300
    assert first_ranked(-features, features, 100, 0).sum() == 0


def test_as_many_images_as_candidates_are_enough_and_fewer_are_refused() -> None:
    features = unit(100, 0)
    assert first_ranked(features, features, 100, 0).mean() == 1
    with pytest.raises(GanvasError, match="among 100 captions needs as many images, and there are 99"):
        first_ranked(features[:99], features[:99], 100, 0)


def test_the_seed_chooses_the_other_captions() -> None:
    images, texts = unit(200, 0), unit(200, 1) + 0.2 * unit(200, 0)
    first, again, other = (first_ranked(images, texts, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_among_all_texts_every_other_one_is_ranked_once() -> None:
    images = torch.ones(10, 1)
    texts = torch.arange(10.0)[:, None]  # the last text beats all others
    assert first_ranked(images, texts, 10, 0).tolist() == [0.0] * 9 + [1.0]


def test_a_retriever_that_is_not_there_is_one_line(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="no dual encoder ships for data set 'nonsense'"):
        load_retriever("nonsense")
    with pytest.raises(GanvasError, match="holds no model"):
        load_retriever(str(tmp_path))
    with pytest.raises(GanvasError, match="holds no dual encoder"):
        load_retriever(str(undisturbed))


class ColourBlind:
    """Stands for a dual encoder; its features say nothing."""

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3 and images.abs().max() <= 1
        return torch.ones(len(images), 2)

    def caption_features(self, captions: list[str]) -> torch.Tensor:
        return torch.ones(len(captions), 2)


class AllSeeing(ColourBlind):
    """Knows every image of the store: real ones have features of their own."""

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)) + 1e-3 * images[:, :, 0, 0], dim=1)


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], RetrievalProtocol]:
    def choose(encoder: object) -> RetrievalProtocol:
        monkeypatch.setattr(retrieval, "load_retriever", lambda name: encoder)
        return RetrievalProtocol(candidates=10, folds=3)

    return choose


def test_a_score_of_a_model_carries_its_protocol_and_can_be_repeated(
    undisturbed: Path, tmp_path: Path, protocol: Callable[[object], RetrievalProtocol]
) -> None:
    store = write_store(tmp_path / "data", splits=(4, 2, 30))
    chosen = protocol(ColourBlind())
    model = load(undisturbed, device="cpu")
    score = score_model(model, store, chosen)
    assert score == score_model(model, store, chosen)
    assert (score.num_images, score.images, score.data) == (30, "generated", store.info.fingerprint)
    assert score.protocol == chosen and 0 <= score.value <= 1 and score.spread >= 0
    assert score_real(store, chosen).images == "real"
    assert score_real(store, chosen, shuffled=True).images == "real, shuffled"


def test_a_split_that_is_not_there_is_one_line(
    undisturbed: Path, tmp_path: Path, protocol: Callable[[object], RetrievalProtocol]
) -> None:
    store = write_store(tmp_path / "data", splits=(20, 0, 0))
    with pytest.raises(GanvasError, match="no split 'test' here; "):
        score_model(load(undisturbed, device="cpu"), store, protocol(ColourBlind()))


def test_real_images_score_everything_where_the_encoder_knows_them(
    tmp_path: Path, protocol: Callable[[object], RetrievalProtocol]
) -> None:
    store = write_store(tmp_path / "data", splits=(4, 2, 30))
    rows = store.rows("test")
    pixels = torch.from_numpy(np.array(store.images[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
    encoder = AllSeeing()
    known = {store.captions[row][0]: i for i, row in enumerate(rows)}
    features = encoder.image_features(pixels)
    encoder.caption_features = lambda captions: torch.stack([features[known[c]] for c in captions])  # type: ignore
    score = score_real(store, protocol(encoder))
    shuffled = score_real(store, protocol(encoder), shuffled=True)
    assert score.value > 0.6 > 0.5 > shuffled.value


def test_the_retriever_that_ships_gives_unit_features_of_images_and_captions() -> None:
    encoder = load_retriever("emoji")
    captions = ["a red apple", "a blue bird", "the flag of Japan"]
    features = encoder.caption_features(captions)
    assert features.shape[0] == 3 and torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=0.1)
    images = encoder.image_features(torch.zeros(2, 3, 48, 48))
    assert images.shape == (2, features.shape[1])
