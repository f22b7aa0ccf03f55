"""Captions to image files, as the command ``ganvas generate`` writes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ganvas.errors import GanvasError
from ganvas.images import open_image
from ganvas.pipeline import Model, load
from ganvas.sheets import Picture, Tile, save_png, sheet
from ganvas.text.tokenizer import check_caption

_MAX_ON_A_SHEET = 1024
_MOST_COLUMNS = 8
_MOST_REPORTED = 20  # captions with unknown words
_MOST_WORDS = 12  # of each


def generate_files(
    path: str | Path,
    captions: Sequence[str],
    out: Path,
    *,
    n: int = 1,
    seed: int = 0,
    style_from: Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> list[Path]:
    """Generate ``n`` images a caption and write them.

    Args:
        path: a run or model folder, or a model that ships.
        captions: at least one; a model that was trained without captions needs none, and ignores them.
        out: a ``.png`` file: one image as it is, several as a sheet; any other name is a folder that gets one
            file an image.
        n: images a caption.
        seed: of the noise.
        style_from: an image whose style is taken over.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``float32``, ``bfloat16`` or ``auto``, as for ``ganvas.load``.

    Returns:
        The files written.

    Raises:
        GanvasError: for everything that is wrong with the arguments, before anything is written.
    """
    for number, caption in enumerate(captions, start=1):
        check_caption(caption, f"caption {number}")
    single = out.suffix.lower() == ".png"
    if not single and out.suffix:
        raise GanvasError(f"{out}: images are written as PNG; name a .png file or a folder")
    total = max(1, len(captions)) * n
    if single and total > _MAX_ON_A_SHEET:
        raise GanvasError(
            f"{out}: {total:,} images are too many for one sheet ({_MAX_ON_A_SHEET:,});"
            " give a folder with --out"
        )
    style = open_image(style_from) if style_from else None
    model = load(path, device=device, precision=precision)
    if model.system.generates and model.recipe.text is None:
        if captions:
            print(
                f"{path}: was trained without captions, so those given are ignored; -n says how many images",
                file=sys.stderr,
            )
        captions = ["an image"]  # which nobody reads
    report_unknown(model, captions)
    if not single:
        batches = model.generate_arrays(captions, n, seed, style_from=style)
        return _write_each((image for batch in batches for image in batch), captions, n, out)
    images = model.generate(captions, n, seed, style_from=style)
    picture = images[0] if len(images) == 1 else _sheet(images, captions, n)
    return [save_png(picture, out)]


def report_unknown(model: Model, captions: Sequence[str]) -> None:
    """Say on standard error which words the model has never seen, a line for each caption that has some."""
    unknown = {caption: model.unknown_words(caption) for caption in dict.fromkeys(captions)}
    lines = [
        f'"{_cut(caption, 60)}": never seen in training: {_listed(words)}'
        for caption, words in unknown.items()
        if words
    ]
    if len(lines) > _MOST_REPORTED:
        more = len(lines) - _MOST_REPORTED
        lines = [*lines[:_MOST_REPORTED], f"{more:,} further captions have words that were never seen too"]
    for line in lines:
        print(" ".join(line.split()), file=sys.stderr)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
    return ", ".join(_cut(word, 30) for word in words[:_MOST_WORDS]) + more


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def _sheet(images: Sequence[Image.Image], captions: Sequence[str], n: int) -> Image.Image:
    """A row a caption; a single image each: a grid with captions below."""
    if n == 1:
        tiles = [Tile(image, caption) for image, caption in zip(images, captions, strict=True)]
        return sheet([tiles[i : i + _MOST_COLUMNS] for i in range(0, len(tiles), _MOST_COLUMNS)])
    rows, titles = [], []
    for number, caption in enumerate(captions):
        mine = [Tile(image) for image in images[number * n : (number + 1) * n]]
        for start in range(0, n, _MOST_COLUMNS):
            rows.append(mine[start : start + _MOST_COLUMNS])
            titles.append(caption if start == 0 else "")
    return sheet(rows, row_titles=titles)


def _write_each(images: Iterable[Picture], captions: Sequence[str], n: int, folder: Path) -> list[Path]:
    """``0003-a-red-apple-1.png``: number of the caption, its first words, number of the image."""
    paths: list[Path] = []
    for number, image in enumerate(images):
        if not paths:  # not before there is something to write
            _make(folder)
        words = re.sub(r"\W+", "-", captions[number // n].lower()).strip("-")[:40]
        words = words.encode()[:120].decode(errors="ignore")  # a name may have 255 bytes
        paths.append(save_png(image, folder / f"{number // n:04d}-{words}-{number % n}.png"))
    return paths


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GanvasError(f"{folder}: cannot make this folder ({error.strerror})") from None
