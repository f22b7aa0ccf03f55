"""Sheets: many images on one, in rows, with captions. Samples while training, contact sheets, grids."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ganvas.errors import GanvasError, RunStopped
from ganvas.lettering import Lettering

Picture: TypeAlias = "Image.Image | npt.NDArray[np.uint8]"

MAX_PIXELS = 100_000_000
"""The largest sheet that is drawn: 300 MB in memory."""

_PAPER = "#fafaf8"
_PLACE = "#f0f0ed"
_EDGE = "#dcdcd8"
_INK = "#1f2328"
_SOFT_INK = "#5c636b"
_SMOOTHING = 4  # rounded corners are drawn this much larger, then reduced
_SMALLEST_SIDE = 128  # of an enlarged tile, pixels, where the caller does not say


@dataclass(frozen=True)
class Tile:
    """One image of a sheet."""

    image: Picture | None
    """A Pillow image or uint8 ``(H, W, 3)``; None leaves an empty place."""
    caption: str | None = None
    """Drawn below it."""


@dataclass(frozen=True)
class _Words:
    """What is written around the tiles, and how much of it."""

    title: str | None
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    lead_columns: int
    caption_lines: int


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where everything goes, in pixels."""

    side: int
    row_title_width: int
    heading_height: int
    caption_heights: tuple[int, ...]
    num_columns: int
    lead_columns: int
    title: Lettering
    text: Lettering

    @property
    def margin(self) -> int:
        return max(20, self.side // 6)

    @property
    def gap(self) -> int:
        return max(8, self.side // 12)

    @property
    def left(self) -> int:
        """Where the first column begins."""
        return self.margin + (self.row_title_width + 2 * self.gap if self.row_title_width else 0)

    @property
    def width(self) -> int:
        return self.x(self.num_columns - 1) + self.side + self.margin

    def x(self, column: int) -> int:
        apart = 2 * self.gap if 0 < self.lead_columns <= column else 0
        return self.left + column * (self.side + self.gap) + apart

    def y(self, row: int) -> int:
        above = sum(self.side + height + self.gap for height in self.caption_heights[:row])
        return self.margin + self.heading_height + above

    @property
    def height(self) -> int:
        return self.y(len(self.caption_heights)) - self.gap + self.margin


def sheet(
    rows: Sequence[Sequence[Tile]],
    *,
    title: str | None = None,
    column_titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    lead_columns: int = 0,
    tile_size: int | None = None,
    caption_lines: int = 2,
    smooth: bool = False,
) -> Image.Image:
    """Rows of images on one, such as a real image beside those generated for its caption.

    The same arguments give the same pixels on the same machine. Any caption is accepted, in any script:
    it is wrapped, and ends in an ellipsis where it is too long.

    Args:
        rows: the tiles, row by row; rows may have different lengths.
        title: drawn above everything.
        column_titles: one for each column, such as ``["real", "generated"]``; the rest stay without.
        row_titles: one for each row, drawn left of it: the right place for captions shared by a row.
        lead_columns: that many columns are set a little apart from the rest, such as 1 for the real images.
        tile_size: side of the square that each image is fitted into, pixels; by default the largest image's
            side, times the whole number that brings it to 128 at least.
        caption_lines: lines that a tile's caption may take.
        smooth: enlarge small images with smooth interpolation instead of by whole pixels.

    Returns:
        An RGB image.

    Raises:
        GanvasError: there is no tile, an image is of another kind, or the sheet would exceed 100 megapixels.
    """
    if not any(rows):
        raise GanvasError("a sheet without images: give at least one tile")
    pictures = [[None if tile.image is None else to_rgb(tile.image) for tile in row] for row in rows]
    columns = tuple(column_titles or ())[: max(map(len, rows))]
    words = _Words(title, columns, tuple(row_titles or ())[: len(rows)], lead_columns, caption_lines)
    layout = _plan(rows, pictures, words, tile_size)
    if layout.width * layout.height > MAX_PIXELS:
        raise GanvasError(
            f"a sheet of {layout.width} x {layout.height} pixels is too large;"
            " give fewer images or a smaller tile size"
        )
    canvas = Image.new("RGB", (layout.width, layout.height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_titles(draw, layout, words)
    masks = _Masks()
    for r, (row, row_pictures) in enumerate(zip(rows, pictures, strict=True)):
        for c, (tile, picture) in enumerate(zip(row, row_pictures, strict=True)):
            place = (layout.x(c), layout.y(r))
            _paste(canvas, picture, place, layout.side, smooth, masks)
            lines = layout.text.wrap(tile.caption or "", layout.side, caption_lines)
            top = place[1] + layout.side + _caption_gap(layout.side)
            _draw_lines(draw, layout.text, (place[0], top), lines, _SOFT_INK)
    return canvas


def save_png(image: Picture, path: str | os.PathLike[str]) -> Path:
    """Write ``image`` as PNG, aside first and renamed into place: a file that exists is whole.

    Args:
        image: a Pillow image or uint8 ``(H, W, 3)``.
        path: the file, ending in ``.png``; one that is there is replaced.

    Returns:
        ``path``.

    Raises:
        GanvasError: the name does not end in ``.png``, or the folder is missing or cannot be written.
        RunStopped: the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise GanvasError(f"{path}: images are written as PNG; end the name in .png")
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else to_rgb(image)).save(file, format="PNG")
    return write_whole(path, file.getvalue())


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file aside first and rename it into place: a file that exists is whole.

    Raises:
        GanvasError: the folder is missing or cannot be written.
        RunStopped: the disk is full.
    """
    if not path.parent.is_dir():
        raise GanvasError(f"{path}: there is no folder {path.parent}; make it first")
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return path


def cannot_write(path: Path, error: OSError) -> GanvasError:
    """The one-line error for a file that could not be written."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunStopped(f"{path}: cannot be written ({reason}); make room and try again")
    return GanvasError(f"{path}: cannot be written ({reason}); choose another place")


def to_rgb(picture: Picture) -> Image.Image:
    """Any accepted picture as an RGB image; what is transparent becomes white.

    Raises:
        GanvasError: it is neither a Pillow image nor uint8 ``(H, W, 3)``.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise GanvasError(
                f"an image of {picture.dtype} {picture.shape} cannot be drawn; give uint8 (height, width, 3)"
            )
        return Image.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Image.Image):
        raise GanvasError(
            f"a {type(picture).__name__} cannot be drawn;"
            " give a Pillow image or a uint8 (height, width, 3) array"
        )
    if picture.mode == "RGB":
        return picture
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _plan(
    rows: Sequence[Sequence[Tile]],
    pictures: Sequence[Sequence[Image.Image | None]],
    words: _Words,
    tile_size: int | None,
) -> _Layout:
    """Measure everything once, before anything is drawn."""
    side = tile_size if tile_size is not None else _default_side(pictures)
    if side < 8:
        raise GanvasError(f"a tile size of {side} pixels is too small; give 8 or more")
    text, heading = Lettering(min(max(side // 10, 12), 18)), Lettering(min(max(side // 6, 20), 32))
    caption_heights = []
    for row in rows:
        lines = max(
            (len(text.wrap(tile.caption or "", side, words.caption_lines)) for tile in row), default=0
        )
        caption_heights.append(lines * text.line_height + 2 * _caption_gap(side) if lines else 0)
    column_lines = max((len(text.wrap(name, side, 2)) for name in words.columns), default=0)
    heading_height = round(heading.line_height * 1.5) if words.title else 0
    if column_lines:
        heading_height += column_lines * text.line_height + _caption_gap(side)
    return _Layout(
        side=side,
        row_title_width=_row_title_width(words.rows, side, text),
        heading_height=heading_height,
        caption_heights=tuple(caption_heights),
        num_columns=max(map(len, rows)),
        lead_columns=words.lead_columns,
        title=heading,
        text=text,
    )


def _default_side(pictures: Sequence[Sequence[Image.Image | None]]) -> int:
    largest = max((max(p.size) for row in pictures for p in row if p is not None), default=_SMALLEST_SIDE)
    return largest * -(-_SMALLEST_SIDE // largest)


def _row_title_width(row_titles: Sequence[str], side: int, text: Lettering) -> int:
    """As wide as the widest title, but no wider than a tile and a half: longer ones wrap."""
    most = max(round(side * 1.4), 120)
    lines = [line for name in row_titles for line in text.wrap(name, most, 99)]
    return min(most, max((round(text.width(line)) + 1 for line in lines), default=0))


def _caption_gap(side: int) -> int:
    return max(5, side // 24)


def _draw_titles(draw: ImageDraw.ImageDraw, layout: _Layout, words: _Words) -> None:
    text = layout.text
    if words.title:
        lines = layout.title.wrap(words.title, layout.width - 2 * layout.margin, 1)
        top = layout.margin - layout.title.size // 4
        _draw_lines(draw, layout.title, (layout.margin, top), lines, _INK)
    for column, name in enumerate(words.columns):
        lines = text.wrap(name, layout.side, 2)
        top = layout.y(0) - _caption_gap(layout.side) - len(lines) * text.line_height
        _draw_lines(draw, text, (layout.x(column), top), lines, _SOFT_INK)
    most = max(1, layout.side // text.line_height)
    for row, name in enumerate(words.rows):
        lines = text.wrap(name, layout.row_title_width, most)
        top = layout.y(row) + (layout.side - len(lines) * text.line_height) // 2
        _draw_lines(draw, text, (layout.margin, top), lines, _INK)


def _draw_lines(
    draw: ImageDraw.ImageDraw, text: Lettering, place: tuple[int, int], lines: Sequence[str], fill: str
) -> None:
    for number, line in enumerate(lines):
        text.draw(draw, (place[0], place[1] + number * text.line_height), line, fill)


class _Masks:
    """Rounded rectangles, drawn once for each size."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int], tuple[Image.Image, Image.Image]] = {}

    def __call__(self, width: int, height: int, radius: int) -> tuple[Image.Image, Image.Image]:
        """The shape, and its edge of one pixel."""
        key = (width, height, radius)
        if key not in self._made:
            self._made[key] = (self._draw(*key, edge=False), self._draw(*key, edge=True))
        return self._made[key]

    @staticmethod
    def _draw(width: int, height: int, radius: int, *, edge: bool) -> Image.Image:
        k = _SMOOTHING
        mask = Image.new("L", (width * k, height * k), 0)
        box = (0, 0, width * k - 1, height * k - 1)
        fill, outline = (None, 255) if edge else (255, None)
        ImageDraw.Draw(mask).rounded_rectangle(box, radius * k, fill=fill, outline=outline, width=k)
        return mask.resize((width, height), Image.Resampling.BOX)


def _paste(
    canvas: Image.Image,
    picture: Image.Image | None,
    place: tuple[int, int],
    side: int,
    smooth: bool,
    masks: _Masks,
) -> None:
    """Draw one picture in the middle of its square, with rounded corners and a thin edge."""
    shown = Image.new("RGB", (side, side), _PLACE) if picture is None else _fit(picture, side, smooth)
    width, height = shown.size
    x, y = place[0] + (side - width) // 2, place[1] + (side - height) // 2
    shape, edge = masks(width, height, max(3, side // 32))
    canvas.paste(shown, (x, y), shape)
    canvas.paste(Image.new("RGB", shown.size, _EDGE), (x, y), edge)


def _fit(picture: Image.Image, side: int, smooth: bool) -> Image.Image:
    """``picture`` as large as fits in ``side``: whole pixels when enlarged, unless ``smooth``."""
    longest = max(picture.size)
    if longest > side or smooth:
        scale = side / longest
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
    times = side // longest
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
