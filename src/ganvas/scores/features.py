"""Features of images, by networks that no scored system was trained with.

A back-end fixes everything between pixels and features: the network, its weights, the size that it sees, the
filter that brings images there, the range of values, the precision. All of that is part of a score's
protocol; the same images give another distance with another back-end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError, did_you_mean
from ganvas.networks.inception import Inception
from ganvas.networks.weights import digest, fold_normalisation, inception_weights, load_weights, variable
from ganvas.training.device import choose_device

Resize = Literal["bilinear, antialiased", "bicubic, antialiased", "bilinear, TensorFlow 1"]
Precision = Literal["float32", "bfloat16"]
DEFAULT = "lite0"
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A kind of features."""

    name: str
    about: str
    """One sentence for people."""
    distance: Literal["fid", "frechet"] = "frechet"
    """What a Frechet distance in these features is called, before their name."""
    size: int
    """Side of the images that the network sees, pixels."""
    resize: Resize
    """How images are brought there, both sides alike, without rounding to whole values."""
    mean: tuple[float, float, float]
    """Taken from values 0 to 255, for red, green and blue."""
    std: tuple[float, float, float]
    """Divided by afterwards."""
    precision: Precision = "float32"
    """Of weights and activations, where a protocol does not choose."""
    build: Callable[[str | None], nn.Module]
    """Makes the network, ``(B, 3, size, size)`` to ``(B, D)``, with the weights of a path or its own."""


BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a back-end known by its name."""
    BACKENDS[backend.name] = backend
    return backend


class Extractor:
    """A back-end, opened.

    Attributes:
        backend: what it is.
        network: images to features.
        dim: D.
        about: what of it belongs to a protocol; plain values.

    Args:
        name: of the back-end, or one that is not registered.
        weights: a path in place of the back-end's own weights; or set ``GANVAS_WEIGHTS_NAME``.
        precision: of weights and activations; by default the back-end's.
        device: auto, cpu, cuda or mps.

    Raises:
        GanvasError: unknown, its package or weights are missing, or they do not fit.
    """

    def __init__(
        self,
        name: str | Backend = DEFAULT,
        *,
        weights: str | None = None,
        precision: Precision | None = None,
        device: str = "auto",
    ) -> None:
        if isinstance(name, str) and name not in BACKENDS:
            raise GanvasError(f"no features '{name}'; {did_you_mean(name, BACKENDS)}")
        self.backend = BACKENDS[name] if isinstance(name, str) else name
        precision = precision or self.backend.precision
        if precision not in ("float32", "bfloat16"):
            raise GanvasError(f"precision '{precision}' of features: should be float32 or bfloat16")
        self._device = choose_device(device)
        self._dtype = getattr(torch, precision)
        network = self.backend.build(weights or os.environ.get(variable(self.backend.name)))
        network.eval().requires_grad_(False)
        weights_digest = digest(network)
        fold_normalisation(network)
        self.network = network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        side = self.backend.size
        self.dim = self._features(np.zeros((1, side, side, 3), np.uint8)).shape[1]
        self.about: Mapping[str, Any] = {
            "features": self.backend.name,
            "features_dim": self.dim,
            "features_size": side,
            "features_resize": self.backend.resize,
            "features_mean": list(self.backend.mean),
            "features_std": list(self.backend.std),
            "features_precision": precision,
            "features_weights": weights_digest,
        }

    def extract(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
        """Features of images, in their order.

        However many images come at once, the network sees them in the same chunks, so the result is the same
        to the last bit.

        Args:
            batches: ``(B, H, W, 3)`` each; all images have one size.

        Yields:
            ``(B', D)``.
        """
        for chunk in _chunks(batches, _CHUNK):
            yield self._features(chunk)

    @torch.inference_mode()
    def _features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        b = self.backend
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
        pixels = resized(pixels, b.size, b.resize)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (b.mean, b.std))
        pixels = pixels.sub_(mean).div_(std).to(self._dtype, memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            found: Tensor = self.network(pixels)
        return cast("npt.NDArray[np.float32]", found.float().cpu().numpy())


def _chunks(batches: Iterable[npt.NDArray[np.uint8]], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The same images, ``size`` at once; the last may be fewer."""
    waiting: list[npt.NDArray[np.uint8]] = []
    num = 0
    for batch in batches:
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            raise GanvasError(
                f"images of {batch.shape[1:3]} and {waiting[0].shape[1:3]} pixels; bring them to one size"
            )
        waiting.append(batch)
        num += len(batch)
        while num >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting, num = [joined[size:]], num - size
    if num:
        yield np.concatenate(waiting)


def resized(images: Tensor, size: int, how: Resize) -> Tensor:
    """Images brought to a square; a new tensor, values within 0 to 255.

    Args:
        images: float ``(B, 3, H, W)``, 0 to 255.
        size: side of the square.
        how: the filter.
    """
    if images.shape[2:] == (size, size):
        return images.clone()
    if how == "bilinear, TensorFlow 1":
        return _corner_bilinear(_corner_bilinear(images, size, 2), size, 3)
    mode = how.split(",")[0]
    return F.interpolate(images, size=(size, size), mode=mode, antialias=True).clamp_(0, 255)


def _corner_bilinear(images: Tensor, size: int, dim: int) -> Tensor:
    """Bilinear along one dimension as TensorFlow 1 had it: place ``i`` is ``i * old / new``, so the first
    pixels coincide and the image moves half a pixel; nothing is averaged where it becomes smaller.
    """
    old = images.shape[dim]
    place = torch.arange(size, device=images.device, dtype=torch.float32) * (old / size)
    before = place.long()
    after = (before + 1).clamp(max=old - 1)
    shape = [1] * images.dim()
    shape[dim] = size
    part = (place - before).view(shape)
    low = images.index_select(dim, before)
    return low + (images.index_select(dim, after) - low) * part


# --- back-ends


def _build_lite0(weights: str | None) -> nn.Module:
    from ganvas.networks.lite0 import lite0

    network, own = lite0()
    load_weights(network, Path(weights) if weights else own, "lite0", prefix="network.")
    return network


def _build_inception(name: str) -> Callable[[str | None], nn.Module]:
    def build(weights: str | None) -> nn.Module:
        network = Inception(tensorflow=name == "inception-fid")
        load_weights(network, inception_weights(name, weights), name)
        return network

    return build


def _build_vision(name: str, kind: str, output: str, default: str) -> Callable[[str | None], nn.Module]:
    def build(weights: str | None) -> nn.Module:
        from ganvas.networks.vision import open_vision

        return open_vision(name, kind, output, weights or default)

    return build


register(
    Backend(
        name="lite0",
        about="EfficientNet-Lite0 trained on ImageNet, 1,280 features; two packages, no download.",
        size=224,
        resize="bilinear, antialiased",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        build=_build_lite0,
    )
)
register(
    Backend(
        name="inception-fid",
        about="Inception-v3 with the TensorFlow weights of the first FID, 2,048 features; 96 MB to fetch.",
        distance="fid",
        size=299,
        resize="bilinear, TensorFlow 1",
        mean=(128.0, 128.0, 128.0),
        std=(128.0, 128.0, 128.0),
        build=_build_inception("inception-fid"),
    )
)
register(
    Backend(
        name="inception-torchvision",
        about="Inception-v3 with torchvision's weights, as DM-GAN scores, 2,048 features; 104 MB to fetch.",
        distance="fid",
        size=299,
        resize="bilinear, antialiased",
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        build=_build_inception("inception-torchvision"),
    )
)
register(
    Backend(
        name="clip",
        about="CLIP ViT-B/32, 512 features; a folder or the hub's openai/clip-vit-base-patch32.",
        size=224,
        resize="bicubic, antialiased",
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
        build=_build_vision(
            "clip", "CLIPVisionModelWithProjection", "image_embeds", "openai/clip-vit-base-patch32"
        ),
    )
)
register(
    Backend(
        name="dinov2",
        about="DINOv2 ViT-L/14, 1,024 features; a folder or the hub's facebook/dinov2-large.",
        size=224,
        resize="bicubic, antialiased",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        build=_build_vision("dinov2", "Dinov2Model", "pooler_output", "facebook/dinov2-large"),
    )
)
