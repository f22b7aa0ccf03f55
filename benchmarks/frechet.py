"""The Frechet distance: its arithmetic against ``scipy.linalg.sqrtm``, and the network's share of a score.

Arithmetic: 30,000 x 2,048 features, as many as the papers score, from features to the distance: mean and
covariance, then the trace of a matrix root. The peer is what most repositories do: ``numpy.cov`` and the real
part of ``scipy.linalg.sqrtm`` of the product.

Network: images at 64 px are scored with lite0, from the memory map to the distance, and the time inside of
the network is taken apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import RESULTS, interleave, machine, parser, ratio, run_script, summary, write_result
from torch import Tensor, nn

from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.scores.distances import Gaussian, GaussianStatistics, frechet_distance
from ganvas.scores.features import BACKENDS, register
from ganvas.scores.frechet import FrechetProtocol, frechet
from ganvas.scores.pictures import real

SECONDS, TIMES, RELATIVE = 5.0, 3.0, 1e-6
SIZE = 64
CPU = torch.device("cpu")
Features = npt.NDArray[np.float32]


# --- arithmetic


def correlated_features(num: int, dim: int, seed: int) -> Features:
    """Not negative, correlated, with variances that fall off as those of a network's last layer do."""
    random = np.random.default_rng(seed)
    turn = np.random.default_rng(0).normal(size=(dim, dim)).astype(np.float32) / np.sqrt(dim)
    spectrum = np.linspace(1, 0.03, dim, dtype=np.float32) ** 2
    mixed = (random.standard_normal((num, dim), np.float32) * spectrum) @ turn
    return np.maximum(mixed + np.float32(0.01 * seed), 0)


def statistics_of(features: Features) -> Gaussian:
    """In batches, as they come from a network."""
    found = GaussianStatistics(features.shape[1])
    for first in range(0, len(features), 64):
        found.add(features[first : first + 64])
    return found.result()


def by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    """The peer."""
    from scipy.linalg import sqrtm

    root = np.real(sqrtm(a.covariance @ b.covariance))
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)
    return float(np.square(a.mean - b.mean).sum() + traces)


def by_cov(features: Features) -> Gaussian:
    """The peer's mean and covariance."""
    exact = features.astype(np.float64)
    return Gaussian(mean=exact.mean(axis=0), covariance=np.cov(exact, rowvar=False), num=len(exact))


def measure_arithmetic(num: int, dim: int, rounds: int) -> dict[str, Any]:
    """Statistics of one set, whose other side is known already, and the distance."""
    scored, reference = (correlated_features(num, dim, seed) for seed in (1, 2))
    ours, there = statistics_of(scored), statistics_of(reference)
    values: dict[str, float] = {}

    def distance(name: str, find: Callable[[Gaussian, Gaussian], float]) -> None:
        values[name] = find(ours, there)

    sides: dict[str, Callable[[], None]] = {
        "ganvas, statistics": lambda: void(statistics_of(scored)),
        "ganvas, distance": lambda: distance("ganvas", frechet_distance),
        "numpy.cov": lambda: void(by_cov(scored)),
        "scipy.linalg.sqrtm": lambda: distance("scipy", by_sqrtm),
    }
    of_cores: dict[str, list[float]] = {name: [] for name in sides}

    def counted(name: str) -> None:
        began = time.process_time()
        sides[name]()
        of_cores[name].append(time.process_time() - began)

    seconds = interleave(
        {name: partial(counted, name) for name in sides}, rounds=rounds, warmup=1, device=CPU
    )
    total = [
        sum(pair) for pair in zip(seconds["ganvas, statistics"], seconds["ganvas, distance"], strict=True)
    ]
    peer = [sum(pair) for pair in zip(seconds["numpy.cov"], seconds["scipy.linalg.sqrtm"], strict=True)]
    return {
        "features": [num, dim],
        "bar": {"seconds_at_most": SECONDS, "ratio_at_least": TIMES, "relative_difference_at_most": RELATIVE},
        "distance": values,
        "relative_difference": abs(values["ganvas"] / values["scipy"] - 1),
        "ratios": {
            "scipy over ganvas, statistics and distance": ratio(peer, total),
            "scipy over ganvas, distance": ratio(seconds["scipy.linalg.sqrtm"], seconds["ganvas, distance"]),
        },
        "core_seconds": {name: statistics.median(each[-rounds:]) for name, each in of_cores.items()},
        "sides": {
            name: summary(each, num)
            for name, each in {**seconds, "ganvas, both": total, "numpy and scipy, both": peer}.items()
        },
    }


def void(result: object) -> None:
    """Nobody looks at it."""


# --- network


class Timed(nn.Module):
    """A network whose seconds are counted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, images: Tensor) -> Tensor:
        """As the network."""
        began = time.perf_counter()
        found: Tensor = self.network(images)
        if found.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - began
        return found


def random_store(path: Path, num: int) -> Store:
    """Images of noise; the network takes as long for them as for others."""
    random = np.random.default_rng(0)
    with StoreWriter(path, name="noise", size=SIZE, source="drawn here", licence="CC0-1.0") as writer:
        for number in range(num):
            image = random.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
            writer.add(Record(id=str(number), split="test", captions=("noise",)), image)
        writer.finish()
    return Store(path)


def measure_network(num: int, backend: str, device: str) -> dict[str, Any]:
    """One pass over all images, which is long enough to be its own average."""
    plain, opened = BACKENDS[backend], []

    def build(weights: str | None) -> nn.Module:
        opened.append(Timed(plain.build(weights)))
        return opened[-1]

    register(replace(plain, build=build))
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = random_store(Path(folder) / "data", num)
            protocol = FrechetProtocol(features=backend, reference_num=128)
            pictures = real(store, split="test")
            frechet(real(store, split="test", num=64), store, protocol, device=device)  # keeps the reference
            reading = [0.0]
            timed = replace(pictures, batches=lambda: timed_reading(pictures.batches(), reading))
            began = time.perf_counter()
            score = frechet(timed, store, protocol, device=device)
            total = time.perf_counter() - began
    finally:
        register(plain)
    network = opened[-1].seconds
    return {
        "backend": backend,
        "precision": score.protocol["features_precision"],
        "images": num,
        "image_size": SIZE,
        "seconds": {"all": total, "network": network, "reading": reading[0]},
        "images_per_second": num / total,
        "share": {"network": network / total, "reading": reading[0] / total},
    }


def timed_reading(
    batches: Iterator[npt.NDArray[np.uint8]], seconds: list[float]
) -> Iterator[npt.NDArray[np.uint8]]:
    """The same batches; how long they took to come is added up."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        seconds[0] += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--features", type=int, default=30_000, help="rows of the arithmetic (30,000)")
    options.add_argument("--dim", type=int, default=2048, help="features of each (2,048)")
    options.add_argument(
        "--images", type=int, default=10_000, help="scored with the network; 0 is none (10,000)"
    )
    options.add_argument("--backend", default="lite0", help="features of the network (lite0)")
    options.set_defaults(repeat=3)
    chosen = options.parse_args()
    if chosen.features < 2 or chosen.dim < 1 or chosen.repeat < 1 or (chosen.images and chosen.images < 200):
        raise GanvasError("--features, --dim, --repeat and --images: give at least 2, 1, 1 and 200")
    if chosen.backend not in BACKENDS:
        raise GanvasError(f"--backend {chosen.backend}: known: {', '.join(BACKENDS)}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    result: dict[str, Any] = {"benchmark": "frechet", "machine": machine(CPU)}
    result["arithmetic"] = measure_arithmetic(chosen.features, chosen.dim, chosen.repeat)
    show_arithmetic(result["arithmetic"])
    if chosen.images:
        result["network"] = measure_network(chosen.images, chosen.backend, chosen.device)
        show_network(result["network"])
    result["machine"]["load_average_after"] = machine(CPU).get("load_average_before")
    write_result(chosen.out or RESULTS / "frechet.json", result)


def show_arithmetic(found: dict[str, Any]) -> None:
    for name, side in found["sides"].items():
        cores = found["core_seconds"].get(name)
        spent = "" if cores is None else f" ({cores:.2f} s of a core)"
        print(f"{name:<24} {side['seconds']['median']:7.2f} s{spent}")
    for name, times in found["ratios"].items():
        print(f"{name}: {times['of_medians']:.1f} times")
    print(f"relative difference: {found['relative_difference']:.1e}")


def show_network(found: dict[str, Any]) -> None:
    share = found["share"]
    print(
        f"{found['images']:,} images at {SIZE} px with {found['backend']} ({found['precision']}):"
        f" {found['seconds']['all']:.0f} s, {found['images_per_second']:.0f} images/s, network"
        f" {100 * share['network']:.1f} %, reading {100 * share['reading']:.1f} %"
    )


if __name__ == "__main__":
    run_script(main)
