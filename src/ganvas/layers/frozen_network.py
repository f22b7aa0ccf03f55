"""A frozen network in whose features images are compared. It learns nothing and is not saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.imagenet import ResNet50, Vgg19
from ganvas.networks.weights import fetched, load_weights

Name = Literal["resnet50", "vgg19", "lite0"]
TITLES = {"resnet50": "ResNet-50", "vgg19": "VGG-19", "lite0": "EfficientNet-Lite0"}
_URLS = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


class FrozenNetwork(nn.Module):
    """Images to vectors: 1,000 logits, or the 1,280 features of EfficientNet-Lite0.

    It follows its parent to devices, but its weights are none of the parent's parameters and in none of its
    checkpoints; ``start`` puts them in place.

    Args:
        name: which network.
        weights: ``pretrained``, ``random``, or the path of a file.
        side: of what it sees, pixels.

    Raises:
        GanvasError: its packages are missing.
    """

    def __init__(self, name: Name, weights: str = "pretrained", side: int = 224) -> None:
        super().__init__()
        self.name, self.weights, self.side = name, weights, side
        network: nn.Module
        if name == "lite0":
            from ganvas.networks.lite0 import lite0

            network, self._file = lite0()
        else:
            network = {"resnet50": ResNet50, "vgg19": Vgg19}[name]()
        self._hidden = [network.eval().requires_grad_(False)]

    def start(self) -> None:
        """Put the weights in place.

        Raises:
            GanvasError: they are not here, cannot be fetched, or are others.
        """
        if self.weights == "random":
            return
        given = None if self.weights == "pretrained" else Path(self.weights)
        if self.name == "lite0":
            load_weights(self._hidden[0], given or self._file, "lite0", prefix="network.")
        else:
            load_weights(self._hidden[0], given or fetched(self.name, _URLS[self.name]), self.name)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, D)`` of images ``(B, 3, S, S)`` in [-1, 1]."""
        if images.shape[-1] != self.side:
            shrinks = images.shape[-1] > self.side
            images = images.to(torch.promote_types(images.dtype, torch.float32))  # a CPU cannot in bfloat16
            images = F.interpolate(images, size=self.side, mode="bilinear", antialias=shrinks)
        if self.name == "lite0":
            images = (127.5 * images + 0.5) / 128  # as it was trained
        else:
            mean, std = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
            images = ((images + 1) / 2 - mean) / std
        return cast(Tensor, self._hidden[0](images))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._hidden[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
