"""The classifiers that scores ask: trained with Ganvas, ImageNet's Inception, or any other network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError, did_you_mean
from ganvas.networks.inception import InceptionClassifier
from ganvas.networks.weights import inception_weights, load_weights
from ganvas.pipeline import load
from ganvas.scores.features import BACKENDS, Extractor
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
    kind: str = "class"
    """What it tells apart: ``class``, or an attribute of the data."""
    classes: tuple[str, ...] | None = None
    """The data's names of its K classes, where they are known."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else of it belongs to a protocol; plain values."""


IMAGENET = ("inception-fid", "inception-torchvision")
"""The networks that were trained on ImageNet, by the names of their features: see ``imagenet_classifier``."""


def imagenet_classifier(name: str, *, weights: str | None = None, device: str = "auto") -> LogitSource:
    """An Inception as it came from ImageNet.

    ``inception-fid`` is the TensorFlow graph of 2015, whose pool3 features meet the weights of its softmax
    without their bias, 1,008 outputs: the Inception score of Salimans et al. (2016), and that of COCO in all
    papers since StackGAN. ``inception-torchvision`` is torchvision's, 1,000 outputs with their bias, as
    StackGAN++ watches its training. Sizes, filters and ranges of pixels are those of the features of the
    same name.

    Args:
        name: one of ``IMAGENET``.
        weights: a path in place of the file that is fetched once; or set ``GANVAS_WEIGHTS_NAME``.
        device: auto, cpu, cuda or mps.

    Raises:
        GanvasError: no such network, or its weights are missing or do not fit.
    """
    if name not in IMAGENET:
        raise GanvasError(f"no classifier '{name}' of ImageNet; {did_you_mean(name, IMAGENET)}")
    extractor = Extractor(
        replace(BACKENDS[name], build=partial(_build_classifier, name)), weights=weights, device=device
    )
    about = dict(extractor.about)
    return LogitSource(
        name=name,
        digest=str(about.pop("features_weights"))[:16],
        logits=lambda batch: torch.from_numpy(np.concatenate(list(extractor.extract([batch])))),
        about={key.replace("features_", "classifier_"): value for key, value in about.items() if "_" in key},
    )


def _build_classifier(name: str, weights: str | None) -> nn.Module:
    network = InceptionClassifier(tensorflow=name == "inception-fid")
    load_weights(network, inception_weights(name, weights), name)
    return network


def open_classifier(name: str, head: str | None = None, *, device: str = "auto") -> LogitSource:
    """What scores ask, by one name.

    Args:
        name: ``inception-fid`` or ``inception-torchvision``, alone or with the path of their weights behind a
            colon; a data set whose classifier ships; or the folder of a trained one.
        head: of a classifier with several.
        device: auto, cpu, cuda or mps.

    Raises:
        GanvasError: there is no such classifier.
    """
    kind, _, weights = name.partition(":")
    if kind in IMAGENET:
        return imagenet_classifier(kind, weights=weights or None, device=device)
    classifier, recipe = load_classifier(name, device=device)
    return head_of(classifier, head, recipe)


def load_classifier(name: str, *, device: str = "cpu") -> tuple[Classifier, str]:
    """The classifier that ships for the data set ``name``, or the one in the folder ``name``, and the name of
    its recipe.

    Raises:
        GanvasError: there is neither.
    """
    shipped = files("ganvas.scores") / "attributes" / name
    if name and "/" not in name and (shipped / "config.json").is_file():
        with as_file(shipped) as folder:
            return _opened(folder, device)
    if not Path(name).is_dir():
        raise GanvasError(
            f"classifier '{name}': none of this name ships, and there is no such folder; train one with"
            " 'ganvas train classifier data.set=NAME --data DIR' and give its run folder"
        )
    return _opened(Path(name), device)


def _opened(folder: Path, device: str) -> tuple[Classifier, str]:
    model = load(folder, device=device)
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
        images = to_input(batch).to(next(classifier.parameters()).device)
        return classifier.logits(images)[chosen].cpu()

    return LogitSource(
        name=f"{name} {chosen}",
        digest=weights_digest(classifier),
        logits=logits,
        kind=chosen,
        classes=classifier.labels[chosen],
    )


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
