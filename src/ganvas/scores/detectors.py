"""Object detectors, which say what an image shows: YOLOv3 from Darknet's files, and torchvision's.

Nothing is fetched: files of weights are given by path, and their digest is part of a score's protocol.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError, did_you_mean
from ganvas.scores.darknet import load_darknet
from ganvas.training.device import choose_device

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,"
    "tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,"
    "keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
COCO_CATEGORIES = tuple(_NAMES.split(","))
"""The 80 categories of COCO in their order, which is also that of YOLO's outputs and of SOA's labels."""

_OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
"""What Darknet's list of names calls them."""
_MISSING_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Of the ids 1 to 90 that COCO gives its categories."""
_CHUNK = 32
_MAX_NAMES_BYTES = 100_000
_MAX_SIZE = 2048


@dataclass(frozen=True)
class Detections:
    """The objects of one image, the surest first."""

    labels: tuple[str, ...]
    """Names of categories."""
    scores: npt.NDArray[np.float32]
    """``(N,)``, 0 to 1."""
    boxes: npt.NDArray[np.float32]
    """``(N, 4)``: left, top, width, height as fractions of the image."""


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Which detector, and what counts as detected. The defaults are those of the official SOA code."""

    detector: str = "darknet"
    """``darknet`` or ``torchvision``."""
    network: str = "yolov3"
    """For ``darknet``: ``yolov3``, ``yolov3-tiny``, or the path of a ``.cfg``; for ``torchvision``: the name
    of one of its detectors, such as ``fasterrcnn_resnet50_fpn``."""
    weights: str
    """The path of the file: Darknet's ``.weights``; for ``torchvision`` a state dict, ``.pth`` or
    ``.safetensors``."""
    names: str | None = None
    """``darknet``: the path of a list of names, one a line; by default COCO's."""
    input_size: int = 256
    """``darknet``: side of the network's input, pixels; torchvision's detectors choose their own."""
    confidence: float = 0.5
    """The least that counts."""
    overlap: float = 0.4
    """Of two boxes of one category whose intersection over union is larger, the less sure one is dropped."""
    threshold_on: Literal["objectness", "score"] = "objectness"
    """``darknet``: what ``confidence`` is compared with: objectness as in the official SOA code, or the score
    (objectness times the probability of the category) as in Darknet and OpenCV."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""


class Detector(ABC):
    """Finds objects in images.

    Attributes:
        categories: what it can find.
        about: what fixes its detections, as plain values for a score's protocol.
    """

    categories: tuple[str, ...]
    about: Mapping[str, Any]

    @abstractmethod
    def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
        """The objects of each image.

        Args:
            images: ``(B, H, W, 3)``.
        """


class DarknetDetector(Detector):
    """YOLOv3, YOLOv3-tiny, and what else a ``.cfg`` describes with the same layers."""

    def __init__(self, settings: DetectorSettings) -> None:
        """Read the files.

        Raises:
            GanvasError: a setting makes no sense, a file cannot be read, or they do not belong together.
        """
        size = settings.input_size
        if not 32 <= size <= _MAX_SIZE or size % 32:
            raise GanvasError(f"input_size={size}: should be a multiple of 32, from 32 to {_MAX_SIZE}")
        weights = Path(settings.weights)
        digest = file_digest(weights)
        self._settings, self._device = settings, choose_device(settings.device)
        self._network = load_darknet(settings.network, weights, size).to(self._device)
        self.categories = _categories(settings, self._network.classes)
        self.about = {
            "detector": "darknet",
            "layers": text_digest(repr(self._network.layers)),
            "weights": digest,
            "categories": "coco"
            if self.categories == COCO_CATEGORIES
            else text_digest(repr(self.categories)),
            "input_size": size,
            "resize": "bilinear, antialiased",
            "confidence": settings.confidence,
            "threshold_on": settings.threshold_on,
            "overlap": settings.overlap,
        }

    @torch.inference_mode()
    def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
        """The objects of each image of ``(B, H, W, 3)``."""
        found: list[Detections] = []
        size = (self._settings.input_size,) * 2
        for first in range(0, len(images), _CHUNK):
            pixels = _pixels(images[first : first + _CHUNK], self._device)
            if pixels.shape[-2:] != size:
                pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp_(0, 1)
            found += [self._detections(image) for image in self._network(pixels)]
        return found

    def _detections(self, places: Tensor) -> Detections:
        """Those of one image, from ``(N, 5 + classes)``."""
        probabilities, classes = places[:, 5:].max(dim=1)
        scores = places[:, 4] * probabilities
        judged = places[:, 4] if self._settings.threshold_on == "objectness" else scores
        sure = judged >= self._settings.confidence
        centres, sizes = places[sure, :2], places[sure, 2:4]
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
        return _distinct(corners, scores[sure], classes[sure], self.categories, self._settings.overlap)


class TorchvisionDetector(Detector):
    """One of torchvision's detectors, trained on COCO."""

    def __init__(self, settings: DetectorSettings) -> None:
        """Build the network and read its weights.

        Raises:
            GanvasError: torchvision is missing, knows no such detector, or the weights are of another one.
        """
        weights = Path(settings.weights)
        digest = file_digest(weights)
        self._settings, self._device = settings, choose_device(settings.device)
        self._network = _torchvision_network(settings.network, weights).to(self._device)
        self.categories = COCO_CATEGORIES
        self.about = {
            "detector": "torchvision",
            "network": settings.network,
            "weights": digest,
            "confidence": settings.confidence,
            "overlap": settings.overlap,
        }

    @torch.inference_mode()
    def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
        """The objects of each image of ``(B, H, W, 3)``."""
        height, width = images.shape[1:3]
        found: list[Detections] = []
        for first in range(0, len(images), _CHUNK):
            pixels = _pixels(images[first : first + _CHUNK], self._device)
            for image in self._network(list(pixels)):
                sure = image["scores"] >= self._settings.confidence
                corners = image["boxes"][sure] / pixels.new_tensor([width, height, width, height])
                numbers = _NUMBER_OF_ID.to(self._device)[image["labels"][sure]]
                known = numbers >= 0
                found.append(
                    _distinct(
                        corners[known],
                        image["scores"][sure][known],
                        numbers[known],
                        self.categories,
                        self._settings.overlap,
                    )
                )
        return found


def _numbers_of_ids() -> Tensor:
    """COCO's ids 0 to 90 to the place among the 80 categories; -1 where there is none."""
    numbers = torch.full((91,), -1)
    ids = [number for number in range(1, 91) if number not in _MISSING_IDS]
    numbers[ids] = torch.arange(len(ids))
    return numbers


_NUMBER_OF_ID = _numbers_of_ids()
_TORCHVISION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)

DETECTORS: Mapping[str, Callable[[DetectorSettings], Detector]] = {
    "darknet": DarknetDetector,
    "torchvision": TorchvisionDetector,
}
"""Kinds of detectors by name."""


def load_detector(settings: DetectorSettings) -> Detector:
    """The detector that the settings ask for.

    Raises:
        GanvasError: there is no such detector, a number makes no sense, or a file cannot be used.
    """
    if settings.detector not in DETECTORS:
        raise GanvasError(
            f"detector '{settings.detector}': no such detector; {did_you_mean(settings.detector, DETECTORS)}"
        )
    for name, value in (("confidence", settings.confidence), ("overlap", settings.overlap)):
        if not 0 <= value <= 1:
            raise GanvasError(f"{name}={value}: should be from 0 to 1")
    if settings.threshold_on not in ("objectness", "score"):
        raise GanvasError(f"threshold_on='{settings.threshold_on}': should be 'objectness' or 'score'")
    return DETECTORS[settings.detector](settings)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        GanvasError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise GanvasError(f"{path}: the detector's weights cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text, the first 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pixels(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """``(B, 3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def _categories(settings: DetectorSettings, classes: int) -> tuple[str, ...]:
    """The names of a Darknet network's classes, in COCO's spelling."""
    if settings.names is None:
        if classes != len(COCO_CATEGORIES):
            raise GanvasError(
                f"{settings.network}: tells {classes} classes apart, and COCO has {len(COCO_CATEGORIES)};"
                " give the list of their names"
            )
        return COCO_CATEGORIES
    path = Path(settings.names)
    try:
        if path.stat().st_size > _MAX_NAMES_BYTES:
            raise GanvasError(f"{path}: more than {_MAX_NAMES_BYTES:,} bytes, so it is no list of names")
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise GanvasError(f"{path}: is no text; give a list of names, one a line") from None
    if len(names) != classes or len(set(names)) != classes:
        raise GanvasError(
            f"{path}: holds {len(set(names))} names, and the network tells {classes} classes apart"
        )
    return tuple(_OTHER_NAMES.get(name, name) for name in names)


def _torchvision_network(name: str, weights: Path) -> nn.Module:
    try:
        detection = import_module("torchvision.models.detection")
    except ImportError:
        raise GanvasError(
            "detector 'torchvision' needs torchvision; install it with pip install 'ganvas[soa]'"
        ) from None
    if name not in _TORCHVISION:
        raise GanvasError(
            f"network '{name}': torchvision has no such detector for COCO; {did_you_mean(name, _TORCHVISION)}"
        )
    network: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91)
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = " ".join(str(error).split())[:150]
        raise GanvasError(f"{weights}: holds no weights of {name} ({reason})") from None
    return network.eval().requires_grad_(False)


def _distinct(
    corners: Tensor, scores: Tensor, classes: Tensor, categories: tuple[str, ...], overlap: float
) -> Detections:
    """Non-maximum suppression within each category.

    Args:
        corners: ``(N, 4)``: left, top, right, bottom, fractions of the image.
        scores: ``(N,)``.
        classes: ``(N,)``, places in ``categories``.
        categories: their names.
        overlap: largest intersection over union of two boxes of one category.
    """
    box = corners.float().cpu().numpy().clip(0, 1)
    score, number = scores.float().cpu().numpy(), classes.cpu().numpy()
    left = np.argsort(-score, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        left = left[(number[left] != number[best]) | (_overlaps(box[best], box[left]) <= overlap)]
    box = box[kept]
    return Detections(
        labels=tuple(categories[number[index]] for index in kept),
        scores=score[kept],
        boxes=np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1),
    )


def _overlaps(one: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of a box with each of others."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    area, areas = (one[2:] - one[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(axis=1)
    overlaps: npt.NDArray[np.float32] = common / np.maximum(area + areas - common, 1e-12)
    return overlaps
