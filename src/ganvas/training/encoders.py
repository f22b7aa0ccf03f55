"""Encoders that a run takes over from another one, so that DAMSM is trained once for many systems."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ganvas.errors import GanvasError
from ganvas.model_folder import find_model, read_files
from ganvas.recipe import Recipe
from ganvas.systems.base import Phase, System

_TAKEN = ("text_encoder.", "damsm.")


def trained_files(recipe: Recipe) -> dict[str, str] | None:
    """The files of the text encoder that the recipe takes over, its vocabulary among them; None without one.

    Raises:
        GanvasError: there is no such model.
    """
    if recipe.training.encoders is None:
        return None
    return read_files(find_model(Path(recipe.training.encoders)))


def take_over(system: System, recipe: Recipe) -> None:
    """Give a fresh system the encoders that its recipe names: text encoder, and DAMSM's image encoder if both
    have one.

    Raises:
        GanvasError: they are encoders of other settings.
    """
    if recipe.training.encoders is None:
        return
    path = find_model(Path(recipe.training.encoders)) / "model.safetensors"
    try:
        theirs = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GanvasError(f"{path}: cannot be read ({error}); copy the model again") from None
    ours = system.state_dict()
    _demand_fit(ours, theirs, path)
    chosen = {name: value for name, value in theirs.items() if name.startswith(_TAKEN) and name in ours}
    system.load_state_dict(chosen, strict=False)


def is_taken_over(phase: Phase, recipe: Recipe) -> bool:
    """Whether a phase is left out because the encoders that it trains come trained."""
    return recipe.training.encoders is not None and phase.trains_text


def _demand_fit(ours: dict[str, Tensor], theirs: dict[str, Tensor], path: Path) -> None:
    """What is taken over has the names and shapes of ours, as a whole."""
    for group in _TAKEN:
        mine = {name: value for name, value in ours.items() if name.startswith(group)}
        found = {name: value for name, value in theirs.items() if name.startswith(group)}
        if not mine or (not found and group != _TAKEN[0]):
            continue
        for name in sorted(mine.keys() | found.keys()):
            if name in mine and name in found and mine[name].shape == found[name].shape:
                continue
            forms = [
                f"{tuple(side[name].shape)} {where}" if name in side else f"nothing {where}"
                for side, where in ((found, "there"), (mine, "here"))
            ]
            raise GanvasError(
                f"training.encoders: {path} does not fit this recipe ('{name}' is {' and '.join(forms)});"
                " give the settings text.* and settings.damsm.* of that model"
            )
