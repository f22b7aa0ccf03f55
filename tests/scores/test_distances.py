"""Distances against closed forms, brute force, and other libraries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.scores.distances import (
    Gaussian,
    GaussianStatistics,
    frechet_distance,
    kernel_distance,
    kernel_distances,
    precision_recall,
)


def random_features(num: int, dim: int, seed: int = 0, *, rank: int | None = None) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(num, rank or dim)) @ random.normal(size=(rank or dim, dim))
    return (mixed + random.normal(size=dim)).astype(np.float32)


def gaussian_of(features: np.ndarray) -> Gaussian:
    statistics = GaussianStatistics(features.shape[1])
    statistics.add(features)
    return statistics.result()


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    return Gaussian(mean=np.asarray(mean, float), covariance=np.asarray(covariance, float), num=1000)


# --- mean and covariance


@pytest.mark.parametrize("num", [2, 4095, 4096, 4097, 9000])
def test_the_statistics_are_those_of_numpy_however_the_rows_come(num: int) -> None:
    features = random_features(num, 6)
    statistics = GaussianStatistics(6)
    for part in np.array_split(features, 13):
        statistics.add(part)
    found = statistics.result()
    assert found.num == num
    np.testing.assert_allclose(found.mean, features.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(float).T), rtol=1e-9, atol=1e-12)


def test_nothing_cancels_where_features_lie_far_from_zero() -> None:
    small = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    far = np.float32(65536) + np.round(small * 64) / 64  # exact in float32
    expected = np.cov((far.astype(float) - 65536).T)
    np.testing.assert_allclose(gaussian_of(far).covariance, expected, rtol=1e-10, atol=1e-12)


def test_one_row_has_no_covariance() -> None:
    statistics = GaussianStatistics(3)
    statistics.add(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="at least 2"):
        statistics.result()


# --- Frechet distance


def test_gaussians_with_diagonal_covariances_have_the_closed_form() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.25])
    means = np.array([1.0, 0.0, 2.0]), np.array([0.0, 0.0, 4.0])
    expected = 5 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = frechet_distance(gaussian(means[0], np.diag(a)), gaussian(means[1], np.diag(b)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_gaussians_turned_together_keep_their_distance() -> None:
    random = np.random.default_rng(1)
    turn, _ = np.linalg.qr(random.normal(size=(20, 20)))
    a, b = random.uniform(0.1, 4, 20), random.uniform(0.1, 4, 20)
    found = frechet_distance(
        gaussian(np.zeros(20), turn @ np.diag(a) @ turn.T), gaussian(np.zeros(20), turn @ np.diag(b) @ turn.T)
    )
    assert found == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-9)


def test_covariances_that_do_not_commute_have_the_root_of_two_by_two() -> None:
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    # of a 2 x 2 matrix: tr(M^½) = (tr M + 2 (det M)^½)^½
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    found = frechet_distance(gaussian(np.zeros(2), a), gaussian(np.zeros(2), b))
    assert found == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 39])
def test_covariances_without_full_rank_need_no_epsilon(rank: int) -> None:
    random = np.random.default_rng(2)
    turn, _ = np.linalg.qr(random.normal(size=(40, 40)))
    a, b = np.zeros(40), np.zeros(40)
    a[:rank], b[: max(1, rank // 2)] = random.uniform(1, 2, rank), random.uniform(1, 2, max(1, rank // 2))
    a, b = a[::-1], b[::-1]
    found = frechet_distance(
        gaussian(np.zeros(40), turn @ np.diag(a) @ turn.T), gaussian(np.zeros(40), turn @ np.diag(b) @ turn.T)
    )
    assert found == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-6)


@pytest.mark.parametrize(("num", "rank"), [(2000, None), (110, None), (50, None), (500, 3)])
def test_a_set_is_at_distance_zero_from_itself(num: int, rank: int | None) -> None:
    features = gaussian_of(random_features(num, 100, rank=rank))
    assert frechet_distance(features, features) < 1e-9 * np.trace(features.covariance)


def test_a_spread_over_many_orders_of_magnitude_is_still_at_distance_zero_from_itself() -> None:
    random = np.random.default_rng(3)
    turn, _ = np.linalg.qr(random.normal(size=(300, 300)))
    covariance = turn @ np.diag(np.logspace(2, -12, 300)) @ turn.T
    one = gaussian(np.zeros(300), (covariance + covariance.T) / 2)
    assert frechet_distance(one, one) < 1e-9 * np.trace(covariance)


def test_features_that_are_all_the_same_are_as_far_as_their_means() -> None:
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    assert frechet_distance(gaussian([1, 2, 2], a), gaussian([0, 0, 0], b)) == pytest.approx(9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_the_distance_is_symmetric_and_not_negative(seed: int, dim: int, num: int) -> None:
    a, b = gaussian_of(random_features(num, dim, seed)), gaussian_of(random_features(num + 3, dim, seed + 1))
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-6, abs=1e-6 * np.trace(a.covariance))


def test_scipy_finds_the_same_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = gaussian_of(random_features(500, 40)), gaussian_of(random_features(500, 40, 1))
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


# --- kernel distance


def by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(float) @ y.astype(float) / len(x) + 1) ** 3)

    own = sum(np.mean([kernel(x, y) for x, y in itertools.permutations(side, 2)]) for side in (a, b))
    return float(own - 2 * np.mean([kernel(x, y) for x in a for y in b]))


def test_the_kernel_distance_is_that_of_all_pairs() -> None:
    a, b = random_features(9, 5) / 3, random_features(7, 5, 1) / 3
    assert kernel_distance(a, b) == pytest.approx(by_pairs(a, b), rel=1e-5)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    random = np.random.default_rng(0)
    values = [kernel_distance(*random.normal(size=(2, 20, 8)).astype(np.float32)) for _ in range(2000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0  # which a biased estimate never is


def test_parts_of_the_kernel_distance_follow_from_the_seed() -> None:
    a, b = random_features(60, 5), random_features(50, 5, 1)
    first, again, other = (kernel_distances(a, b, subsets=4, size=20, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (4,)
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_a_part_of_everything_is_the_whole() -> None:
    a, b = random_features(30, 5), random_features(30, 5, 1)
    parts = kernel_distances(a, b, subsets=2, size=30, seed=0)
    np.testing.assert_allclose(parts, kernel_distance(a, b), rtol=1e-4)


# --- precision and recall


def test_clouds_far_apart_share_nothing() -> None:
    a, b = random_features(40, 6), random_features(50, 6) + 1000
    assert precision_recall(a, b) == (0, 0)


def test_a_cloud_covers_itself() -> None:
    cloud = random_features(200, 6)
    assert precision_recall(cloud, cloud) == (1, 1)


def test_repeated_images_cover_themselves_however_far_from_zero() -> None:
    cloud = np.repeat(random_features(20, 64) + 100, 8, axis=0)
    assert precision_recall(cloud, cloud) == (1, 1)


def test_a_model_that_draws_one_thing_well_has_precision_without_recall() -> None:
    random = np.random.default_rng(0)
    left = random.normal(size=(300, 4)).astype(np.float32)
    both = np.concatenate([left, random.normal(size=(300, 4)).astype(np.float32) + 100])
    found = precision_recall(random.normal(size=(300, 4)).astype(np.float32), both)
    assert found.precision > 0.9
    assert 0.4 < found.recall < 0.5


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_are_those_of_all_pairs(neighbours: int) -> None:
    a, b = random_features(30, 3), random_features(25, 3, 1)

    def covered(points: np.ndarray, by: np.ndarray) -> float:
        inside = 0
        for point in points:
            for i, centre in enumerate(by):
                others = np.sort(np.linalg.norm(np.delete(by, i, axis=0) - centre, axis=1))
                if np.linalg.norm(point - centre) <= others[neighbours - 1]:
                    inside += 1
                    break
        return inside / len(points)

    found = precision_recall(a, b, neighbours=neighbours)
    assert found == pytest.approx((covered(a, b), covered(b, a)))
    assert 0 < found.precision < 1


def test_chunks_do_not_change_precision_and_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_features(150, 3), random_features(130, 3, 1)
    whole = precision_recall(a, b)
    monkeypatch.setattr("ganvas.scores.distances._CHUNK", 700)
    assert precision_recall(a, b) == whole


# --- other libraries, on the same features


class Passed(torch.nn.Module):
    """What torchmetrics takes for a network."""

    num_features = 16

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_torchmetrics_finds_the_same_frechet_distance() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid", exc_type=ImportError)
    a, b = random_features(400, 16), random_features(300, 16, 1)
    metric = fid.FrechetInceptionDistance(feature=Passed(), normalize=True, input_img_size=(16,))
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(a).double(), real=True)
    metric.update(torch.from_numpy(b).double(), real=False)
    assert frechet_distance(gaussian_of(a), gaussian_of(b)) == pytest.approx(
        float(metric.compute()), rel=1e-3
    )


def test_torchmetrics_finds_the_same_kernel_distance() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid", exc_type=ImportError)
    a, b = random_features(200, 16) / 4, random_features(200, 16, 1) / 4
    metric = kid.KernelInceptionDistance(feature=Passed(), subsets=1, subset_size=200, normalize=True)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    assert kernel_distance(a, b) == pytest.approx(float(metric.compute()[0]), rel=1e-3)
