"""What the loop asks of every step: its seed, what is due; and of a phase: its optimizers and its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ganvas.errors import GanvasError, did_you_mean
from ganvas.recipe import Recipe
from ganvas.systems.base import Phase, Turn


def check_budgets(recipe: Recipe, phases: Sequence[Phase]) -> None:
    """Budgets name phases of this system, and are not negative."""
    known = [phase.name for phase in phases]
    training = recipe.training
    numbers: dict[str, Mapping[str, float]] = {
        "images": training.images,
        "seconds": training.seconds,
        "batch_sizes": training.batch_sizes,
    }
    for key, by_phase in numbers.items():
        for name, value in by_phase.items():
            if name not in known and value != 0:
                encoder = f" with text encoder {recipe.text.encoder}" if recipe.text else ""
                raise GanvasError(
                    f"training.{key}: system {recipe.system}{encoder} has no phase '{name}';"
                    f" {did_you_mean(name, known)}"
                )
            if value < 0:
                raise GanvasError(f"training.{key}.{name}: should be at least 0, not {value}")


def make_adam(turn: Turn) -> torch.optim.Adam:
    """Adam with the settings of a turn, for all that it trains; fused where the device can."""
    parameters = [p for module in turn.modules for p in module.parameters()]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(parameters, lr=turn.adam.learning_rate, betas=turn.adam.betas, fused=fused)


def seed_of(*parts: int) -> int:
    """One random seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def is_due(step: int, batch_size: int, every: int) -> bool:
    """Whether a multiple of ``every`` images was reached in this step."""
    return every > 0 and (step * batch_size) // every > ((step - 1) * batch_size) // every
