"""Distances between two sets of features: arithmetic that knows nothing of images.

All of it runs on the CPU, in float64 unless said otherwise, so that a score is the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Features = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
_BLOCK = 4096
"""Rows a matrix product takes at once: with fewer, adding up costs more than multiplying."""
_CHUNK = 2**24  # distances at once
_SEEN = 1e-8
"""Relative error of a Frechet distance's trace that is worth more time."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and covariance of a set of features."""

    mean: Float64
    """``(D,)``."""
    covariance: Float64
    """``(D, D)``, unbiased: over N - 1."""
    num: int
    """N, images."""


class GaussianStatistics:
    """Mean and covariance of features that come batch by batch, in constant memory.

    Sums are taken around the mean of the first rows, so that nothing cancels where features lie far from 0.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        self.num = 0
        self._sum = np.zeros(dim)
        self._products = np.zeros((dim, dim))
        self._origin: Float64 | None = None
        self._waiting = np.empty((_BLOCK, dim))
        self._num_waiting = 0

    def add(self, features: Features) -> None:
        """Take in ``(B, D)``."""
        self.num += len(features)
        while len(features):
            part = features[: _BLOCK - self._num_waiting]
            self._waiting[self._num_waiting : self._num_waiting + len(part)] = part
            self._num_waiting += len(part)
            features = features[len(part) :]
            if self._num_waiting == _BLOCK:
                self._add_waiting()

    def _add_waiting(self) -> None:
        rows = self._waiting[: self._num_waiting]
        self._num_waiting = 0
        if self._origin is None:
            self._origin = rows.mean(axis=0)
        rows -= self._origin
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows  # NumPy computes one triangle and mirrors it

    def result(self) -> Gaussian:
        """Of all rows so far.

        Raises:
            ValueError: fewer than 2.
        """
        if self.num < 2:
            raise ValueError("a covariance needs at least 2 rows")
        if self._num_waiting:
            self._add_waiting()
        assert self._origin is not None
        shift = self._sum / self.num
        covariance = (self._products - self.num * np.outer(shift, shift)) / (self.num - 1)
        return Gaussian(mean=self._origin + shift, covariance=covariance, num=self.num)


# --- Frechet distance


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^½)``, the squared 2-Wasserstein distance of two Gaussians.

    With ``C1 = F F^T``, ``C1 C2`` has the eigenvalues of the symmetric ``F^T C2 F`` and zeros: no complex
    root is taken, and a covariance without full rank needs no epsilon.

    Source: Heusel et al. 2017, equation 6; Dowson and Landau 1982.
    """
    mean = float(np.square(a.mean - b.mean).sum())
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    return max(0.0, mean + traces - 2 * _root_trace(a.covariance, b.covariance, traces))


def _root_trace(a: Float64, b: Float64, scale: float) -> float:
    """``tr((A B)^½)``.

    An eigenvalue has an error of eps times the largest one, and the root makes that large where it is small.
    Where this could be seen against ``scale``, the roots are computed as singular values of a product of two
    factors, which are exact to eps of the largest root but take longer.
    """
    eps = torch.finfo(torch.float64).eps
    factor = _factor(torch.from_numpy(a))
    product = factor.T @ torch.from_numpy(b) @ factor
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0)
    noise = eps * float(eigenvalues.max()) if len(eigenvalues) else 0.0
    doubt = float((noise / eigenvalues.clamp(min=noise or 1.0).sqrt()).sum())
    if doubt <= _SEEN * scale:
        return float(eigenvalues.sqrt().sum())
    return float(torch.linalg.svdvals(factor.T @ _factor(torch.from_numpy(b))).sum())


def _factor(covariance: Tensor) -> Tensor:
    """``(D, rank)``, F with ``F F^T`` equal to the covariance to within rounding."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed and float(factor.diagonal().square().min()) > _rounding(covariance):
        return factor
    return _pivoted_factor(covariance)


def _rounding(covariance: Tensor) -> float:
    return len(covariance) * torch.finfo(torch.float64).eps * float(covariance.diagonal().max())


def _pivoted_factor(covariance: Tensor) -> Tensor:
    """Cholesky with the largest remaining variance first, up to where only rounding is left.

    An eigendecomposition would do, but takes several times as long.
    """
    remaining, enough = covariance.diagonal().clone(), _rounding(covariance)
    rows = torch.zeros_like(covariance)  # F^T
    for rank in range(len(covariance)):
        pivot = int(remaining.argmax())
        if float(remaining[pivot]) <= enough:
            rows = rows[:rank]
            break
        column = covariance[pivot] - rows[:rank, pivot] @ rows[:rank]
        rows[rank] = column / remaining[pivot].sqrt()
        remaining -= rows[rank].square()
        remaining[pivot] = 0  # to the last bit
    return rows.T


# --- kernel distance


def kernel_distance(a: Features, b: Features) -> float:
    """The unbiased square of the maximum mean discrepancy, ``k(x, y) = (x·y / D + 1)^3``.

    Products are float32, as the features are; what is summed is float64. It may be below 0.

    Args:
        a: ``(N, D)``, N at least 2.
        b: ``(M, D)``, M at least 2.

    Source: Binkowski et al. 2018, KID.
    """

    def kernel(x: Features, y: Features) -> Float64:
        k: Float64 = ((x @ y.T).astype(np.float64) / x.shape[1] + 1) ** 3
        return k

    within = 0.0
    for own in (a, b):
        k = kernel(own, own)
        within += float(k.sum() - np.trace(k)) / (len(own) * (len(own) - 1))
    return within - 2 * float(kernel(a, b).mean())


def kernel_distances(a: Features, b: Features, *, subsets: int, size: int, seed: int) -> Float64:
    """``kernel_distance`` of random parts of both sets, ``(subsets,)``.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.
        subsets: how many parts.
        size: rows of each, without repetition within one.
        seed: of the choice.
    """
    random = np.random.default_rng([seed, 3])
    found = [
        kernel_distance(
            a[random.choice(len(a), size, replace=False)], b[random.choice(len(b), size, replace=False)]
        )
        for _ in range(subsets)
    ]
    return np.array(found)


# --- precision and recall


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1."""

    precision: float
    """Of the images that are scored: how many lie where real ones do."""
    recall: float
    """Of the real images: how many lie where scored ones do."""


def precision_recall(scored: Features, real: Features, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall: a set covers the balls from each of its rows to its k-th neighbour.

    Args:
        scored: ``(N, D)``, N above ``neighbours``.
        real: ``(M, D)``, M above ``neighbours``.
        neighbours: k.

    Source: Kynkaanniemi et al. 2019, equations 1 and 2; k = 3 there.
    """
    of_scored = _radii(scored, neighbours)
    of_real = _radii(real, neighbours)
    inside = 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    for rows, distances in _squared_distances(scored, real):
        inside += int((distances <= of_real).any(dim=1).sum())
        covered |= (distances <= of_scored[rows][:, None]).any(dim=0)
    return PrecisionRecall(inside / len(scored), float(covered.double().mean()))


def _radii(features: Features, neighbours: int) -> Tensor:
    """``(N,)``, the squared distance of each row to its k-th nearest other one."""
    parts = [
        distances.kthvalue(neighbours + 1, dim=1).values  # the row itself is the nearest
        for _, distances in _squared_distances(features, features)
    ]
    return torch.cat(parts)


def _squared_distances(a: Features, b: Features) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of rows of ``a``, and their squared distances ``(chunk, M)`` from all rows of ``b``."""
    chunk = max(1, _CHUNK // len(b))
    right = torch.from_numpy(b).double()
    right_norms = right.square().sum(dim=1)
    for first in range(0, len(a), chunk):
        left = torch.from_numpy(a[first : first + chunk]).double()
        norms = left.square().sum(dim=1)[:, None] + right_norms
        distances = norms - 2 * left @ right.T
        distances[distances < 1e-13 * norms] = 0  # equal rows: what is left is rounding
        yield slice(first, first + len(left)), distances
