"""Image files to pixels of one size: decoded within bounds, cropped, and scaled."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Box = tuple[float, float, float, float]
"""Left, top, width, height, pixels."""

MAX_PIXELS = 64_000_000
"""An image with more is refused before it is decoded."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # those that start no other program


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How an image of any shape is brought to size S."""

    resize: Literal["shorter", "square", "whole"] = "shorter"
    """``shorter``: the shorter side becomes S and the middle square is kept. ``square``: both sides become S,
    whatever that does to the shape. ``whole``: the shorter side becomes S and the longer side is kept, so
    that training crops anywhere along it, as AttnGAN does."""
    box: bool = False
    """Crop around the object's bounding box first, where the data set knows one (see ``around``)."""
    scaling: Literal["bilinear", "bicubic"] = "bilinear"
    """The filter, antialiased."""


def region(width: int, height: int, fit: Fit, box: Box | None = None) -> tuple[int, int, int, int]:
    """The part of an original that is kept: left, top, right, bottom, pixels.

    Args:
        width: of the original.
        height: of the original.
        fit: how it is brought to size.
        box: of the object.
    """
    left, top, right, bottom = around(box, width, height) if fit.box and box else (0, 0, width, height)
    if fit.resize == "shorter":
        side = min(right - left, bottom - top)
        left += (right - left - side) // 2
        top += (bottom - top - side) // 2
        right, bottom = left + side, top + side
    return left, top, right, bottom


def around(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The square around a bounding box that StackGAN, AttnGAN and their kin cut out of CUB's images.

    Half its side is three quarters of the box's longer side, its middle is that of the box, and what lies
    outside of the image is cut off (so it need not be square).

    Args:
        box: left, top, width, height.
        width: of the image.
        height: of the image.

    Returns:
        Left, top, right, bottom.
    """
    x, y, w, h = box
    radius = int(max(w, h) * 0.75)
    middle_x, middle_y = int((2 * x + w) / 2), int((2 * y + h) / 2)
    left, top = max(0, middle_x - radius), max(0, middle_y - radius)
    right, bottom = min(width, middle_x + radius), min(height, middle_y + radius)
    if left >= right or top >= bottom:
        raise ValueError(f"its bounding box {box} lies outside of the image of {width} x {height} pixels")
    return left, top, right, bottom


def decode(encoded: bytes, size: int, fit: Fit, box: Box | None = None) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded image, uint8 ``(H, W, 3)``.

    Args:
        encoded: the bytes of the file.
        size: S.
        fit: how it is brought to size.
        box: of the object, where known.

    Returns:
        ``(S, S, 3)``; where ``fit`` keeps the longer side, the shorter side is S.

    Raises:
        ValueError: it is no image, it is damaged, or it has too many pixels; the text is the reason.
    """
    image = _decode(encoded)
    part = region(image.width, image.height, fit, box)
    wide, high = part[2] - part[0], part[3] - part[1]
    if fit.resize == "whole":
        short = min(wide, high)
        shape = (round(wide * size / short), round(high * size / short))
    else:
        shape = (size, size)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return np.asarray(image.resize(shape, filters[fit.scaling], box=part))


def _decode(encoded: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"more than {MAX_PIXELS:,} pixels")
                return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("is no image") from None
    except OSError as error:
        raise ValueError(f"is damaged ({error})") from None
