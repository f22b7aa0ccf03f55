"""The layers of Darknet's networks: those of YOLOv3, known by name, and those that a ``.cfg`` lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ganvas.errors import GanvasError, did_you_mean

_MAX_CONFIG_BYTES = 1_000_000
_MAX_LAYERS = 1_000
_MAX_NUMBER = 100_000


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A square convolution, with batch normalisation or a bias."""

    filters: int
    size: int
    stride: int = 1
    normalised: bool = True
    leaky: bool = True
    padding: int = 0


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """The largest of each ``size`` x ``size`` pixels; the margin is half before and half behind."""

    size: int
    stride: int
    margin: int


@dataclass(frozen=True)
class Route:
    """Outputs of earlier layers, one behind the other in the channels."""

    sources: tuple[int, ...]


@dataclass(frozen=True)
class Shortcut:
    """The output of the layer before plus that of an earlier one."""

    source: int


@dataclass(frozen=True)
class Upsample:
    """Each pixel ``factor`` x ``factor`` times."""

    factor: int


@dataclass(frozen=True)
class Yolo:
    """Where boxes are read off the layer before."""

    anchors: tuple[tuple[float, float], ...]
    """Width and height of the boxes that it starts from, pixels of the network's input."""
    classes: int

    @property
    def channels(self) -> int:
        """Of the layer before: for each anchor a box, objectness and classes."""
        return len(self.anchors) * (5 + self.classes)


Layer = Convolution | MaxPool | Route | Shortcut | Upsample | Yolo


def _convolutions(*layers: tuple[int, int], stride: int = 1) -> list[Layer]:
    return [
        Convolution(filters=filters, size=size, stride=stride, padding=size // 2) for filters, size in layers
    ]


def _head(anchors: Sequence[tuple[float, float]], classes: int) -> list[Layer]:
    filters = len(anchors) * (5 + classes)
    return [
        Convolution(filters=filters, size=1, normalised=False, leaky=False),
        Yolo(tuple(anchors), classes),
    ]


def yolov3(classes: int = 80) -> list[Layer]:
    """The 107 layers of YOLOv3: Darknet-53 and three heads, coarse to fine."""
    anchors = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]
    layers = _convolutions((32, 3))
    for width, num_blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        layers += _convolutions((width, 3), stride=2)
        for _ in range(num_blocks):
            layers += [*_convolutions((width // 2, 1), (width, 3)), Shortcut(len(layers) - 1)]
    for scale, (width, source) in enumerate(((512, None), (256, 61), (128, 36))):
        if source is not None:
            layers.append(Route((len(layers) - 4,)))
            layers += [*_convolutions((width, 1)), Upsample(2)]
            layers.append(Route((len(layers) - 1, source)))
        layers += _convolutions(*[(width, 1), (2 * width, 3)] * 3)
        layers += _head(anchors[6 - 3 * scale : 9 - 3 * scale], classes)
    return layers


def yolov3_tiny(classes: int = 80) -> list[Layer]:
    """The 24 layers of YOLOv3-tiny."""
    anchors = [(10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)]
    layers: list[Layer] = []
    for width in (16, 32, 64, 128, 256, 512):
        layers += [
            *_convolutions((width, 3)),
            MaxPool(size=2, stride=1 if width == 512 else 2, margin=1),
        ]
    layers += [*_convolutions((1024, 3), (256, 1), (512, 3)), *_head(anchors[3:], classes)]
    layers.append(Route((13,)))
    layers += [*_convolutions((128, 1)), Upsample(2)]
    layers += [Route((len(layers) - 1, 8)), *_convolutions((256, 3)), *_head(anchors[:3], classes)]
    return layers


KNOWN = {"yolov3": yolov3, "yolov3-tiny": yolov3_tiny}
"""Networks whose layers need no ``.cfg``."""


def layers_of(network: str) -> list[Layer]:
    """The layers of a network known by name, or of a ``.cfg``.

    Args:
        network: a name of ``KNOWN``, or the path of a Darknet ``.cfg``.

    Raises:
        GanvasError: it is neither, or the file asks for something unknown.
    """
    if network in KNOWN:
        return KNOWN[network]()
    path = Path(network)
    if path.suffix != ".cfg" and not path.exists():
        known = did_you_mean(network, KNOWN)
        raise GanvasError(f"network '{network}': no network of Darknet is called so ({known}), and no .cfg")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
        if len(content) > _MAX_CONFIG_BYTES:
            raise GanvasError(f"{path}: more than {_MAX_CONFIG_BYTES:,} bytes, so it is no Darknet cfg")
        return parsed(content.decode(), str(path))
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise GanvasError(f"{path}: is no text, so it is no Darknet cfg") from None


def parsed(text: str, name: str) -> list[Layer]:
    """The layers that a ``.cfg`` describes.

    Args:
        text: of the file.
        name: how errors call it.

    Raises:
        GanvasError: a line or a layer cannot be understood.
    """
    sections: list[_Section] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.split("#")[0].strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            sections.append(_Section(f"{name}, line {number}", stripped[1:-1], {}))
        elif "=" in stripped and sections:
            key, value = stripped.split("=", 1)
            sections[-1].options[key.strip()] = value.strip()
        elif stripped and not stripped.startswith(";"):
            raise GanvasError(f"{name}, line {number}: is neither [section] nor option=value of one")
    if not sections or sections[0].kind not in ("net", "network"):
        raise GanvasError(f"{name}: does not begin with [net], so it is no Darknet cfg")
    if len(sections) > _MAX_LAYERS:
        raise GanvasError(f"{name}: more than {_MAX_LAYERS:,} layers")
    return [section.layer(index) for index, section in enumerate(sections[1:])]


@dataclass(frozen=True)
class _Section:
    where: str
    kind: str
    options: dict[str, str]

    def layer(self, index: int) -> Layer:
        makers = {
            "convolutional": self._convolution,
            "maxpool": self._max_pool,
            "route": lambda: Route(self._sources("layers", index)),
            "shortcut": lambda: self._shortcut(index),
            "upsample": lambda: Upsample(self._number("stride", 2)),
            "yolo": self._yolo,
        }
        if self.kind not in makers:
            raise GanvasError(
                f"{self.where}: layer [{self.kind}] is not read here; known: {', '.join(makers)}"
            )
        return cast(Layer, makers[self.kind]())

    def _convolution(self) -> Convolution:
        size, activation = self._number("size", 1), self.options.get("activation", "logistic")
        if activation not in ("leaky", "linear"):
            raise GanvasError(
                f"{self.where}: activation '{activation}' is not read here; known: leaky, linear"
            )
        for option in ("groups", "dilation"):
            if self._number(option, 1) != 1:
                raise GanvasError(f"{self.where}: {option}={self.options[option]} is not read here")
        pads = self._number("pad", 0, least=0)
        return Convolution(
            filters=self._number("filters", 1),
            size=size,
            stride=self._number("stride", 1),
            normalised=bool(self._number("batch_normalize", 0, least=0)),
            leaky=activation == "leaky",
            padding=size // 2 if pads else self._number("padding", 0, least=0),
        )

    def _max_pool(self) -> MaxPool:
        stride = self._number("stride", 1)
        size = self._number("size", stride)
        return MaxPool(size=size, stride=stride, margin=self._number("padding", size - 1, least=0))

    def _shortcut(self, index: int) -> Shortcut:
        if self.options.get("activation", "linear") != "linear":
            raise GanvasError(f"{self.where}: a shortcut with an activation is not read here")
        sources = self._sources("from", index)
        if len(sources) != 1:
            raise GanvasError(f"{self.where}: a shortcut from {len(sources)} layers is not read here")
        return Shortcut(sources[0])

    def _yolo(self) -> Yolo:
        numbers = self._numbers("anchors", float)
        if len(numbers) % 2 or not all(0 < number < _MAX_NUMBER for number in numbers):
            raise GanvasError(f"{self.where}: anchors should be pairs of numbers above 0")
        anchors = list(zip(numbers[::2], numbers[1::2], strict=True))
        mask = [int(n) for n in self._numbers("mask", int)] if "mask" in self.options else range(len(anchors))
        if not all(0 <= number < len(anchors) for number in mask):
            raise GanvasError(f"{self.where}: mask names an anchor beyond the {len(anchors)} given")
        return Yolo(tuple(anchors[number] for number in mask), self._number("classes", 20))

    def _sources(self, key: str, index: int) -> tuple[int, ...]:
        """Layers by number; below 0 they count back from this one."""
        found = [int(number) for number in self._numbers(key, int)]
        sources = tuple(number + index if number < 0 else number for number in found)
        if not all(0 <= source < index for source in sources):
            raise GanvasError(
                f"{self.where}: {key}={self.options[key]} names a layer that is not before this one"
            )
        return sources

    def _number(self, key: str, default: int, least: int = 1) -> int:
        text = self.options.get(key, str(default))
        if not text.isascii() or not text.isdecimal() or len(text) > 6 or int(text) < least:
            raise GanvasError(f"{self.where}: {key}={text[:20]} should be a whole number of {least} or more")
        return int(text)

    def _numbers(self, key: str, kind: type[int] | type[float]) -> list[float]:
        try:
            return [kind(part) for part in self.options[key].split(",")]
        except KeyError:
            raise GanvasError(f"{self.where}: [{self.kind}] has no {key}") from None
        except ValueError:
            raise GanvasError(f"{self.where}: {key}={self.options[key][:40]} should be numbers") from None
