"""The classifiers that scores ask: trained with Ganvas, or any other network that gives logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError, did_you_mean
from ganvas.pipeline import load
from ganvas.systems.classifier import Classifier

Logits = Callable[[npt.NDArray[np.uint8]], Tensor]
"""Images, uint8 ``(B, H, W, 3)``, to logits ``(B, K)``. It makes the network's input of them."""


@dataclass(frozen=True, kw_only=True)
class LogitSource:
    """A network with one set of classes, as scores ask it."""

    name: str
    digest: str
    """Of its weights; a protocol holds name and digest."""
    logits: Logits
    has_background: bool = False
    """One of its classes is none of the data's. Classifiers of ours have no such class."""


def load_classifier(name: str) -> tuple[Classifier, str]:
    """The classifier that ships for the data set ``name``, or the one in the folder ``name``, on the CPU, and
    the name of its recipe.

    Raises:
        GanvasError: there is neither.
    """
    shipped = files("ganvas.scores") / "attributes" / name
    if name and "/" not in name and (shipped / "config.json").is_file():
        with as_file(shipped) as folder:
            return _opened(folder)
    if not Path(name).is_dir():
        raise GanvasError(
            f"classifier '{name}': none of this name ships, and there is no such folder; train one with"
            " 'ganvas train classifier data.set=NAME --data DIR' and give its run folder"
        )
    return _opened(Path(name))


def _opened(folder: Path) -> tuple[Classifier, str]:
    model = load(folder, device="cpu")
    system = model.system
    if not isinstance(system, Classifier):
        raise GanvasError(f"{folder}: holds no classifier (system 'classifier')")
    return system, model.recipe.name


def head_of(classifier: Classifier, head: str | None, name: str) -> LogitSource:
    """One head of a classifier of ours.

    Args:
        classifier: that was loaded.
        head: such as ``class``; by default the one with the most labels.
        name: of the classifier, for protocols and errors.

    Raises:
        GanvasError: it has no such head.
    """
    most = max(classifier.labels, key=lambda kind: len(classifier.labels[kind]))
    chosen = most if head is None else head
    if chosen not in classifier.labels:
        raise GanvasError(
            f"classifier '{name}': has no head '{chosen}'; {did_you_mean(chosen, classifier.labels)}"
        )

    @torch.inference_mode()
    def logits(batch: npt.NDArray[np.uint8]) -> Tensor:
        return classifier.logits(to_input(batch))[chosen]

    return LogitSource(name=f"{name} {chosen}", digest=weights_digest(classifier), logits=logits)


def to_input(batch: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 ``(B, H, W, 3)`` to ``(B, 3, H, W)`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names and values of a network's weights, its first 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
