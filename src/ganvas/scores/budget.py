"""One budget for systems that train in other phases, other batches and other numbers of captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import Recipe
from ganvas.systems.base import Phase
from ganvas.training.feeding import Data
from ganvas.training.run import text_material

_NO_LIMIT = 10**9  # images, where seconds are what ends a phase


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every system is given: images or seconds. Text encoders keep the budget of their recipe."""

    images: int = 0
    """Generated in training. A system whose stages are trained one after the other gets them for each, as
    StackGAN's paper does; one that draws an image for each of several captions of a picture sees fewer
    pictures."""
    seconds: float = 0.0
    """Of training what generates; stages that are trained one after the other share them evenly."""
    points: int = 1
    """At which a run is scored, evenly along it; to stop for that changes nothing of it."""
    encoders: tuple[Path, ...] = ()
    """Runs whose trained encoders are taken over: a recipe takes the first that has its text settings."""

    def __post_init__(self) -> None:
        if (self.images > 0) == (self.seconds > 0):
            raise GanvasError(
                f"--images {self.images}, --seconds {self.seconds:g}: a budget is one of them, above 0"
            )
        if self.points < 1 or 0 < self.images < self.points:
            raise GanvasError(
                f"--images {self.images}, --points {self.points}: at least 1 point, and an image for each"
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Training up to a point."""

    limits: Mapping[str, Mapping[str, float]]
    """What phases are given, by name: ``images``, and ``seconds`` where those are the budget."""
    overrides: tuple[str, ...]
    """That make it of the recipe."""
    captions: Mapping[str, int]
    """The phases that generate, and how many images each draws for a picture."""

    def generated(self, seen: Mapping[str, int]) -> int:
        """Images that were drawn in training, when phases have seen so many pictures."""
        return sum(seen.get(phase, 0) * captions for phase, captions in self.captions.items())


def parts_of(budget: Budget, recipe: Recipe, store: Data) -> list[Part]:
    """The parts of a recipe's training, the last one whole.

    Args:
        budget: for all recipes.
        recipe: one of them.
        store: the data it is trained on.

    Raises:
        GanvasError: a run of trained encoders cannot be opened.
    """
    phases = _phases(recipe, store)
    drawing = {p.name: p.captions for p in phases if p.generates and recipe.training.images.get(p.name)}
    extra = {p.name for p in phases if p.extra}
    fixed = {p: 0 if p in drawing or p in extra else images for p, images in recipe.training.images.items()}
    taken = [f"training.encoders={json.dumps(str(run))}" for run in _encoders(budget, recipe)]
    parts = []
    for number in range(1, budget.points + 1):
        limits = _limits(budget, number / budget.points, drawing)
        limits["images"] = fixed | limits["images"]
        overrides = [f"training.{key}={json.dumps(given)}" for key, given in limits.items()]
        parts.append(Part(limits=limits, overrides=(*overrides, *taken), captions=drawing))
    return parts


def _limits(budget: Budget, share: float, drawing: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """What phases that generate are given up to a point, one after the other."""
    if budget.images:
        drawn = round(budget.images * len(drawing) * share)
        images = {p: min(budget.images, max(0, drawn - i * budget.images)) for i, p in enumerate(drawing)}
        return {"images": {p: n // drawing[p] for p, n in images.items()}}
    each = budget.seconds / len(drawing)
    seconds = {p: min(each, max(0.0, budget.seconds * share - i * each)) for i, p in enumerate(drawing)}
    begun = {p: s for p, s in seconds.items() if s > 0}
    return {"images": {p: _NO_LIMIT if p in begun else 0 for p in drawing}, "seconds": begun}


def _phases(recipe: Recipe, store: Data) -> Sequence[Phase]:
    """Of the recipe's system."""
    with torch.device("meta"):
        return build_system(recipe, **text_material(recipe, store)).phases()


def _encoders(budget: Budget, recipe: Recipe) -> Sequence[Path]:
    """The run to take encoders from, if there is one."""
    return [run for run in budget.encoders if load(run, device="cpu").recipe.text == recipe.text][:1]
