"""A trained model as a user holds it: load it, give it captions, get images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganvas import __version__
from ganvas.errors import GanvasError
from ganvas.images import image_to_tensor, to_uint8
from ganvas.recipe import Recipe, resolve
from ganvas.systems import find
from ganvas.systems.base import System
from ganvas.text import build
from ganvas.text.tokenizer import check_caption

FORMAT = 1
MAX_IMAGES = 100_000


def build_system(
    recipe: Recipe, *, captions: Sequence[str] | None = None, files: Mapping[str, str] | None = None
) -> System:
    """Make a recipe's system with fresh weights.

    Args:
        recipe: which system, text encoder and size.
        captions: training captions, for a text encoder that needs a vocabulary;
        files: or the files of a saved text encoder.
    """
    encoder = build(recipe.text, captions, files)
    return find(recipe.system).build(recipe.settings, encoder, recipe.data.image_size)


def save_model(system: System, recipe: Recipe, folder: Path, trained: Mapping[str, int]) -> None:
    """Write what generating needs: weights, config, tokenizer, model card. Each file is replaced at once.

    Args:
        system: with the weights to keep.
        recipe: what it was made from.
        folder: made if it does not exist.
        trained: images seen in each phase.
    """
    from ganvas.training.checkpoint import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "ganvas": __version__, "trained": dict(trained), "recipe": recipe.to_dict()}
    weights = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in system.state_dict().items()
        if name.split(".", 1)[0] not in system.training_only
    }
    for name, text in system.text_encoder.files().items():
        write_atomically(folder / name, text)
    write_atomically(folder / "README.md", _model_card(recipe, trained))
    write_atomically(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "model.safetensors", save(weights))


def load(path: str | os.PathLike[str], *, device: str = "auto") -> Model:
    """Open a trained model.

    Args:
        path: a run folder, or the ``model`` folder of one, from anywhere.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        GanvasError: there is no model, or its files are damaged; one line.
    """
    from ganvas.training.device import choose_device

    folder = _find_model(Path(path))
    config = _read_config(folder)
    recipe = resolve(config["recipe"])
    names = ("tokenizer.json",)
    files = {n: (folder / n).read_text(encoding="utf-8") for n in names if (folder / n).is_file()}
    system = build_system(recipe, files=files)
    try:
        weights = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise GanvasError(
            f"{folder / 'model.safetensors'}: cannot be read ({error}); copy the model again"
        ) from None
    _load_weights(system, weights, folder)
    place = choose_device(device)
    return Model(system.to(place).eval().requires_grad_(False), recipe, config["trained"], place)


class Model:
    """A trained system that generates images.

    Attributes:
        recipe: what it was trained by.
        trained: images seen in each phase of training.
        system: the networks, in evaluation mode.
        device: where they are.
    """

    def __init__(
        self, system: System, recipe: Recipe, trained: Mapping[str, int], device: torch.device
    ) -> None:
        self.recipe, self.trained, self.system = recipe, dict(trained), system
        self.device = device

    @property
    def image_size(self) -> int:
        """Side of generated images, pixels."""
        return self.system.image_size

    def generate(
        self,
        captions: Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        style_from: Image.Image | None = None,
        batch_size: int = 64,
    ) -> list[Image.Image]:
        """Generate ``n`` images for each caption.

        Image ``j`` of every caption has the same noise, which depends on ``seed`` and ``j`` only: the same
        call gives the same images whatever the batch size, and a longer list of captions changes nothing.

        Args:
            captions: any number of strings.
            n: images for each.
            seed: of the noise.
            style_from: an image whose style (all that the caption does not say) the results take over; they
            then
                do not differ within a caption, so ``n`` should be 1.
            batch_size: images at once.

        Returns:
            ``len(captions) * n`` images, those of the first caption first.

        Raises:
            GanvasError: an empty or endless caption, a bad number, or no trained style encoder.
        """
        images = self.generate_arrays(captions, n, seed, style_from=style_from, batch_size=batch_size)
        return [Image.fromarray(image) for batch in images for image in batch]

    @torch.inference_mode()
    def generate_arrays(
        self,
        captions: Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        style_from: Image.Image | None = None,
        same_noise: bool = True,
        batch_size: int = 64,
    ) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        """As ``generate``, but batch by batch: uint8 ``(B, H, W, 3)``.

        Without ``same_noise`` every image has noise of its own, as scores want it.
        """
        if not self.system.generates:
            raise GanvasError(
                f"'{self.recipe.name}' is a model of system {self.recipe.system}: it generates nothing"
            )
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions:
            raise GanvasError("no caption given; write at least one")
        for caption in captions:
            check_caption(caption)
        if n < 1 or n * len(captions) > MAX_IMAGES:
            raise GanvasError(f"n={n}: should be at least 1, and at most {MAX_IMAGES:,} images in all")
        num_noises = n if same_noise else n * len(captions)
        noise = (
            self._noise(num_noises, seed)
            if style_from is None
            else self._style(style_from).expand(num_noises, -1)
        )
        for start in range(0, n * len(captions), batch_size):
            numbers = range(start, min(start + batch_size, n * len(captions)))
            first, last = numbers[0] // n, numbers[-1] // n
            text = self.system.embed(captions[first : last + 1])
            text = text.rows(torch.tensor([i // n - first for i in numbers], device=self.device))
            rows = torch.tensor([i % num_noises for i in numbers])
            yield to_uint8(self.system.generate(text, noise[rows].to(self.device))[-1])

    def _noise(self, n: int, seed: int) -> Tensor:
        """``(n, Z)`` on the CPU; row ``j`` depends on ``seed`` and ``j`` alone."""
        if not 0 <= seed < 2**63:
            raise GanvasError(f"seed={seed}: should be between 0 and 2^63 - 1")
        rows = []
        with torch.random.fork_rng(devices=[]):
            for j in range(n):
                torch.manual_seed(int(np.random.SeedSequence([seed, j]).generate_state(1)[0]))
                rows.append(self.system.draw_noise(torch.empty(1)))
        return torch.cat(rows)

    def _style(self, image: Image.Image) -> Tensor:
        """``(1, Z)``: the noise that gives the style of ``image``."""
        if not self.trained.get("style"):
            raise GanvasError(
                "this model has no trained style encoder; train its recipe with training.images.style=200000"
            )
        pixels = image_to_tensor(image, self.image_size).to(self.device)
        return self.system.style_of(pixels).cpu()


def _find_model(path: Path) -> Path:
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise GanvasError(f"{path}: no such folder; give a run folder or a model folder")
    if (path / "run.json").is_file():
        raise GanvasError(f"{path}: this run has not saved a model yet; train it further")
    raise GanvasError(f"{path}: holds no model (config.json is missing)")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise GanvasError(
                f"{path}: format {config['format']} is not {FORMAT}; use a matching version of Ganvas"
            )
        if not isinstance(config["recipe"], dict) or not isinstance(config["trained"], dict):
            raise KeyError("recipe")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise GanvasError(f"{path}: is no config of a model ({type(error).__name__}: {error})") from None
    found: dict[str, Any] = config
    return found


def _load_weights(system: System, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put weights into a system; what only training needs may be missing."""
    wanted = system.state_dict()
    needed = {k for k in wanted if k.split(".", 1)[0] not in system.training_only}
    for name in sorted(needed ^ set(weights)):
        what = "is missing" if name in needed else "is unknown"
        raise GanvasError(f"{folder / 'model.safetensors'}: the tensor '{name}' {what}")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise GanvasError(
                f"{folder / 'model.safetensors'}: the tensor '{name}' is {tuple(value.shape)}, but the config"
                f" asks for {tuple(wanted[name].shape)}"
            )
    system.load_state_dict(dict(weights), strict=False)


def _model_card(recipe: Recipe, trained: Mapping[str, int]) -> str:
    seen = ", ".join(f"{images:,} in phase {phase}" for phase, images in trained.items())
    size = recipe.data.image_size
    return f"""---
library_name: ganvas
tags: [text-to-image, gan, {recipe.system}]
---

# {recipe.name}

{recipe.about}

- System: `{recipe.system}`, images of {size} x {size} pixels
- Text encoder: `{recipe.text.encoder}`
- Data: `{recipe.data.set}`
- Images seen in training: {seen}
- Made by Ganvas {__version__}
{_USE if find(recipe.system).system.generates else ""}"""


_USE = """
```python
import ganvas

model = ganvas.load("path/to/this/folder")
model.generate(["a caption"], n=4, seed=0)[0].save("image.png")
```
"""
