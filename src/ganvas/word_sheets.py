"""Sheets that show which word belongs to which region, as ``ganvas generate`` writes them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganvas.errors import GanvasError
from ganvas.images import open_image
from ganvas.pipeline import load
from ganvas.sheets import Tile, save_png, sheet
from ganvas.text.tokenizer import check_caption
from ganvas.word_maps import WordMaps

_MOST = 64
_GOLDEN_ANGLE = 0.381966  # of a turn: hues that follow each other lie far apart
_BRIGHTNESS = (0.95, 0.65, 0.8)
_PALEST = 0.5  # what black becomes below the colour of a word, so that dark places show it too


def attention_file(
    path: str | Path,
    captions: Sequence[str],
    out: Path,
    *,
    n: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> Path:
    """Write one sheet that shows which word drew which region: a row an image, a tile a word.

    A tile is the image, dark where the last stage did not look at the word.

    Args:
        path: a run or model folder, or a model that ships, of a system that attends to words.
        captions: at least one.
        out: a ``.png`` file.
        n: images a caption.
        seed: of the noise.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: of the images, as for ``generate_files``; attention is always computed in float32.

    Raises:
        GanvasError: for everything that is wrong with the arguments, before anything is written.
    """
    _check("attention is", captions, out, n)
    model = load(path, device=device, precision=precision)
    rows, titles = [], []
    for caption in captions:
        for found in model.attention(caption, n, seed):
            tiles = [
                Tile(lit(found.image, look), word)
                for word, look in zip(found.words, found.maps[-1], strict=True)
            ]
            rows.append([Tile(found.image, "the image"), *tiles])
            titles.append(caption)
    return save_png(sheet(rows, row_titles=titles, lead_columns=1), out)


def layout_file(
    path: str | Path,
    captions: Sequence[str],
    out: Path,
    *,
    picture: Path | None = None,
    n: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> Path:
    """Write one sheet that shows where the words of captions lie: a row a stage of each image.

    Each word has a colour. Its tile is the image without colours, tinted where the word lies. The tile of all
    words, which says how many places the stage tells apart, has everywhere the colour of the surest word.
    Tints are as strong as weights are, on one scale for all images of a caption at a stage. Below each word
    stands its part of the image: the mean of its weights.

    Args:
        path: a run or model folder, or a model that ships, of a system with layout refinement.
        captions: at least one.
        out: a ``.png`` file.
        picture: an image file that every caption is laid out in as well.
        n: images a caption.
        seed: of the noise.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: of the images, as for ``generate_files``; layouts are always computed in float32.

    Raises:
        GanvasError: for everything that is wrong with the arguments, before anything is written.
    """
    _check("layouts are", captions, out, n)
    real = open_image(picture) if picture else None
    model = load(path, device=device, precision=precision)
    rows, titles = [], []
    for caption in captions:
        shown = [("generated", found) for found in model.layout(caption, n, seed)]
        if real is not None:
            shown.append(("the picture", model.layout_of(real, caption)))
        mine = _layout_rows(shown)
        rows += mine
        titles += [caption, *[""] * (len(mine) - 1)]
    return save_png(sheet(rows, row_titles=titles, lead_columns=2), out)


def lit(image: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """An image as bright as its places are looked at: fully at the greatest weight, a fifth at the least.

    Args:
        image: ``H`` x ``W``.
        weights: ``(h, w)``, scaled to the image.
    """
    low, high = float(weights.min()), float(weights.max())
    light = (weights - low) / max(high - low, 1e-6)
    bright = 0.2 + 0.8 * _scaled(light, image)[..., None]
    return Image.fromarray((np.asarray(image.convert("RGB")) * bright).round().astype(np.uint8))


def tinted(
    image: Image.Image, weights: npt.NDArray[np.float32], colours: npt.NDArray[np.float32]
) -> Image.Image:
    """An image without colours, each place in the colour of its surest word, as strongly as that is sure.

    Args:
        image: ``H`` x ``W``.
        weights: ``(T, h, w)`` from 0 to 1, scaled to the image.
        colours: ``(T, 3)`` from 0 to 1, of the words.
    """
    full = np.stack([_scaled(of_word, image) for of_word in weights])
    grey = _PALEST + (1 - _PALEST) * np.asarray(image.convert("L"), np.float32)[..., None] / 255
    tint, strength = colours[full.argmax(axis=0)], full.max(axis=0)[..., None]
    return Image.fromarray((255 * grey * (1 - strength * (1 - tint))).round().astype(np.uint8))


def word_colours(num: int) -> npt.NDArray[np.float32]:
    """``(num, 3)`` from 0 to 1: a colour for each word of a caption, neighbours far apart.

    After eight, hues come close to earlier ones; they are then darker.
    """
    hues = [(0.58 + k * _GOLDEN_ANGLE) % 1 for k in range(num)]
    values = [_BRIGHTNESS[k // 8 % len(_BRIGHTNESS)] for k in range(num)]
    return np.array(
        [colorsys.hsv_to_rgb(hue, 0.8, value) for hue, value in zip(hues, values, strict=True)], np.float32
    )


def _layout_rows(shown: Sequence[tuple[str, WordMaps]]) -> list[list[Tile]]:
    """For each image of a caption a row for each stage: the image, all words on it, each word on it."""
    words = shown[0][1].words
    colours = word_colours(len(words))
    tops = [
        max(float(maps.max()) for maps in stage)
        for stage in zip(*(found.maps for _, found in shown), strict=True)
    ]
    rows = []
    for name, found in shown:
        for maps, top in zip(found.maps, tops, strict=True):
            weights = maps / max(top, 1e-6)
            each = [
                Tile(tinted(found.image, weights[[k]], colours[[k]]), f"{word}, {maps[k].mean():.0%}")
                for k, word in enumerate(words)
            ]
            all_words = Tile(
                tinted(found.image, weights, colours), f"{maps.shape[2]} x {maps.shape[1]} places"
            )
            rows.append([Tile(found.image, name), all_words, *each])
    return rows


def _scaled(weights: npt.NDArray[np.float32], image: Image.Image) -> npt.NDArray[np.float32]:
    """``(h, w)`` at the size of ``image``, without steps."""
    smooth = Image.fromarray(weights.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(smooth)


def _check(what: str, captions: Sequence[str], out: Path, n: int) -> None:
    for number, caption in enumerate(captions, start=1):
        check_caption(caption, f"caption {number}")
    if out.suffix.lower() != ".png":
        raise GanvasError(f"{out}: {what} shown on one sheet; name a .png file with --out")
    if not captions:
        raise GanvasError("no caption given; write at least one")
    if len(captions) * n > _MOST:
        raise GanvasError(f"{len(captions) * n:,} images: {what} shown for at most {_MOST}")
