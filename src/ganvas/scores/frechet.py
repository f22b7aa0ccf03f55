"""Frechet distance (FID), kernel distance (KID), precision and recall against real images.

Each is named with its features: ``fid inception-fid``, ``frechet lite0``. The images go through the network
once, whatever is asked for, and memory does not grow with their number: mean and covariance are sums, and
KID, precision and recall look at a sample of at most 10,000 images of either side, which the protocol names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean
from ganvas.scores.distances import frechet_distance, kernel_distances, precision_recall
from ganvas.scores.features import DEFAULT, Extractor, Precision
from ganvas.scores.pictures import Pictures
from ganvas.scores.reference import Reference, Summary, summarize
from ganvas.scores.score import Score

KINDS = ("frechet", "kid", "precision", "recall")


@dataclass(frozen=True, kw_only=True)
class FrechetProtocol:
    """Everything that fixes the numbers, beside the images that are scored."""

    features: str = DEFAULT
    """The back-end, see ``ganvas.scores.features``."""
    precision: Precision | None = None
    """Of its network; by default what the back-end chooses."""
    reference_split: str | None = None
    """Real images to compare with; by default the split whose captions were generated."""
    reference_num: int | None = None
    """How many of them; by default all."""
    reference_size: int | None = None
    """Side that they are brought to first, pixels; by default the store's. Published FIDs of 64 px images
    are against real images of full size."""
    subsets: int = 100
    """Parts over which KID is averaged."""
    subset_size: int = 1000
    """Images of each, or as many as there are."""
    neighbours: int = 3
    """Of precision and recall."""
    sample: int = 10_000
    """Images of either side that KID, precision and recall look at."""
    seed: int = 0
    """Of sample and subsets."""

    def __post_init__(self) -> None:
        for name, least in (("subsets", 1), ("subset_size", 2), ("neighbours", 1), ("sample", 2)):
            if getattr(self, name) < least:
                raise GanvasError(f"{name}: {getattr(self, name)} is too few; at least {least}")


def frechet(pictures: Pictures, store: Store, protocol: FrechetProtocol | None = None, **where: Any) -> Score:
    """Frechet distance of Gaussians fitted to the features; see ``feature_scores``."""
    return feature_scores(pictures, store, protocol, ("frechet",), **where)[0]


def kid(pictures: Pictures, store: Store, protocol: FrechetProtocol | None = None, **where: Any) -> Score:
    """Kernel distance; see ``feature_scores``."""
    return feature_scores(pictures, store, protocol, ("kid",), **where)[0]


def precision_and_recall(
    pictures: Pictures, store: Store, protocol: FrechetProtocol | None = None, **where: Any
) -> list[Score]:
    """How many images look real, and how much of the real images is covered; see ``feature_scores``."""
    return feature_scores(pictures, store, protocol, ("precision", "recall"), **where)


def feature_scores(
    pictures: Pictures,
    store: Store,
    protocol: FrechetProtocol | None = None,
    which: Sequence[Literal["frechet", "kid", "precision", "recall"]] = KINDS,  # type: ignore[assignment]
    *,
    weights: str | None = None,
    device: str = "auto",
    reference: Path | None = None,
) -> list[Score]:
    """Scores by features, in one pass over the images.

    Args:
        pictures: that are scored.
        store: the prepared data with the real images; statistics are kept in its folder.
        protocol: everything else that fixes the numbers.
        which: scores, of ``KINDS``.
        weights: a path in place of the back-end's own weights.
        device: of the network: auto, cpu, cuda or mps.
        reference: a file of statistics that must be this reference's, to read no other.

    Returns:
        In the order of ``which``.

    Raises:
        GanvasError: too few images, a back-end that is not here, or statistics of another reference.
    """
    protocol = protocol or FrechetProtocol()
    for name in which:
        if name not in KINDS:
            raise GanvasError(f"no score by features '{name}'; {did_you_mean(name, KINDS)}")
    split = protocol.reference_split or pictures.about["split"]
    _refuse_too_few(len(pictures), "images", which, protocol)
    extractor = Extractor(protocol.features, weights=weights, precision=protocol.precision, device=device)
    sample = {"sample": protocol.sample, "seed": protocol.seed}
    real = Reference(
        store, extractor, split=split, num=protocol.reference_num, size=protocol.reference_size, **sample
    )
    _refuse_too_few(real.num, f"reference images in split '{split}'", which, protocol)
    there = real.summary(reference)
    here = summarize(pictures.batches(), len(pictures), extractor, what=f"{pictures.kind} images", **sample)
    common = {**pictures.about, **real.about}
    found = _Sides(here, there, protocol, common, extractor)
    scores: dict[str, Score] = {}
    if "frechet" in which:
        scores["frechet"] = found.frechet()
    if "kid" in which:
        scores["kid"] = found.kid()
    if "precision" in which or "recall" in which:
        scores |= found.precision_recall()
    return [scores[name] for name in which]


def _refuse_too_few(num: int, what: str, which: Sequence[str], protocol: FrechetProtocol) -> None:
    least = {"precision": protocol.neighbours + 1, "recall": protocol.neighbours + 1}
    for name in which:
        if num < least.get(name, 2):
            raise GanvasError(
                f"{name}: needs at least {least.get(name, 2)} images, and there are {num} {what}"
            )


@dataclass(frozen=True)
class _Sides:
    """The scored images and the real ones."""

    here: Summary
    there: Summary
    protocol: FrechetProtocol
    common: Mapping[str, Any]
    extractor: Extractor

    def frechet(self) -> Score:
        """Of all images."""
        backend = self.extractor.backend
        facts: dict[str, Any] = {}
        few = min(self.here.gaussian.num, self.there.gaussian.num)
        if few <= self.extractor.dim:
            facts["warning"] = (
                f"{few:,} images give a covariance of {self.extractor.dim:,} features no full rank: the value"
                " says little, and only beside others of as many images"
            )
        return Score(
            name=f"{backend.distance} {backend.name}",
            value=frechet_distance(self.here.gaussian, self.there.gaussian),
            better="lower",
            protocol={
                key: value for key, value in self.common.items() if key not in ("sample", "sample_seed")
            },
            facts=facts,
        )

    def kid(self) -> Score:
        """Of samples."""
        p = self.protocol
        size = min(p.subset_size, len(self.here.sample), len(self.there.sample))
        values = kernel_distances(
            self.here.sample, self.there.sample, subsets=p.subsets, size=size, seed=p.seed
        )
        return Score(
            name=f"kid {self.extractor.backend.name}",
            value=float(values.mean()),
            spread=float(values.std()),
            better="lower",
            protocol={
                **self.common,
                "kernel": "(x·y / D + 1)^3, unbiased",
                "subsets": p.subsets,
                "subset_size": size,
            },
        )

    def precision_recall(self) -> dict[str, Score]:
        """Of samples."""
        values = precision_recall(
            self.here.sample, self.there.sample, neighbours=self.protocol.neighbours
        )._asdict()
        return {
            name: Score(
                name=f"{name} {self.extractor.backend.name}",
                value=value,
                better="higher",
                protocol={**self.common, "neighbours": self.protocol.neighbours},
            )
            for name, value in values.items()
        }
