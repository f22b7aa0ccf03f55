"""What models are, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ganvas.pipeline import Model
from ganvas.scores.page.content import Fact

_MAX_SETTINGS = 30
_MAX_CHARACTERS = 80  # of a setting's value

# What the machine decides, or another row says.
_ELSEWHERE = frozenset({"name", "about", "system", "data.set", "data.image_size", "text.encoder"})
_ELSEWHERE |= {
    f"training.{key}"
    for key in (
        "device",
        "num_devices",
        "compile",
        "log_every",
        "sample_every",
        "samples",
        "save_every",
        "keep",
    )
}
_BUDGET = "training.images."


def model_facts(models: Sequence[Model]) -> list[Fact]:
    """A row for each fact, then one for each setting that is not the same in all recipes."""
    recipes = [model.recipe for model in models]
    facts = {
        "recipe": [recipe.name for recipe in recipes],
        "system": [recipe.system for recipe in recipes],
        "text encoder": [recipe.text.encoder if recipe.text else "none" for recipe in recipes],
        "trained on": [recipe.data.set for recipe in recipes],
        "images": [f"{model.image_size} \u00d7 {model.image_size} px" for model in models],
        "seen in training": [_trained(model) for model in models],
        "parameters": [_parameters(model) for model in models],
    }
    found = [Fact(name=name, values=values) for name, values in facts.items()]
    flat = [_flat(recipe.to_dict()) for recipe in recipes]
    differing = [
        Fact(name=key, values=[_short(settings.get(key, "\u2013")) for settings in flat], setting=True)
        for key in dict.fromkeys(key for settings in flat for key in settings)
        if key not in _ELSEWHERE and not key.startswith(_BUDGET) and _differs(key, flat)
    ]
    return found + differing[:_MAX_SETTINGS]


def _differs(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    return any(one.get(key) != settings[0].get(key) for one in settings)


def _flat(tree: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """A tree of settings with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{head}{name}.") if isinstance(value, Mapping) else {f"{head}{name}": value}
    return found


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}\u2026"


def _trained(model: Model) -> str:
    return ", ".join(f"{phase} {images:,}" for phase, images in model.trained.items()) or "nothing"


def _parameters(model: Model) -> str:
    """Of what generating needs."""
    kept = (
        value.numel()
        for name, value in model.system.named_parameters()
        if name.split(".", 1)[0] not in model.system.training_only
    )
    return f"{sum(kept) / 1e6:.2f} M"
