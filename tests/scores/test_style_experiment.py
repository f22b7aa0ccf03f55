"""The style experiment of GAN-INT-CLS: area under the curve, clusters, pairs, planted and absent styles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import COLOURS, Called, write_store

from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.recipe import resolve
from ganvas.scores.protocols import PROTOCOLS
from ganvas.scores.style_experiment import (
    StyleProtocol,
    area_under_roc,
    fitting_protocol,
    kmeans,
    mean_colour,
    roc,
    style_experiment,
    style_pairs,
    style_table,
    styles,
    text_baseline,
    variant,
)

pytestmark = pytest.mark.usefixtures("single_threaded")
PROTOCOL = StyleProtocol(clusters=len(COLOURS), pairs=2000)


def under(curve: np.ndarray[Any, Any]) -> float:
    """The area under a piecewise linear curve."""
    return float((np.diff(curve[:, 0]) * (curve[1:, 1] + curve[:-1, 1]) / 2).sum())


SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def test_the_area_under_the_curve_in_closed_form() -> None:
    def area(positive: list[float], negative: list[float]) -> float:
        return area_under_roc(np.array(positive), np.array(negative))

    assert area([3, 4], [1, 2]) == 1 and area([1, 2], [3, 4]) == 0
    assert area([1, 1], [1, 1, 1]) == 0.5
    assert area([2, 4], [1, 3]) == 0.75
    assert area([2, 3], [2, 1]) == (0.5 + 1 + 1 + 1) / 4


@given(SCORES, SCORES)
def test_the_area_is_how_often_a_positive_score_is_the_higher_one(
    positive: list[float], negative: list[float]
) -> None:
    a, b = np.array(positive)[:, None], np.array(negative)[None]
    area = area_under_roc(a[:, 0], b[0])
    assert area == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    curve = np.array(roc(a[:, 0], b[0]))
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]
    assert (np.diff(curve, axis=0) >= 0).all()
    assert under(curve) == pytest.approx(area)


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 5000), rng.normal(0, 1, 5000)
    curve = np.array(roc(positive, negative))
    assert len(curve) <= 201 and curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]
    area = under(curve)
    assert area == pytest.approx(area_under_roc(positive, negative), abs=1e-3)
    assert area == pytest.approx(0.7602, abs=0.02)  # Phi(1 / sqrt(2))


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 12, 600)
    centres = np.stack([np.arange(12) % 4, np.arange(12) // 4, np.zeros(12)], axis=1)
    found = kmeans(centres[truth] + rng.normal(0, 0.02, (600, 3)), 12, seed)
    pairs = {*zip(truth.tolist(), found.tolist(), strict=True)}
    # from an unlucky start two neighbours share a centre; never more of them
    assert 12 <= len(pairs) <= 14 and len({cluster for _, cluster in pairs}) == 12


def test_no_cluster_is_empty_and_the_seed_decides() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    points[:40] = points[0]  # many at one place
    clusters = kmeans(points, 21, 0)
    assert (np.bincount(clusters, minlength=21) > 0).all()
    assert (clusters == kmeans(points, 21, 0)).all()
    with pytest.raises(GanvasError, match=r"22 clusters need as many images .* and there are 21"):
        kmeans(points, 22, 0)


def test_pairs_are_of_one_cluster_and_of_two_and_every_pair_is_as_likely() -> None:
    clusters = np.array([1, 0, 1, 2, 1, 0])
    (a, b), (c, d) = style_pairs(clusters, 20_000, 0)
    assert (clusters[a] == clusters[b]).all() and (a != b).all() and (clusters[c] != clusters[d]).all()
    for first, second, kinds in ((a, b, 3 * 2 + 2 * 1), (c, d, 6 * 5 - 8)):
        counts = np.bincount(first * 6 + second, minlength=36)
        assert (counts > 0).sum() == kinds
        assert np.allclose(counts[counts > 0] / 20_000, 1 / kinds, atol=0.01)
    with pytest.raises(GanvasError, match="no pairs of both kinds"):
        style_pairs(np.arange(5), 10, 0)
    with pytest.raises(GanvasError, match="no pairs of both kinds"):
        style_pairs(np.zeros(5, np.int64), 10, 0)


def test_the_border_is_the_outermost_eighth() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, 0] = 1
    image[:, :, 2:14, 2:14] = -1
    assert mean_colour(image, "border")[0].tolist() == [1, 0, 0]
    red, green, _ = mean_colour(image, "image")[0].tolist()
    assert red == pytest.approx((1 * 112 - 144) / 256) and green == pytest.approx(-144 / 256)


def attributed_store(path: Path, colours: list[str | None], *, bordered: bool = True) -> Store:
    """Images whose attribute is their colour, with borders of it or white ones."""
    with StoreWriter(path, name="squares", size=16, source="drawn here", licence="CC0-1.0") as writer:
        for number, colour in enumerate(colours):
            image = np.full((16, 16, 3), 255, np.uint8)
            inner = slice(0, 16) if bordered else slice(4, 12)
            image[inner, inner] = np.minimum(np.array(COLOURS[colour or "blue"]) + number % 5, 255)
            record = Record(
                id=str(number),
                split="test",
                captions=(f"thing {number}",),
                label="a" if number % 2 else "b",
                attributes={} if colour is None else {"colour": colour},
            )
            writer.add(record, image)
        writer.finish()
    return Store(path)


def test_styles_may_be_what_the_data_say_and_images_without_are_left_out(
    undisturbed: Path, tmp_path: Path
) -> None:
    colours = ["red", "green", None, "red", "blue", "green"]
    store = attributed_store(tmp_path / "data", colours)
    rows, found = styles(store, StyleProtocol(style="attribute:colour"))
    assert rows.tolist() == [0, 1, 3, 4, 5] and found.tolist() == [2, 1, 2, 0, 1]
    assert styles(store, StyleProtocol(style="attribute:class"))[1].tolist() == [1, 0] * 3
    model = model_with(undisturbed, lambda images: mean_colour(images, "image"))
    score = style_experiment(model, store, StyleProtocol(style="attribute:colour", pairs=500))
    assert score.value == 1
    assert score.protocol["style"] == "attribute:colour" and score.protocol["clusters"] == 3
    assert score.protocol["num_images"] == 5


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ("attribute:color", r"0 different values of 'color'; did you mean 'colour'"),
        ("attribute:", "0 different values of ''"),
        ("pose", "should be border, image, or attribute:NAME"),
    ],
)
def test_a_style_that_the_data_do_not_have_is_one_line(style: str, said: str, tmp_path: Path) -> None:
    store = attributed_store(tmp_path / "data", ["red", "green"] * 3)
    with pytest.raises(GanvasError, match=said) as refused:
        styles(store, StyleProtocol(style=style))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("bordered", "style"), [(True, "border"), (False, "image")])
def test_where_borders_are_all_alike_the_whole_image_is_clustered(
    bordered: bool, style: str, tmp_path: Path
) -> None:
    store = attributed_store(tmp_path / "data", list(COLOURS) * 10, bordered=bordered)
    fitting = fitting_protocol(store, "test")
    assert (fitting.style, fitting.clusters) == (style, 4)
    assert fitting_protocol(store, "test", "attribute:colour").style == "attribute:colour"
    assert len(np.unique(styles(store, fitting)[1])) == 4


def test_the_paper_has_a_hundred_clusters_and_so_have_data_with_images_enough(tmp_path: Path) -> None:
    assert fitting_protocol(write_store(tmp_path / "data", splits=(0, 0, 1010)), "test").clusters == 100


def test_it_is_among_the_scores_of_any_data_beside_its_text_baseline(
    undisturbed: Path, squares: Store, store: Store, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    def call(out: str, *options: str, target: str | Path = undisturbed, data: Store = squares) -> Called:
        return ganvas("score", target, "--data", data.path, "--only", "style", "--out", out, *options)

    done = call("s.json")
    assert done.status == 0, done.err
    scores = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert [score["name"] for score in scores] == ["style AUC", "style AUC text"]
    assert scores[0]["protocol"] == scores[1]["protocol"]
    assert (scores[0]["protocol"]["style"], scores[0]["protocol"]["clusters"]) == ("border", 4)
    assert call("t.json", "--use", "style=attribute:class").out.startswith("style AUC")
    other = call("u.json", "--use", "style=image", "--against", "s.json")
    assert other.status == 2 and 'style: "image" here, "border" there' in other.err
    few = call("v.json", data=store)
    assert few.status == 0 and "style: not made; split 'test' has fewer than 20 images" in few.err
    assert call("w.json", target="real").status == 0


def test_the_protocols_for_any_data_have_it() -> None:
    for name in ("ganvas", "ganvas-emoji"):
        assert "style" in {want.score for want in PROTOCOLS[name].scores}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four colours, two of each thing in each."""
    return write_store(tmp_path_factory.mktemp("squares40") / "data", splits=(4, 2, 40))


def model_with(undisturbed: Path, style: Any) -> Model:
    model = load(undisturbed, device="cpu")
    model.system.style_of = style  # type: ignore[method-assign]
    return model


def test_a_style_encoder_that_sees_the_planted_styles_is_perfect(undisturbed: Path, squares: Store) -> None:
    def colour(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] == 16 and images.abs().max() <= 1
        return mean_colour(images, "image") - torch.tensor([0.0, 0.1, -0.4])

    score = style_experiment(model_with(undisturbed, colour), squares, PROTOCOL)
    assert score.value > 0.99 and score.facts["roc"][-1] == [1, 1]
    assert score.protocol["clusters"] == 4 and score.protocol["data"] == squares.info.fingerprint
    assert score.protocol["num_images"] == 40 and score.facts["vectors"] == "GAN-INT-CLS"


def test_random_style_vectors_are_chance(undisturbed: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "data", splits=(0, 0, 400))
    random = torch.Generator().manual_seed(0)
    model = model_with(undisturbed, lambda images: torch.randn(len(images), 50, generator=random))
    assert style_experiment(model, store, PROTOCOL).value == pytest.approx(0.5, abs=0.04)
    constant = model_with(undisturbed, lambda images: torch.ones(len(images), 50))
    assert style_experiment(constant, store, PROTOCOL).value == 0.5


def test_images_are_brought_to_the_size_of_the_model(undisturbed: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "data", splits=(0, 0, 40), size=18)
    sizes = []

    def seen(images: torch.Tensor) -> torch.Tensor:
        sizes.append(images.shape[-1])
        return mean_colour(images, "image")

    style_experiment(model_with(undisturbed, seen), store, PROTOCOL)
    assert sizes == [16]


def test_the_table_has_a_row_for_each_model_and_one_for_text(undisturbed: Path, squares: Store) -> None:
    model = load(undisturbed, device="cpu")
    rows = style_table([model, model], squares, PROTOCOL)
    assert [name for name, _ in rows] == ["GAN-INT-CLS", "GAN-INT-CLS", "text"]
    assert rows[0][1] == rows[1][1] == style_experiment(model, squares, PROTOCOL)
    assert rows[2][1] == text_baseline(model, squares, PROTOCOL)
    assert rows[2][1].protocol == rows[0][1].protocol and rows[2][1].value != rows[0][1].value


@pytest.mark.parametrize(
    ("matching", "interpolation", "name"),
    [
        (False, False, "GAN"),
        (True, False, "GAN-CLS"),
        (False, True, "GAN-INT"),
        (True, True, "GAN-INT-CLS"),
    ],
)
def test_the_four_systems_of_the_paper_are_told_apart(
    undisturbed: Path, matching: bool, interpolation: bool, name: str
) -> None:
    model = load(undisturbed, device="cpu")
    tree = model.recipe.to_dict()
    tree["settings"] |= {"matching_aware": matching, "interpolation": interpolation}
    assert variant(Model(model.system, resolve(tree), model.trained, model.device)) == name


def test_a_model_without_a_style_encoder_is_refused(undisturbed: Path, squares: Store) -> None:
    model = load(undisturbed, device="cpu")
    model.trained["style"] = 0
    with pytest.raises(GanvasError, match="has no trained style encoder; train its phase 'style'"):
        style_experiment(model, squares, PROTOCOL)
