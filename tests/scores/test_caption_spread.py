"""The spread over captions of one picture: closed form, which captions; models that heed wording or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from feature_stand_ins import tiny_features
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import GanvasError
from ganvas.scores.caption_spread import SpreadProtocol, caption_spread, described, spread

PROTOCOL = SpreadProtocol(pictures=6, captions=3, features="tiny")


def store(captions: Sequence[Sequence[str]]) -> Any:
    return SimpleNamespace(
        captions=[list(own) for own in captions],
        rows=lambda split: np.arange(len(captions)),
        info=SimpleNamespace(fingerprint="f" * 64),
    )


class Painter:
    """A model whose images follow from what a function makes of a caption."""

    def __init__(self, seed_of: Any) -> None:
        self.seed_of = seed_of

    def generate_arrays(self, captions: Sequence[str], *, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
        for caption in captions:
            rng = np.random.default_rng(self.seed_of(caption))
            yield np.full((1, 32, 32, 3), rng.integers(0, 256, 3), np.uint8)


SHAPES = store([[f"{way} {what}" for way in range(4)] for what in range(8)])


def test_spread_in_closed_form() -> None:
    within, among = spread(np.array([[[0.0], [2.0]], [[10.0], [12.0]]]))
    assert within == 2 and among == pytest.approx((36 + 16 + 16 + 36) / 3)


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 99))
def test_wording_alone_makes_all_the_variance_where_pictures_do_not_matter(
    num: int, captions: int, seed: int
) -> None:
    rows = np.random.default_rng(seed).normal(size=(captions, 3))
    within, among = spread(np.repeat(rows[None], num, axis=0))
    assert within == pytest.approx(np.var(rows, axis=0, ddof=1).sum()) and among <= within + 1e-12


def test_a_model_that_heeds_what_is_said_alone_has_none_and_one_that_heeds_wording_alone_has_all() -> None:
    def score(seed_of: Any) -> float:
        with tiny_features():
            return caption_spread(Painter(seed_of), SHAPES, PROTOCOL).value  # type: ignore[arg-type]

    what = score(lambda caption: int(caption.split()[1]))
    both = score(lambda caption: [int(word) for word in caption.split()])
    wording = score(lambda caption: int(caption.split()[0]))
    assert what == 0 and wording > 1
    assert 0.7 < both < 1.3


def test_the_protocol_names_what_was_taken() -> None:
    with tiny_features():
        score = caption_spread(Painter(lambda caption: len(caption) + ord(caption[-1])), SHAPES, PROTOCOL)  # type: ignore[arg-type]
    assert score.name == "caption spread tiny" and score.better == "lower"
    assert {"split", "pictures", "captions", "seed", "data", "features_weights"} <= set(score.protocol)


def test_only_pictures_with_enough_different_captions_are_taken() -> None:
    some = store([["a", "a", "b", "c"], ["a", "b", "a"], ["x", "y", "z"], []])
    assert described(some, PROTOCOL) == [["a", "b", "c"], ["x", "y", "z"]]
    with pytest.raises(GanvasError, match="takes at least 2"):
        described(store([["a"], ["b", "c", "d"]]), PROTOCOL)


def test_the_seed_chooses_pictures_and_nothing_else_does() -> None:
    few = SpreadProtocol(pictures=3, captions=2, features="tiny")
    assert described(SHAPES, few) == described(SHAPES, few)
    seeds = {str(described(SHAPES, SpreadProtocol(pictures=3, captions=2, seed=n))) for n in range(8)}
    assert len(seeds) > 1


def test_a_model_that_draws_one_image_for_everything_is_refused() -> None:
    with tiny_features(), pytest.raises(GanvasError, match="all images are alike"):
        caption_spread(Painter(lambda caption: 0), SHAPES, PROTOCOL)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"pictures": 1}, {"captions": 1}])
def test_a_spread_of_one_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(GanvasError, match="at least 2"):
        SpreadProtocol(**wrong)  # type: ignore[arg-type]
