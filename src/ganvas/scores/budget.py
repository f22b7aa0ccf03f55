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
from ganvas.training.feeding import Data
from ganvas.training.run import text_material


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every system is given."""

    images: int
    """Generated in training. A system whose stages are trained one after the other gets them for each, as
    StackGAN's paper does; one that draws an image for each of several captions of a picture sees fewer
    pictures. Text encoders keep the budget of their recipe."""
    points: int = 1
    """At which a run is scored, evenly along it; to stop for that changes nothing of it."""
    encoders: tuple[Path, ...] = ()
    """Runs whose trained encoders are taken over: a recipe takes the first that has its text settings."""

    def __post_init__(self) -> None:
        if self.points < 1 or self.images < self.points:
            raise GanvasError(
                f"--images {self.images}, --points {self.points}: at least 1 point, and an image for each"
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Training up to a point."""

    images: Mapping[str, int]
    """Pictures that each phase has seen."""
    generated: int
    """Images that the phases which generate have drawn."""
    overrides: tuple[str, ...]
    """That make it of the recipe."""
    phases: tuple[str, ...]
    """Those that generate."""


def parts_of(budget: Budget, recipe: Recipe, store: Data) -> list[Part]:
    """The parts of a recipe's training, the last one whole.

    Args:
        budget: for all recipes.
        recipe: one of them.
        store: the data it is trained on.

    Raises:
        GanvasError: a run of trained encoders cannot be opened.
    """
    drawing = _drawing_phases(recipe, store)
    fixed = {p: n for p, n in recipe.training.images.items() if p not in drawing and _is_needed(p)}
    taken = [f"training.encoders={json.dumps(str(run))}" for run in _encoders(budget, recipe)]
    parts = []
    for number in range(1, budget.points + 1):
        drawn = budget.images * len(drawing) * number // budget.points
        done = {p: min(budget.images, max(0, drawn - i * budget.images)) for i, p in enumerate(drawing)}
        images = dict.fromkeys(recipe.training.images, 0) | fixed
        images |= {p: n // drawing[p] for p, n in done.items()}
        parts.append(
            Part(
                images=images,
                generated=sum(images[p] * captions for p, captions in drawing.items()),
                overrides=(f"training.images={json.dumps(images)}", *taken),
                phases=tuple(drawing),
            )
        )
    return parts


def _is_needed(phase: str) -> bool:
    """GAN-INT-CLS's style encoder comes after everything else, and what is compared does without."""
    return phase != "style"


def _drawing_phases(recipe: Recipe, store: Data) -> dict[str, int]:
    """The phases that train what generates, and how many images each draws for a picture."""
    with torch.device("meta"):
        system = build_system(recipe, **text_material(recipe, store))
    budgets = recipe.training.images
    return {p.name: p.captions for p in system.phases() if p.generates and budgets.get(p.name)}


def _encoders(budget: Budget, recipe: Recipe) -> Sequence[Path]:
    """The run to take encoders from, if there is one."""
    return [run for run in budget.encoders if load(run, device="cpu").recipe.text == recipe.text][:1]
