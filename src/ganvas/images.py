"""Images between files, PIL and tensors, with a bound on what is decoded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ganvas.errors import GanvasError

MAX_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # those that start no other program


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB, transparent parts on white, turned upright.

    Raises:
        GanvasError: missing, empty, no image, truncated, or larger than ``MAX_PIXELS``.
    """
    path = Path(path)
    if not path.is_file():
        raise GanvasError(f"{path}: no such image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bound below is stricter than what Pillow warns of
            return _decode(path)
    except GanvasError:
        raise
    except Image.DecompressionBombError:
        raise GanvasError(f"{path}: more pixels than the {MAX_PIXELS:,} allowed") from None
    except UnidentifiedImageError:
        raise GanvasError(f"{path}: is no image that can be read ({', '.join(_FORMATS)})") from None
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise GanvasError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


def _decode(path: Path) -> Image.Image:
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise GanvasError(f"{path}: {width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return upright.convert("RGB")


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
