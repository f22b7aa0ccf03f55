"""Thumbnails of the default model's images, and how far other images are from them.

python tests/golden/thumbnails.py            # says how far this machine's images are from the stored ones
python tests/golden/thumbnails.py --update   # stores them anew, after the model was replaced
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganvas.pipeline import PRECISIONS, Model, load

FILE = Path(__file__).with_name("default-model.png")
SIDE = 32
COLUMNS = 4
MEAN, MOST = 0.1, 4.0
"""Tolerance: of 255 levels, the mean over a thumbnail, and its pixel that differs most."""
CAPTIONS = (
    "a smiling cat with heart eyes",
    "a red apple in the noto style",
    "a red apple in the twemoji style",
    "a red apple in the fluent style",
    "a woman with red hair",
    "a waving hand with dark skin tone",
    "a waving hand with light skin tone",
    "a blue car",
    "the flag of Japan",
    "a clock at three",
    "a tree",
    "a house with a garden",
    "a sleeping face",
    "an angry face",
    "a zorbly \U0001f600 \u732b",
    "a man and a woman holding hands in front of a very large, very old castle on a hill, at night, in rain",
)


class Distance(NamedTuple):
    """How far thumbnails are from stored ones, levels of 255; the worst of all."""

    mean: float
    most: float

    @property
    def within(self) -> bool:
        """Whether that is rounding."""
        return self.mean <= MEAN and self.most <= MOST


Pixels = npt.NDArray[np.float32]


def thumbnails(model: Model, seed: int = 0) -> Pixels:
    """``(16, SIDE, SIDE, 3)``: one image a caption, reduced by the mean over squares of pixels."""
    images = model.generate(CAPTIONS, n=1, seed=seed)
    small = [image.resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, dtype=np.float32) for image in small])


def stored() -> Pixels:
    """Those of the file."""
    with Image.open(FILE) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    rows = len(CAPTIONS) // COLUMNS
    squares = pixels.reshape(rows, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return squares.reshape(len(CAPTIONS), SIDE, SIDE, 3)


def distance(a: Pixels, b: Pixels) -> Distance:
    """Between two sets of thumbnails."""
    apart = np.abs(a - b)
    return Distance(float(apart.mean(axis=(1, 2, 3)).max()), float(apart.max()))


def store(pixels: Pixels) -> None:
    """Write the file."""
    rows = len(CAPTIONS) // COLUMNS
    squares = pixels.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    sheet: Any = squares.reshape(rows * SIDE, COLUMNS * SIDE, 3).astype(np.uint8)
    Image.fromarray(sheet).save(FILE, optimize=True)


def main() -> None:
    """Compare, or store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--update", action="store_true", help="store this machine's thumbnails")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    given = parser.parse_args()
    pixels = thumbnails(load(device=given.device, precision=given.precision))
    if given.update:
        store(pixels)
    found = distance(pixels, stored())
    print(f"mean {found.mean:.4f} (at most {MEAN}), most {found.most:.0f} (at most {MOST:.0f}) of 255 levels")
    sys.exit(not found.within)


if __name__ == "__main__":
    main()
