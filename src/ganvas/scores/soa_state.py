"""What is finished of a long work on semantic object accuracy, so that a stopped one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganvas.errors import GanvasError, RunStopped
from ganvas.pipeline import Model
from ganvas.training.checkpoint import in_words, write_atomically

STATE_FILE = "soa.json"
_FORMAT = 1
_MAX_STATE_BYTES = 10_000_000


@dataclass(frozen=True)
class ClassResult:
    """What came out for one category."""

    detected: int
    """Images in which it was found."""
    images: int
    weight: int
    """Images that the whole list asks for: its weight in SOA-I."""

    @property
    def accuracy(self) -> float:
        """Share of the images, 0 to 1."""
        return self.detected / self.images


def model_fingerprint(model: Model) -> str:
    """SHA-256 over a model's recipe and the weights that generate."""
    digest = hashlib.sha256(json.dumps(model.recipe.to_dict(), sort_keys=True).encode())
    for name, value in sorted(model.system.state_dict().items()):
        if name.split(".", 1)[0] in model.system.training_only:  # these are not saved with it
            continue
        digest.update(f"\0{name} {tuple(value.shape)} {value.dtype}\0".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class SoaState:
    """The finished categories of one work, in a JSON file that is replaced at once."""

    def __init__(self, folder: Path, made_for: Mapping[str, Any], num_images: Mapping[str, int]) -> None:
        """Open the work in ``folder``, or begin it.

        Args:
            folder: made if it does not exist.
            made_for: what the results depend on, as plain values.
            num_images: images of each category.

        Raises:
            GanvasError: it holds other work, or is damaged.
            RunStopped: it cannot be made.
        """
        self._path, self._made_for = folder / STATE_FILE, json.loads(json.dumps(made_for))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunStopped(f"{folder}: cannot be made ({in_words(error)})") from None
        self.results: dict[str, ClassResult] = self._read(num_images) if self._path.exists() else {}

    def _read(self, num_images: Mapping[str, int]) -> dict[str, ClassResult]:
        from pydantic import TypeAdapter, ValidationError

        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_STATE_BYTES)
            tree = json.loads(content)
            if tree["format"] != _FORMAT:
                raise ValueError(f"format {tree['format']}")
            made_for, classes = dict(tree["made_for"]), tree["classes"]
            results = TypeAdapter(dict[str, ClassResult]).validate_python(classes)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            reason = " ".join(str(error).split())[:120]
            raise GanvasError(f"{self._path}: is no file of SOA results ({reason}); remove it") from None
        if made_for != self._made_for:
            parts = [key for key in self._made_for if made_for.get(key) != self._made_for[key]]
            raise GanvasError(
                f"{self._path}: holds results of another {' and '.join(parts) or 'work'}; give another folder"
            )
        for name, result in results.items():
            if name not in num_images or not 0 <= result.detected <= result.images == num_images[name]:
                raise GanvasError(f"{self._path}: its category '{name}' is damaged; remove the file")
        return results

    def keep(self, name: str, result: ClassResult) -> None:
        """Write down what came out for a category."""
        self.results[name] = result
        classes = {key: asdict(value) for key, value in self.results.items()}
        tree = {"format": _FORMAT, "made_for": self._made_for, "classes": classes}
        write_atomically(self._path, json.dumps(tree, indent=1) + "\n")
