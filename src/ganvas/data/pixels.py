"""Image files to pixels of one size: decoded within bounds, cropped, and scaled."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

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
    exact: bool = False
    """Decode JPEGs at their full size even where a half or less of it would do, as the papers' code does."""


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


def decode(encoded: bytes, size: int, fit: Fit, box: Box | None = None) -> Pixels:
    """The pixels of an encoded image, uint8 ``(H, W, 3)``.

    The image is turned upright (EXIF), transparent parts are white, of an animation the first frame counts,
    and 16 bits a channel become 8. A JPEG much larger than needed is decoded at a fraction of its size.

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
    with _opened(encoded) as image:
        turn = _orientation(image)
        width, height = image.size if turn < _FIRST_ON_ITS_SIDE else image.size[::-1]
        part = region(width, height, fit, box)
        shape = shape_of(part, size, fit)
        spare = min((part[2] - part[0]) / shape[1], (part[3] - part[1]) / shape[0])
        pixels = _upright(_pixels(image, encoded, 1.0 if fit.exact else spare), turn)
    # what was decoded at a fraction of its size: the same part of it
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    left, right = round(part[0] * across), max(1, round(part[2] * across))
    top, bottom = round(part[1] * down), max(1, round(part[3] * down))
    return _scaled(pixels[top:bottom, left:right], shape, fit.scaling)


def read_image(encoded: bytes) -> Pixels:
    """The pixels of an encoded image at its own size, otherwise as ``decode``: uint8 ``(H, W, 3)``.

    Raises:
        ValueError: it is no image, it is damaged, or it has too many pixels; the text is the reason.
    """
    with _opened(encoded) as image:
        return _upright(_pixels(image, encoded, 1.0), _orientation(image))


def shape_of(part: tuple[int, int, int, int], size: int, fit: Fit) -> tuple[int, int]:
    """Height and width that a part of an original is brought to.

    Args:
        part: left, top, right, bottom, see ``region``.
        size: S.
        fit: how.
    """
    if fit.resize != "whole":
        return size, size
    width, height = part[2] - part[0], part[3] - part[1]
    if max(width, height) > _LONGEST * min(width, height):
        raise ValueError(f"is {width} x {height} pixels, more than {_LONGEST} times as long as wide")
    return (size, size * width // height) if width > height else (size * height // width, size)


_ORIENTATION = 0x0112  # the EXIF tag
_FIRST_ON_ITS_SIDE = 5  # from this value on, width and height change places
_LONGEST = 20
_TURNS = {  # EXIF orientation: quarter turns against the clock, and whether it is mirrored first
    2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False),
}  # fmt: skip


def _opened(encoded: bytes) -> Image.Image:
    """The image with its header read and its size judged, but no pixel decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bound below is stricter than what Pillow warns of
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"is no image that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more pixels than the {MAX_PIXELS:,} allowed") from None
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise _damaged(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"has {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
    return image


def _orientation(image: Image.Image) -> int:
    """1 where nothing is to be turned."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)  # of a PNG, this decodes the whole
    except Exception as error:
        raise _damaged(error) from None
    return found if isinstance(found, int) else 1


def _damaged(error: Exception) -> ValueError:
    return ValueError(f"is damaged ({' '.join(str(error).split()) or type(error).__name__})")


def _pixels(image: Image.Image, encoded: bytes, spare: float) -> Pixels:
    """All pixels as they lie in the file; a JPEG may be scaled down, though by ``spare`` at most."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        import simplejpeg

        low = [math.ceil(side / spare) for side in image.size]
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                encoded, "RGB", min_width=low[0], min_height=low[1], min_factor=_WORTH_SCALING
            )
            return pixels
        except ValueError:
            pass  # Pillow tells what can be forgiven from what cannot
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rgb(image)
    except Exception as error:
        raise _damaged(error) from None


_WORTH_SCALING = 2  # libjpeg decodes at 5/8 of the size no faster than the whole


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel, whatever Pillow calls it
        values = np.asarray(image).astype(np.float64)
        grey = np.clip(values / (257 if values.max(initial=0) > 255 else 1), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    quarters, mirrored = _TURNS.get(orientation, (0, False))
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)


def _scaled(pixels: Pixels, shape: tuple[int, int], scaling: str) -> Pixels:
    """Brought to ``shape`` with PyTorch's filter, which is Pillow's to within rounding and far quicker."""
    if pixels.shape[:2] == shape:
        return np.ascontiguousarray(pixels)
    import torch
    import torch.nn.functional as F

    image = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)[None]
    scaled = F.interpolate(image, size=shape, mode=scaling, antialias=True)
    return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
