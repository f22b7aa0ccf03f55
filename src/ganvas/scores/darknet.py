"""YOLOv3 as Darknet stores it, in torch: a list of layers and a flat file of float32 numbers.

Redmon and Farhadi, "YOLOv3: an incremental improvement", 2018. OpenCV reads such files only before version 5;
here nothing but torch is needed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.scores.darknet_layers import (
    Convolution,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
    layers_of,
)

_MAX_WEIGHTS = 500_000_000
_LONGEST_HEADER = 20  # bytes
_SLOPE = 0.1  # of Darknet's leaky ReLU
_EPSILON = 1e-5  # of Darknet's batch normalisation


class Darknet(nn.Module):
    """A network of Darknet's layers, for prediction: batch normalisation is folded into the convolutions.

    Attributes:
        layers: what it is made of.
        classes: how many the heads tell apart.
    """

    def __init__(self, layers: Sequence[Layer], name: str = "the network") -> None:
        """Make the network; its weights are of no use before ``load``.

        Raises:
            GanvasError: there is no head, the heads disagree, or layers do not fit together.
        """
        super().__init__()
        self.layers, self._name = tuple(layers), name
        heads = {layer.classes for layer in layers if isinstance(layer, Yolo)}
        if len(heads) != 1:
            raise GanvasError(f"{name}: has {'no [yolo] layer' if not heads else 'heads of several sizes'}")
        self.classes = heads.pop()
        self._widths = self._checked_widths()
        self._kept = {source for layer in layers for source in _sources(layer)}
        if self.num_weights > _MAX_WEIGHTS:
            raise GanvasError(f"{name}: asks for {self.num_weights:,} weights; at most {_MAX_WEIGHTS:,}")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width_in, layer.filters, layer.size, layer.stride, layer.padding)
            for layer, width_in in self._convolutions()
        )
        self.eval().requires_grad_(False)

    def _checked_widths(self) -> list[int]:
        """Channels that go into each layer, and those that come out of the last."""
        widths = [3]
        for index, layer in enumerate(self.layers):
            width = widths[-1]
            if isinstance(layer, Convolution):
                width = layer.filters
            elif isinstance(layer, Route):
                width = sum(widths[source + 1] for source in layer.sources)
            elif isinstance(layer, Shortcut) and widths[layer.source + 1] != width:
                raise GanvasError(
                    f"{self._name}, layer {index}: adds {widths[layer.source + 1]} channels to {width}"
                )
            elif isinstance(layer, Yolo) and width != layer.channels:
                raise GanvasError(
                    f"{self._name}, layer {index}: {len(layer.anchors)} anchors and {layer.classes} classes"
                    f" need {layer.channels} channels, and there are {width}"
                )
            widths.append(width)
        return widths

    def _convolutions(self) -> list[tuple[Convolution, int]]:
        pairs = zip(self.layers, self._widths, strict=False)
        return [(layer, width) for layer, width in pairs if isinstance(layer, Convolution)]

    @property
    def num_weights(self) -> int:
        """Numbers that a file of weights holds."""
        return sum(
            layer.filters * (width * layer.size**2 + (4 if layer.normalised else 1))
            for layer, width in self._convolutions()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Boxes at every place of every head.

        Args:
            images: ``(B, 3, S, S)`` in [0, 1].

        Returns:
            ``(B, N, 5 + classes)``: centre x, y, width, height as fractions of the image, objectness, and the
            probability of each class given that there is an object.
        """
        x, kept, found = images, dict[int, Tensor](), []
        convolutions = iter(self.convolutions)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Convolution):
                x = next(convolutions)(x)
                x = F.leaky_relu(x, _SLOPE, inplace=True) if layer.leaky else x
            elif isinstance(layer, MaxPool):
                before, behind = layer.margin // 2, layer.margin - layer.margin // 2
                x = F.pad(x, (before, behind, before, behind), value=-torch.inf)
                x = F.max_pool2d(x, layer.size, layer.stride)
            elif isinstance(layer, Route):
                x = torch.cat([kept[source] for source in layer.sources], dim=1)
            elif isinstance(layer, Shortcut):
                x = x + kept[layer.source]
            elif isinstance(layer, Upsample):
                x = F.interpolate(x, scale_factor=layer.factor, mode="nearest")
            else:
                found.append(_boxes(x, layer, images.shape[-2:]))
            if index in self._kept:
                kept[index] = x
        return torch.cat(found, dim=1)

    def load(self, path: Path) -> None:
        """Take over the weights of a file.

        Raises:
            GanvasError: it cannot be read, or holds another number of weights.
        """
        numbers = torch.from_numpy(_read_weights(path, self.num_weights, self._name))
        position = 0

        def take(*shape: int) -> Tensor:
            nonlocal position
            count = int(np.prod(shape))
            position += count
            return numbers[position - count : position].reshape(shape)

        for (layer, width), convolution in zip(self._convolutions(), self.convolutions, strict=True):
            bias = take(layer.filters)
            scale = torch.ones(())
            if layer.normalised:
                gain, mean, variance = take(layer.filters), take(layer.filters), take(layer.filters)
                scale = gain / torch.sqrt(variance + _EPSILON)
                bias = bias - mean * scale
            weight = take(layer.filters, width, layer.size, layer.size)
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            convolution.weight.copy_(weight * scale.reshape(-1, 1, 1, 1))
            convolution.bias.copy_(bias)


def _sources(layer: Layer) -> tuple[int, ...]:
    if isinstance(layer, Route):
        return layer.sources
    return (layer.source,) if isinstance(layer, Shortcut) else ()


def _boxes(x: Tensor, head: Yolo, size: Sequence[int]) -> Tensor:
    """``(B, A * (5 + C), H, W)`` to ``(B, A * H * W, 5 + C)``, as equation 1 of YOLOv3 has it."""
    batch, _, height, width = x.shape
    x = x.reshape(batch, len(head.anchors), 5 + head.classes, height, width).permute(0, 1, 3, 4, 2)
    columns = torch.arange(width, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None]
    anchors = x.new_tensor(head.anchors)[None, :, None, None]
    parts = [
        (x[..., :1].sigmoid() + columns[:, None]) / width,
        (x[..., 1:2].sigmoid() + rows[..., None]) / height,
        x[..., 2:4].exp() * anchors / x.new_tensor([size[1], size[0]]),
        x[..., 4:].sigmoid(),
    ]
    return torch.cat(parts, dim=-1).flatten(1, 3)


def _read_weights(path: Path, expected: int, network: str) -> npt.NDArray[np.float32]:
    """The numbers of a file, after version (3 x int32) and images seen (int64, once int32)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(12)
            if size < _LONGEST_HEADER:
                raise GanvasError(f"{path}: is too short for a file of Darknet's weights")
            major, minor, _ = struct.unpack("<3i", header)
            file.seek(8 if 10 * major + minor >= 2 else 4, os.SEEK_CUR)
            held = size - file.tell()
            if held != 4 * expected:
                raise GanvasError(
                    f"{path}: holds {held / 4:,.0f} weights, but {network} asks for {expected:,}; give the"
                    " network that these weights belong to"
                )
            numbers = np.fromfile(file, "<f4", expected)
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    if not np.isfinite(numbers).all():
        raise GanvasError(f"{path}: holds numbers that are not finite; copy it again")
    return cast("npt.NDArray[np.float32]", numbers.astype(np.float32, copy=False))


def load_darknet(network: str, weights: Path, image_size: int) -> Darknet:
    """A network with its weights.

    Args:
        network: ``yolov3``, ``yolov3-tiny``, or the path of a ``.cfg``.
        weights: Darknet's file.
        image_size: side of its input, pixels; the layers must fit together at it.

    Raises:
        GanvasError: a file cannot be read, or they do not belong together.
    """
    with torch.device("meta"):  # nothing is computed before all is known to fit
        made = Darknet(layers_of(network), network)
        try:
            made(torch.empty(1, 3, image_size, image_size))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise GanvasError(
                f"{network}: its layers do not fit together for {image_size} px images ({reason})"
            ) from None
    made.to_empty(device="cpu")
    made.load(weights)
    return made
