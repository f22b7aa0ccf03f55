"""Semantic object accuracy: does a detector find in an image what its caption names?

Hinz, Heinrich and Wermter, "Semantic object accuracy for generative text-to-image synthesis", TPAMI 2020. For
each of COCO's 80 categories there is a list of captions of the 2014 validation set that name it. A category's
accuracy is the share of its images in which the detector finds it; SOA-C is the mean over categories, SOA-I
the mean over images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import MAX_IMAGES, Model
from ganvas.progress import progress
from ganvas.scores.detectors import COCO_CATEGORIES, Detections, Detector
from ganvas.scores.score import Score
from ganvas.scores.soa_captions import CaptionLists, ListedCaption
from ganvas.scores.soa_state import ClassResult, SoaState, model_fingerprint

PERSON = COCO_CATEGORIES[0]
_MAX_SEED = 1 << 40
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class SoaProtocol:
    """Everything but captions and detector that fixes the numbers. The defaults are the official protocol."""

    images_per_caption: int = 3
    """Each with noise of its own. Of a caption of ``person`` there is one image."""
    person_captions: int = 30_000
    """Captions of ``person``, drawn by ``seed``."""
    max_captions_per_class: int | None = None
    """An approximation: so many captions of each category, drawn by ``seed``. SOA-I still weights a category
    by the images that the whole list would give."""
    seed: int = 0
    """Of the noise, and of what is drawn."""


@dataclass(frozen=True)
class SoaValues:
    """The four means, 0 to 1."""

    by_class: float
    """SOA-C: the unweighted mean over categories."""
    by_image: float
    """SOA-I: the mean over images."""
    top_40: float | None
    """Mean over the half of the categories (40 of 80) with the most images; None of a single category."""
    bottom_40: float
    """Mean over the half with the fewest. Of two with equally many, the earlier in COCO's order is here; of
    an odd number of categories, so is the one in the middle."""
    top_40_classes: tuple[str, ...]
    """The categories of ``top_40``."""


def soa_values(results: Mapping[str, ClassResult]) -> SoaValues:
    """SOA from what was found of each category.

    Raises:
        GanvasError: there is no category, or one without an image.
    """
    if empty := [name for name, result in results.items() if result.images < 1 or result.weight < 1]:
        raise GanvasError(f"SOA: no image for category '{empty[0]}'")
    if not results:
        raise GanvasError("SOA: no category to score")
    order = sorted(results, key=lambda name: (results[name].weight, COCO_CATEGORIES.index(name)))
    half = (len(order) + 1) // 2
    weights = {name: result.weight for name, result in results.items()}

    def mean(names: Sequence[str]) -> float:
        return sum(results[name].accuracy for name in names) / len(names)

    return SoaValues(
        by_class=mean(order),
        by_image=sum(weights[name] * results[name].accuracy for name in order) / sum(weights.values()),
        top_40=mean(order[half:]) if order[half:] else None,
        bottom_40=mean(order[:half]),
        top_40_classes=tuple(name for name in COCO_CATEGORIES if name in set(order[half:])),
    )


def soa_from_detections(detections: Mapping[str, Iterable[Detections]]) -> SoaValues:
    """SOA from the detections in the images of each category.

    Args:
        detections: by category, one for each image generated from a caption that names it.

    Raises:
        GanvasError: an unknown category, or one without an image.
    """
    if unknown := [name for name in detections if name not in COCO_CATEGORIES]:
        raise GanvasError(f"SOA: '{unknown[0]}' is no category of COCO")
    results = {}
    for name, found in detections.items():
        hits = [name in one.labels for one in found]
        results[name] = ClassResult(sum(hits), len(hits), len(hits))
    return soa_values(results)


@dataclass(frozen=True)
class _Plan:
    """The captions of one category, and how often each is drawn."""

    captions: tuple[ListedCaption, ...]
    images_per_caption: int
    weight: int

    @property
    def num_images(self) -> int:
        return len(self.captions) * self.images_per_caption


def planned(lists: CaptionLists, protocol: SoaProtocol) -> dict[str, _Plan]:
    """Which captions are scored.

    Raises:
        GanvasError: a number of the protocol makes no sense.
    """
    most = protocol.max_captions_per_class
    for name, value in (
        ("images_per_caption", protocol.images_per_caption),
        ("person_captions", protocol.person_captions),
        ("max_captions_per_class", 1 if most is None else most),
    ):
        if not 1 <= value <= MAX_IMAGES:
            raise GanvasError(f"{name}={value}: should be from 1 to {MAX_IMAGES:,}")
    if not 0 <= protocol.seed < _MAX_SEED:
        raise GanvasError(f"seed={protocol.seed}: should be from 0 to {_MAX_SEED - 1:,}")
    plans = {}
    for name, listed in lists.captions.items():
        number = COCO_CATEGORIES.index(name)
        per_caption, asked = protocol.images_per_caption, len(listed)
        if name == PERSON:
            per_caption, asked = 1, min(asked, protocol.person_captions)
        num = asked if most is None else min(asked, most)
        if num * per_caption > MAX_IMAGES:
            raise GanvasError(
                f"SOA: category '{name}' asks for {num * per_caption:,} images, at most {MAX_IMAGES:,};"
                " score fewer captions per class"
            )
        chosen = np.arange(len(listed))
        if num < len(listed):
            rng = np.random.default_rng([protocol.seed, number])
            chosen = np.sort(rng.choice(len(listed), num, replace=False))
        plans[name] = _Plan(tuple(listed[i] for i in chosen), per_caption, asked * per_caption)
    return plans


class Generates(Protocol):
    """What SOA asks of a model."""

    def generate_arrays(
        self, captions: Sequence[str], n: int = 1, seed: int = 0, *, same_noise: bool = True
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """``n`` images of each caption, uint8 ``(B, H, W, 3)`` batch by batch."""


def soa(
    model: Generates,
    lists: CaptionLists,
    detector: Detector,
    protocol: SoaProtocol,
    *,
    folder: Path | None = None,
    fingerprint: str | None = None,
) -> list[Score]:
    """SOA-C and SOA-I of a model.

    Images are made, looked at and forgotten batch by batch.

    Args:
        model: that is scored.
        lists: the captions.
        detector: that looks.
        protocol: how many images, and which noise.
        folder: where what is finished is kept, category by category, so that the same call goes on with a
            stopped work; by default nowhere.
        fingerprint: of the model, for ``folder``; by default ``model_fingerprint(model)``.

    Returns:
        Two scores, ``soa-c`` and ``soa-i``, with the same facts: accuracy and images of each category, and
        the means over the 40 categories with most and fewest images.

    Raises:
        GanvasError: the detector does not know a category, or ``folder`` holds other work.
        RunStopped: ``folder`` cannot be written.
    """
    plans = planned(lists, protocol)
    _check_categories(plans, detector)
    about = _about(lists, plans, detector, protocol)
    state = None
    if folder is not None:
        if fingerprint is None:
            if not isinstance(model, Model):
                raise GanvasError("SOA: to keep the results of such a model, give its fingerprint")
            fingerprint = model_fingerprint(model)
        num_images = {name: plan.num_images for name, plan in plans.items()}
        state = SoaState(folder, {"model": fingerprint, "protocol": about}, num_images)
    results = dict(state.results) if state else {}
    total = sum(plan.num_images for plan in plans.values())
    done = sum(result.images for result in results.values())
    with progress("SOA", total, start=done) as report:
        for name, plan in plans.items():
            if name in results:
                continue
            hits = 0
            captions = [one.caption for one in plan.captions]
            seed = protocol.seed * len(COCO_CATEGORIES) + COCO_CATEGORIES.index(name)
            for batch in model.generate_arrays(
                captions, plan.images_per_caption, seed=seed, same_noise=False
            ):
                hits += sum(name in found.labels for found in detector.detect(batch))
                done += len(batch)
                report(done, name)
            results[name] = ClassResult(hits, plan.num_images, plan.weight)
            if state:
                state.keep(name, results[name])
    return _scores(results, about, {"images": "generated"})


def soa_of_real(store: Store, lists: CaptionLists, detector: Detector, protocol: SoaProtocol) -> list[Score]:
    """SOA of the real images that the captions describe: what a perfect generator could expect.

    Captions whose image the store does not hold are left out, and so are categories of which none is left.
    Where the store knows an image's objects, the facts say of which share of the captions the image is
    annotated with the category.

    Args:
        store: prepared COCO images; their ids are image ids.
        lists: the captions.
        detector: that looks.
        protocol: as for ``soa``; it says which captions, and each stands for its one image.

    Raises:
        GanvasError: the store holds none of the images, or the detector does not know a category.
    """
    row_of = {int(name): row for row, name in enumerate(store.ids) if name.isascii() and name.isdecimal()}
    plans = {}
    for name, plan in planned(lists, protocol).items():
        held = tuple(one for one in plan.captions if one.image_id in row_of)
        if held:
            plans[name] = _Plan(held, 1, len(held) * plan.images_per_caption)
    if not plans:
        raise GanvasError(f"{store.path}: holds none of the images that the SOA captions describe")
    _check_categories(plans, detector)
    rows = sorted({row_of[one.image_id] for plan in plans.values() for one in plan.captions})
    seen = dict(zip(rows, _labels(store, rows, detector), strict=True))
    results, annotated = {}, {}
    for name, plan in plans.items():
        shown = [row_of[one.image_id] for one in plan.captions]
        hits = sum(name in seen[row] for row in shown)
        results[name] = ClassResult(hits, len(shown), plan.weight)
        known = [objects for row in shown if (objects := objects_of(store, row)) is not None]
        if known:
            annotated[name] = sum(name in objects for objects in known) / len(known)
    facts = {"images": "real", "num_real_images": len(rows), "annotated": annotated}
    return _scores(results, _about(lists, plans, detector, protocol), facts)


@dataclass(frozen=True)
class Agreement:
    """How a detector agrees with annotations, over pairs of an image and a category."""

    precision: float
    """Share of what it finds that is annotated."""
    recall: float
    """Share of what is annotated that it finds."""
    num_images: int


def agreement(detector: Detector, store: Store, split: str) -> Agreement:
    """How well a detector finds what real images are annotated with: a look at it before a long work.

    Args:
        detector: that looks.
        store: prepared COCO images with annotations; images without are left out.
        split: of it.

    Raises:
        GanvasError: no image of the split is annotated.
    """
    annotated = {row: objects_of(store, row) for row in store.rows(split).tolist()}
    true_of = {row: objects for row, objects in annotated.items() if objects is not None}
    if not any(true_of.values()):
        raise GanvasError(f"{store.path}: no image of split '{split}' has annotated objects")
    both = found = true = 0
    seen = _labels(store, list(true_of), detector)
    for objects, labels in zip(true_of.values(), seen, strict=True):
        both, found, true = both + len(labels & objects), found + len(labels), true + len(objects)
    return Agreement(precision=both / found if found else 0.0, recall=both / true, num_images=len(true_of))


def objects_of(store: Store, row: int) -> frozenset[str] | None:
    """The categories that an image is annotated with; None where nothing is known."""
    names = store.attributes[row].get("objects")
    return None if names is None else frozenset(name for name in names.split(", ") if name)


def _labels(store: Store, rows: Sequence[int], detector: Detector) -> Iterator[frozenset[str]]:
    """What the detector finds in real images."""
    with progress("real images", len(rows)) as report:
        for first in range(0, len(rows), _CHUNK):
            images = store.images.squares(np.array(rows[first : first + _CHUNK], np.int64))
            yield from (frozenset(found.labels) for found in detector.detect(images))
            report(first + len(images))


def _check_categories(plans: Mapping[str, _Plan], detector: Detector) -> None:
    for name in plans:
        if name not in detector.categories:
            raise GanvasError(
                f"SOA: the detector does not know the category '{name}'; give one for COCO's 80"
            )


def _about(
    lists: CaptionLists, plans: Mapping[str, _Plan], detector: Detector, protocol: SoaProtocol
) -> dict[str, Any]:
    """What fixes the numbers. ``captions`` are those that were scored, after drawing."""
    digest = hashlib.sha256()
    for name, plan in plans.items():
        digest.update(f"{name}: {[(one.image_id, one.id) for one in plan.captions]}\n".encode())
    return {
        "lists": lists.digest,
        "people": lists.people,
        "captions": digest.hexdigest(),
        "num_classes": len(plans),
        "without": [name for name in COCO_CATEGORIES if name not in plans],
        **asdict(protocol),
        "detector": dict(detector.about),
    }


def _scores(
    results: Mapping[str, ClassResult], about: Mapping[str, Any], more: Mapping[str, Any]
) -> list[Score]:
    values = soa_values(results)
    ordered = {name: results[name] for name in COCO_CATEGORIES if name in results}
    facts = {
        "top_40": values.top_40,
        "bottom_40": values.bottom_40,
        "top_40_classes": list(values.top_40_classes),
        "accuracy": {name: result.accuracy for name, result in ordered.items()},
        "num_images": {name: result.images for name, result in ordered.items()},
        **more,
    }
    return [
        Score(name=name, value=value, better="higher", protocol=about, facts=facts)
        for name, value in (("soa-c", values.by_class), ("soa-i", values.by_image))
    ]
