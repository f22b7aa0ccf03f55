"""Images between files, PIL and tensors, with a bound on what is decoded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ganvas.data.pixels import read_image
from ganvas.errors import GanvasError


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB, transparent parts on white, turned upright.

    Raises:
        GanvasError: missing, empty, no image, truncated, or with more than ``MAX_PIXELS`` pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise GanvasError(f"{path}: no such image file")
    try:
        return Image.fromarray(read_image(path.read_bytes()))
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as reason:
        raise GanvasError(f"{path}: {reason}") from None


def image_to_tensor(image: Image.Image, size: int) -> Tensor:
    """``(1, 3, size, size)`` in [-1, 1] from the middle square of an image."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def to_uint8(images: Tensor) -> npt.NDArray[np.uint8]:
    """``(B, 3, H, W)`` in [-1, 1] to uint8 ``(B, H, W, 3)``."""
    scaled = (images.detach().float() + 1) * 127.5
    array: npt.NDArray[np.uint8] = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return array
