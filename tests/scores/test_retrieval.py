"""R-precision: chance, perfection, ties, where mismatched captions come from, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import write_store

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.scores.pictures import generated, real
from ganvas.scores.retrieval import (
    Floats,
    RetrievalProtocol,
    first_ranked,
    other_classes,
    other_rows,
    r_precision,
)
from ganvas.scores.score import differences

pytestmark = pytest.mark.usefixtures("single_threaded")
MANY = 2000


def unit(count: int, seed: int, dim: int = 32) -> Floats:
    features = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    found: Floats = torch.nn.functional.normalize(features, dim=1).numpy()
    return found


def ranked(images: Floats, texts: Floats, candidates: int, seed: int) -> np.ndarray[Any, Any]:
    """Where text ``i`` belongs to image ``i``, and all others are mismatched."""
    every = np.arange(len(images))
    return first_ranked(images, texts, every, other_rows(every, every, every, candidates - 1), seed)


def near_chance(share: float, chance: float, count: int) -> bool:
    return abs(share - chance) < 4 * sqrt(chance * (1 - chance) / count)


@pytest.mark.parametrize("candidates", [2, 10, 100])
def test_random_features_score_chance(candidates: int) -> None:
    share = ranked(unit(MANY, 0), unit(MANY, 1), candidates, 0).mean()
    assert near_chance(share, 1 / candidates, MANY)


@pytest.mark.parametrize("constant", ["images", "texts", "both"])
def test_constant_features_score_chance_because_ties_are_broken_at_random(constant: str) -> None:
    images, texts = unit(MANY, 0), unit(MANY, 1)
    if constant != "texts":
        images = np.zeros_like(images)
    if constant != "images":
        texts = np.broadcast_to(texts[:1], texts.shape)
    assert near_chance(ranked(images, texts, 100, 0).mean(), 0.01, MANY)


def test_a_caption_that_two_images_share_wins_half_of_the_time() -> None:
    images = unit(MANY, 0)
    images[1::2] = images[::2]
    partner = np.arange(MANY) ^ 1
    hits = first_ranked(images, images.copy(), np.arange(MANY), lambda i, rng: partner[i : i + 1], 0)
    assert near_chance(hits.mean(), 0.5, MANY)


def test_perfect_features_score_everything_and_opposite_ones_nothing() -> None:
    features = unit(300, 0)
    assert ranked(features, features, 100, 0).tolist() == [1.0] * 300
    assert ranked(-features, features, 100, 0).sum() == 0


def test_the_seed_chooses_the_other_captions() -> None:
    images, texts = unit(200, 0), unit(200, 1) + 0.2 * unit(200, 0)
    first, again, other = (ranked(images, texts, 20, seed) for seed in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_among_all_texts_every_other_one_is_ranked_once() -> None:
    images = np.ones((10, 1), np.float32)
    texts = np.arange(10, dtype=np.float32)[:, None]  # the last text beats all others
    assert ranked(images, texts, 10, 0).tolist() == [0.0] * 9 + [1.0]


def test_captions_of_the_same_image_are_never_mismatched_ones() -> None:
    pool_rows = np.array([7, 3, 7, 5, 3, 7])  # three captions of row 7
    pool = np.arange(6) + 100
    rows = np.array([7, 5, 3])
    draw = other_rows(pool, pool_rows, rows, 3)
    for i, row in enumerate(rows.tolist()):
        drawn = [draw(i, np.random.default_rng(seed)) for seed in range(100)]
        assert {*np.concatenate(drawn).tolist()} == {*pool[pool_rows != row].tolist()}
        assert all(len({*numbers.tolist()}) == 3 for numbers in drawn)
    with pytest.raises(GanvasError, match="needs 4 of other images, and there are 3"):
        other_rows(pool, pool_rows, rows, 4)


def test_captions_of_other_classes_come_image_first_and_may_repeat() -> None:
    labels = ["owl", "wren", "owl", "gull"]
    counts = np.array([1, 1, 2, 3])
    pool = np.arange(7)  # owl: 0, 2, 3; wren: 1; gull: 4, 5, 6
    places = np.array([0, 1, 3])
    draw = other_classes(pool, counts, labels, places, 6000)
    seen = [np.bincount(draw(i, np.random.default_rng(i)), minlength=7) / 6000 for i in range(3)]
    expected = [
        [0, 1 / 2, 0, 0, 1 / 6, 1 / 6, 1 / 6],
        [1 / 3, 0, 1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9],
        [1 / 3, 1 / 3, 1 / 6, 1 / 6, 0, 0, 0],
    ]
    np.testing.assert_allclose(seen, expected, atol=4 * sqrt(0.25 / 6000))
    with pytest.raises(GanvasError, match="all images are of class 'owl'"):
        other_classes(pool[:3], counts[:2], ["owl", "owl"], places[:1], 2)


class Stub:
    """Stands for a dual encoder such as DAMSM's: a vector for each image by its mean colour, for each caption
    from a table.
    """

    def __init__(self, table: dict[str, torch.Tensor] | None = None) -> None:
        self.table = table

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3 and images.abs().max() <= 1
        return torch.ones(len(images), 2) if self.table is None else _colours(images)

    def caption_features(self, captions: Sequence[str]) -> torch.Tensor:
        if self.table is None:
            return torch.ones(len(captions), 2)
        return torch.stack([self.table[caption] for caption in captions])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {} if self.table is None else {"table": torch.stack(list(self.table.values()))}


def _colours(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(2, 3)) + 1e-3 * images[:, :, 0, 0]


def knowing(store: Store) -> Stub:
    """Knows every image of the store by heart, and gives each caption the vector of its image. A caption of
    several images has the last one's.
    """
    pixels = torch.from_numpy(np.array(store.images[np.arange(len(store))])).permute(0, 3, 1, 2)
    features = _colours(pixels.float() / 127.5 - 1)
    return Stub({caption: features[row] for row in range(len(store)) for caption in store.captions[row]})


SMALL = RetrievalProtocol(candidates=10, folds=3)
WAYS = ["scored", "paper", "dm-gan"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With 20 different images in its test split."""
    return write_store(tmp_path_factory.mktemp("squares20") / "data", splits=(4, 2, 20))


def test_a_score_of_a_model_carries_its_protocol_and_can_be_repeated(
    undisturbed: Path, squares: Store
) -> None:
    pictures = generated(load(undisturbed, device="cpu"), squares, split="test", seed=5)
    score = r_precision(pictures, squares, SMALL, encoder=Stub())
    assert score == r_precision(pictures, squares, SMALL, encoder=Stub())
    assert 0 <= score.value <= 1 and score.spread is not None and score.facts["images"] == "generated"
    for key, value in {
        "data": squares.info.fingerprint,
        "split": "test",
        "num_images": 20,
        "seed": 5,
        "candidates": 10,
        "candidate_seed": 0,
    }.items():
        assert score.protocol[key] == value
    other = r_precision(pictures, squares, SMALL, encoder=knowing(squares))
    (difference,) = differences(score, other)
    assert difference.startswith("encoder: ")


@pytest.mark.parametrize("way", WAYS)
def test_real_images_are_best_and_shuffled_ones_are_chance_whatever_is_mismatched(
    squares: Store, way: Any
) -> None:
    protocol, encoder = replace(SMALL, mismatched=way), knowing(squares)
    num = 400  # every image many times, with its two captions in turn
    score = r_precision(real(squares, split="test", num=num), squares, protocol, encoder=encoder)
    shuffled = real(squares, split="test", num=num, shuffled=True)
    low = r_precision(shuffled, squares, protocol, encoder=encoder)
    assert score.value == 1 and score.spread == 0
    assert low.value < 0.3 and low.facts["images"] == "real, shuffled"
    constant = r_precision(shuffled, squares, protocol, encoder=Stub())
    if way != "scored":  # where each caption is there 20 times, it ties with itself
        assert near_chance(constant.value, 0.1, num)


def test_equal_captions_of_two_images_tie(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data", splits=(0, 0, 40))  # twice each caption
    score = r_precision(
        real(store, split="test"), store, replace(SMALL, candidates=40), encoder=knowing(store)
    )
    assert 0.25 < score.value < 0.75


def test_folds_as_in_dm_gan_leave_an_image_out_of_each(squares: Store) -> None:
    pictures = real(squares, split="test")
    folds = {
        way: r_precision(
            pictures, squares, replace(SMALL, mismatched=way, folds=2), encoder=knowing(squares)
        ).facts["folds"]
        for way in WAYS
    }
    assert all(len(shares) == 2 for shares in folds.values())
    halves = r_precision(
        pictures, squares, replace(SMALL, mismatched="dm-gan", folds=10), encoder=Stub()
    ).facts["folds"]
    assert {*halves} <= {0.0, 1.0}  # of two images one is left


def test_what_the_protocol_cannot_do_is_one_line(squares: Store) -> None:
    pictures = real(squares, split="test")

    def refused(**changes: Any) -> str:
        with pytest.raises(GanvasError) as error:
            r_precision(pictures, squares, replace(SMALL, **changes), encoder=Stub())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "among 21 captions needs as many images, and there are 20" in refused(candidates=21)
    assert "in 21 folds needs at least 21 images, not 20" in refused(folds=21)
    assert "in 11 folds needs at least 22 images, not 20" in refused(folds=11, mismatched="dm-gan")
    assert "candidates=1: should be at least 2" in refused(candidates=1)
    assert "needs 99 of other images, and there are 38" in refused(candidates=100, mismatched="paper")
