"""Images between files, PIL and tensors, with a bound on what is decoded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ganvas.errors import GanvasError

MAX_PIXELS = 64_000_000


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB, transparent parts on white, turned upright.

    Raises:
        GanvasError: missing, empty, no image, truncated, or larger than ``MAX_PIXELS``.
    """
    path = Path(path)
    if not path.is_file():
        raise GanvasError(f"{path}: no such image file")
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise GanvasError(
                    f"{path}: {width} x {height} pixels are more than the {MAX_PIXELS:,} allowed"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = Image.alpha_composite(
                    Image.new("RGBA", upright.size, "white"), upright.convert("RGBA")
                )
            return upright.convert("RGB")
    except Image.DecompressionBombError:
        raise GanvasError(f"{path}: more pixels than the {MAX_PIXELS:,} allowed") from None
    except UnidentifiedImageError:
        raise GanvasError(f"{path}: is no image that can be read") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, GanvasError):
            raise
        raise GanvasError(f"{path}: cannot be read ({error})") from None


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
