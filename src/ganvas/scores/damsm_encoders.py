"""The encoders of DAMSM that a system was trained with, for R-precision as AttnGAN's paper takes it."""

from __future__ import annotations

from pathlib import Path

from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.recipe import Recipe
from ganvas.systems.damsm import DamsmEncoders, DamsmSettings
from ganvas.training.checkpoint import load_checkpoint
from ganvas.training.run import Run

_HEAD = "damsm."


def open_damsm(folder: Path, *, device: str = "cpu") -> tuple[DamsmEncoders, str]:
    """DAMSM of a run: of system "damsm", or of one that was trained with it.

    A model goes without the image encoder, which generating does not need. It is taken from where the recipe
    took its encoders over, or from the run's checkpoint.

    Args:
        folder: a run; of system "damsm" a model folder will do.
        device: where it computes.

    Returns:
        The encoders, and the name of the recipe that trained them.

    Raises:
        GanvasError: there are none.
    """
    model = load(folder, device=device)
    if isinstance(model.system, DamsmEncoders):
        return model.system, model.recipe.name
    settings = getattr(model.recipe.settings, "damsm", None)
    if not isinstance(settings, DamsmSettings):
        raise GanvasError(f"{folder}: was trained without DAMSM (system '{model.recipe.system}')")
    if model.recipe.training.encoders is not None:
        return open_damsm(_origin(model.recipe, folder), device=device)
    return _from_checkpoint(model, settings, folder), model.recipe.name


def _origin(recipe: Recipe, folder: Path) -> Path:
    """The run that the encoders came from."""
    path = Path(str(recipe.training.encoders))
    if not path.exists():
        raise GanvasError(
            f"{folder}: took its encoders over from {path}, which is not there; give the run with --use"
            " damsm=RUN"
        )
    return path


def _from_checkpoint(model: Model, settings: DamsmSettings, folder: Path) -> DamsmEncoders:
    latest = Run(folder).latest()
    if latest is None:
        raise GanvasError(
            f"{folder}: has no checkpoint, and a model goes without DAMSM's image encoder; give the run with"
            " --use damsm=RUN"
        )
    found = DamsmEncoders(settings, model.system.text_encoder, model.image_size)
    tensors = load_checkpoint(latest)[0]["system"]
    chosen = {name: value for name, value in tensors.items() if name.startswith(_HEAD)}
    try:
        left = found.load_state_dict(chosen, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise GanvasError(f"{latest}: does not fit the model beside it ({reason})") from None
    if missing := [name for name in left.missing_keys if name.startswith(_HEAD)]:
        raise GanvasError(f"{latest}: does not fit the model beside it ({missing[0]} is missing)")
    return found.to(model.device).eval().requires_grad_(False)
