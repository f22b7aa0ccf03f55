"""The folder of a trained model: weights, config, the text encoder's files and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ganvas import __version__
from ganvas.errors import GanvasError, RunStopped
from ganvas.models import no_such_model, place_of
from ganvas.recipe import Recipe
from ganvas.systems import find
from ganvas.systems.base import System
from ganvas.text.tokenizer import FILE as VOCABULARY
from ganvas.text.transformer import CONFIG_FILE as TRANSFORMER

FORMAT = 1
_MAX_FILE_BYTES = 200_000_000


def save_model(
    system: System,
    recipe: Recipe,
    folder: Path,
    trained: Mapping[str, int],
    *,
    converted_from: Mapping[str, str] | None = None,
    note: str = "",
) -> None:
    """Write what generating needs: weights, config, tokenizer, model card. Each file is replaced at once.

    Args:
        system: with the weights to keep.
        recipe: what it was made from.
        folder: made if it does not exist.
        trained: images seen in each phase.
        converted_from: files of a release with their SHA-256, where the weights are such.
        note: a further line for the card.

    Raises:
        RunStopped: the disk is full, or not writable.
    """
    from ganvas.training.checkpoint import in_words, write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunStopped(f"{folder}: could not be written ({in_words(error)})") from None
    config = {"format": FORMAT, "ganvas": __version__, "trained": dict(trained), "recipe": recipe.to_dict()}
    if converted_from:
        config["converted_from"] = dict(converted_from)
    weights = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in system.state_dict().items()
        if name.split(".", 1)[0] not in system.training_only
    }
    for name, text in system.text_encoder.files().items():
        write_atomically(folder / name, text)
    write_atomically(folder / "README.md", _model_card(system, recipe, trained, converted_from or {}, note))
    write_atomically(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "model.safetensors", save(weights))


def find_model(path: Path) -> Path:
    """The model folder that ``path`` is, that of the run that it is, or the shipped model of this name.

    Raises:
        GanvasError: there is none.
    """
    path = place_of(path)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise no_such_model(path)
    if (path / "run.json").is_file():
        raise GanvasError(f"{path}: this run has not saved a model yet; train it further")
    raise GanvasError(f"{path}: holds no model (config.json is missing)")


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a model folder holds.

    Raises:
        GanvasError: it is none, or of another format.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise KeyError("it is too large")
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise GanvasError(
                f"{path}: format {config['format']} is not {FORMAT}; use a matching version of Ganvas"
            )
        if not isinstance(config["recipe"], dict) or not isinstance(config["trained"], dict):
            raise KeyError("recipe")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise GanvasError(f"{path}: is no config of a model ({type(error).__name__}: {error})") from None
    found: dict[str, Any] = config
    return found


def read_files(folder: Path) -> dict[str, str]:
    """The files of a model folder that its text encoder needs beside weights: name to text.

    Raises:
        GanvasError: one cannot be read.
    """
    found = {}
    for path in (folder / VOCABULARY, folder / TRANSFORMER):
        if not path.exists():
            continue
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise GanvasError(f"{path}: larger than {_MAX_FILE_BYTES:,} bytes; it is none of a model's")
            found[path.name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GanvasError(f"{path}: cannot be read ({error}); copy the model again") from None
    return found


def load_weights(system: System, folder: Path) -> None:
    """Give a bare system the weights of a model folder, all of them and no others.

    Raises:
        GanvasError: they cannot be read, or are those of another system.
    """
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GanvasError(f"{path}: cannot be read ({error}); copy the model again") from None
    wanted = system.state_dict()
    for name in sorted(wanted.keys() ^ weights.keys()):
        what = "is missing" if name in wanted else "is unknown"
        raise GanvasError(f"{path}: the tensor '{name}' {what}")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise GanvasError(
                f"{path}: the tensor '{name}' is {tuple(value.shape)}, but the config"
                f" asks for {tuple(wanted[name].shape)}"
            )
    fitting = {name: value.to(wanted[name].dtype) for name, value in weights.items()}
    system.load_state_dict(fitting, assign=True)


def _model_card(
    system: System, recipe: Recipe, trained: Mapping[str, int], converted_from: Mapping[str, str], note: str
) -> str:
    seen = ", ".join(f"{images:,} in phase {phase}" for phase, images in trained.items())
    size = recipe.data.image_size
    facts = [
        f"System: `{recipe.system}`, images of {size} x {size} pixels",
        f"Text encoder: {f'`{recipe.text.encoder}`' if recipe.text else 'none'}",
        f"Data: `{recipe.data.set}`",
        f"Images seen in training: {seen or 'not known'}",
        *system.facts(),
    ]
    if recipe.training.encoders:
        facts.append(f"Encoders: taken over from the model `{Path(recipe.training.encoders).name}`")
    facts += [f"Converted from `{name}`, SHA-256 {digest}" for name, digest in converted_from.items()]
    facts += [note[0].upper() + note[1:]] if note else []
    facts.append(f"Made by Ganvas {__version__}")
    lines = "\n".join(f"- {fact}" for fact in facts)
    return f"""---
library_name: ganvas
tags: [text-to-image, gan, {recipe.system}]
---

# {recipe.name}

{recipe.about}

{lines}
{_USE if find(recipe.system).system.generates else ""}"""


_USE = """
```python
import ganvas

model = ganvas.load("path/to/this/folder")
model.generate(["a caption"], n=4, seed=0)[0].save("image.png")
```
"""
