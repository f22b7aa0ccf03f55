"""Sheets of images, and the text on them."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.errors import GanvasError, RunStopped
from ganvas.lettering import ELLIPSIS, Lettering, clean
from ganvas.sheets import Tile, save_png, sheet

RED = np.full((64, 64, 3), (200, 10, 10), np.uint8)


def checkerboard(size: int) -> np.ndarray:
    cells = np.indices((size, size)).sum(0) % 2 * 255
    return np.repeat(cells[..., None], 3, axis=2).astype(np.uint8)


def png_bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def area_of(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(2).sum())


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(RED, id="array"),
        pytest.param(Image.fromarray(RED), id="RGB"),
        pytest.param(Image.fromarray(RED).convert("RGBA"), id="RGBA"),
        pytest.param(Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE), id="palette"),
    ],
)
def test_every_kind_of_image_arrives_with_its_colour(picture: Image.Image | np.ndarray) -> None:
    drawn = sheet([[Tile(picture)]])
    assert drawn.mode == "RGB"
    assert area_of(drawn, (200, 10, 10)) > 0.95 * 128 * 128


def test_what_is_transparent_is_drawn_white() -> None:
    drawn = sheet([[Tile(Image.new("RGBA", (128, 128), (0, 0, 0, 0)))]])
    assert area_of(drawn, (255, 255, 255)) > 0.95 * 128 * 128


@pytest.mark.parametrize(("size", "times"), [(16, 8), (64, 2), (100, 2), (128, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_pixels(size: int, times: int) -> None:
    picture = checkerboard(size)
    drawn = np.asarray(sheet([[Tile(picture)]]))
    side = size * times
    margin = (drawn.shape[0] - side) // 2
    shown = drawn[margin : margin + side, margin : margin + side]
    expected = picture.repeat(times, 0).repeat(times, 1)
    inner = slice(8, -8)
    np.testing.assert_array_equal(shown[inner, inner], expected[inner, inner])


def test_smooth_enlargement_makes_colours_between_the_pixels() -> None:
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 255
    crisp, smooth = (
        sheet([[Tile(step)]], smooth=choice).crop((30, 30, 140, 140)) for choice in (False, True)
    )
    assert (
        len(set(crisp.get_flattened_data() if hasattr(crisp, "get_flattened_data") else crisp.getdata())) == 2
    )
    assert len(np.unique(smooth)) > 2


def test_images_of_any_shape_keep_their_proportions() -> None:
    wide = np.full((20, 80, 3), (200, 10, 10), np.uint8)
    red = (np.asarray(sheet([[Tile(wide)]], tile_size=160)) == (200, 10, 10)).all(2)
    height, width = (np.ptp(axis) + 1 for axis in np.nonzero(red))
    assert (width + 2, height + 2) == (160, 40)  # the edge covers one pixel on each side


def test_the_same_tiles_give_the_same_bytes() -> None:
    rows = [[Tile(RED, "a red square"), Tile(checkerboard(32), "a board")], [Tile(None)]]
    first, second = (
        png_bytes(sheet(rows, title="t", column_titles=["real"], row_titles=["x", "y"])) for _ in range(2)
    )
    assert first == second


def test_each_part_of_the_text_takes_its_own_room() -> None:
    rows = [[Tile(RED), Tile(RED)], [Tile(RED)]]
    bare = sheet(rows)
    assert sheet(rows, title="samples").height > bare.height
    assert sheet(rows, column_titles=["real", "generated"]).height > bare.height
    assert sheet(rows, row_titles=["a caption", "another one"]).width > bare.width
    assert sheet(rows, lead_columns=1).width > bare.width
    captioned = sheet([[Tile(RED, "a caption"), Tile(RED)], [Tile(RED)]])
    assert captioned.height > bare.height
    assert captioned.width == bare.width


def test_a_caption_changes_nothing_but_the_strip_below_its_tile() -> None:
    one, other = (
        np.asarray(sheet([[Tile(RED, text), Tile(RED)]])) for text in ("a red square", "a red cube")
    )
    rows, columns = np.nonzero((one != other).any(2))
    assert rows.min() > 128
    assert columns.max() < one.shape[1] / 2


def test_an_empty_place_keeps_the_columns_aligned() -> None:
    with_place = np.asarray(sheet([[Tile(None), Tile(RED)]]))
    with_image = np.asarray(sheet([[Tile(RED), Tile(RED)]]))
    half = with_place.shape[1] // 2
    np.testing.assert_array_equal(with_place[:, half:], with_image[:, half:])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "without images"),
        ([[]], "without images"),
        ([[Tile(np.zeros((4, 4), np.uint8))]], r"uint8 \(4, 4\)"),
        ([[Tile(np.zeros((4, 4, 3), np.float32))]], "float32"),
        ([[Tile(np.zeros((0, 4, 3), np.uint8))]], r"\(0, 4, 3\)"),
        ([[Tile("apple.png")]], "a str cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_named_in_one_line(rows: list[list[Tile]], says: str) -> None:
    with pytest.raises(GanvasError, match=says) as caught:
        sheet(rows)
    assert "\n" not in str(caught.value)


def test_a_sheet_too_large_to_draw_is_refused_before_it_is_made() -> None:
    with pytest.raises(GanvasError, match="too large"):
        sheet([[Tile(RED)] * 100] * 100, tile_size=256)
    with pytest.raises(GanvasError, match="tile size of 2"):
        sheet([[Tile(RED)]], tile_size=2)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(16, 160), st.integers(0, 4))
@example("\ud800 a lone surrogate", 64, 2)
@example("戴着帽子的笑脸" * 9, 64, 2)
@example("👩🏽‍🚀\u200d\ufe0f é é \x00\r\n\t", 64, 2)
@example("ﷺ" * 50, 20, 1)
def test_any_text_wraps_into_its_lines_and_is_drawn(text: str, width: int, max_lines: int) -> None:
    lettering = Lettering(12)
    lines = lettering.wrap(text, width, max_lines)
    assert len(lines) <= max_lines
    assert all(lines)
    for line in lines:
        assert lettering.width(line) <= width or len(line.rstrip(".")) <= 2  # one character may be wider
    sheet([[Tile(RED[:8, :8], text)]], title=text, column_titles=[text], row_titles=[text], tile_size=width)


@given(st.lists(st.sampled_from(["a", "red", "apple", "hat,", "with"]), max_size=12))
def test_wrapping_loses_no_word_where_there_is_room(words: list[str]) -> None:
    text = " ".join(words)
    assert " ".join(Lettering(12).wrap(text, 60, 99)) == text


def test_a_text_that_does_not_fit_ends_in_an_ellipsis_between_words() -> None:
    lettering = Lettering(12)
    (line,) = lettering.wrap("a red apple on a wooden table beside a window", 100, 1)
    assert line.endswith(ELLIPSIS)
    kept = line.removesuffix(ELLIPSIS).split()
    assert kept == ["a", "red", "apple", "on", "a", "wooden", "table"][: len(kept)]


def test_text_as_long_as_a_book_is_cut_before_it_is_measured() -> None:
    assert len(clean("a " * 10_000_000)) <= 2_000


def test_cleaning_joins_lines_and_drops_what_is_invisible() -> None:
    assert clean(" a\n b\u200b\tc\x00\ufe0f ") == "a b c"
    assert clean("e\u0301") == "é"


def test_a_saved_image_reads_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "red.png"
    target.write_bytes(b"an older file")
    assert save_png(RED, target) == target
    np.testing.assert_array_equal(np.asarray(Image.open(target)), RED)
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]


def test_an_image_is_saved_only_under_a_png_name_in_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match=r"end the name in \.png"):
        save_png(RED, tmp_path / "red.jpg")
    with pytest.raises(GanvasError, match="no folder"):
        save_png(RED, tmp_path / "missing" / "red.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(GanvasError, match="cannot be written"):
        save_png(RED, tmp_path / "taken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, RunStopped), (errno.EACCES, GanvasError)])
def test_a_failing_disk_leaves_the_older_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[GanvasError]
) -> None:
    target = save_png(RED, tmp_path / "red.png")
    before = target.read_bytes()

    def fail(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(number, "the reason")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(GanvasError, match="the reason") as caught:
        save_png(checkerboard(64), target)
    assert type(caught.value) is kind
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]
