"""Where the words of captions lie, in generated images and in pictures: in Python and on a sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import COLOURS, THINGS, Called

from ganvas import word_sheets
from ganvas.building import build_system
from ganvas.errors import GanvasError
from ganvas.images import image_to_tensor
from ganvas.model_folder import save_model
from ganvas.pipeline import Model, load
from ganvas.recipe import load_recipe
from ganvas.sheets import Tile
from ganvas.word_maps import WordMaps
from ganvas.word_sheets import layout_file, tinted, word_colours

Ganvas = Callable[..., Called]
SIZE = 32
CAPTION = "a red ball and one green hat"
SMALL = [
    f"data.image_size={SIZE}",
    "text.features=8",
    "text.embedding=4",
    "settings.generator_width=4",
    "settings.discriminator_width=4",
    "settings.damsm.width=4",
]


def save(folder: Path, recipe: str, *overrides: str) -> Path:
    """A model folder as training leaves it, with fresh weights."""
    torch.manual_seed(0)
    resolved = load_recipe(recipe, [*SMALL, *overrides])
    captions = [f"a {colour} {thing} and one" for colour in COLOURS for thing in THINGS]
    save_model(build_system(resolved, captions=captions), resolved, folder, {"gan": 8})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("layout") / "model", "alr-gan-emoji")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


def picture() -> Image.Image:
    """40 x 24 pixels."""
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (24, 40, 3), dtype=np.uint8))


def check_maps(found: WordMaps, *, words: int) -> None:
    assert len(found.words) == words
    assert [maps.shape for maps in found.maps] == [(words, side, side) for side in (SIZE // 4, SIZE // 2)]
    for maps in found.maps:
        np.testing.assert_allclose(maps.sum(axis=0), 1, rtol=1e-4)


def test_generated_images_have_a_layout_at_every_stage(model: Model) -> None:
    found = model.layout(CAPTION, n=2, seed=3)
    assert len(found) == 2
    for one, image in zip(found, model.generate([CAPTION], n=2, seed=3), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(image))
        check_maps(one, words=7)
    assert not np.allclose(found[0].maps[-1], found[1].maps[-1])


def test_the_layout_of_a_picture_is_that_of_its_middle_square(model: Model) -> None:
    found = model.layout_of(picture(), CAPTION)
    check_maps(found, words=7)
    assert found.image.size == (SIZE, SIZE)
    with torch.inference_mode():
        wanted = model.system.layout(image_to_tensor(picture(), SIZE), model.system.embed([CAPTION]))
    for maps, tensor in zip(found.maps, wanted, strict=True):
        np.testing.assert_allclose(maps, tensor[0].numpy(), rtol=1e-4, atol=1e-6)
    other_sides = picture()
    for left in (0, 36):
        other_sides.paste("red", (left, 0, left + 4, 24))
    assert np.array_equal(model.layout_of(other_sides, CAPTION).maps[-1], found.maps[-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_without_three_channels_are_read_too(model: Model, mode: str) -> None:
    check_maps(model.layout_of(picture().convert(mode), CAPTION), words=7)


def test_another_picture_and_another_caption_have_another_layout(model: Model) -> None:
    first = model.layout_of(picture(), CAPTION).maps[-1]
    assert not np.allclose(
        first, model.layout_of(picture().transpose(Image.Transpose.ROTATE_180), CAPTION).maps[-1]
    )
    assert not np.allclose(first, model.layout_of(picture(), "a blue star and one green hat").maps[-1])


def test_one_word_has_every_place(model: Model) -> None:
    for found in (*model.layout("ball"), model.layout_of(picture(), "ball")):
        check_maps(found, words=1)
        assert all((maps == 1).all() for maps in found.maps)


def test_bfloat16_changes_images_and_no_layout(folder: Path, model: Model) -> None:
    rounded = load(folder, precision="bfloat16")
    assert np.array_equal(
        rounded.layout_of(picture(), CAPTION).maps[-1], model.layout_of(picture(), CAPTION).maps[-1]
    )
    [found], [image] = rounded.layout(CAPTION), rounded.generate([CAPTION])
    assert np.array_equal(np.asarray(found.image), np.asarray(image))
    assert np.array_equal(found.maps[-1], model.layout(CAPTION)[0].maps[-1])


def test_attngan_trained_with_layout_refinement_has_layouts(tmp_path: Path) -> None:
    refined = load(save(tmp_path / "refined", "attngan-emoji", "settings.layout.lvr_weight=1"))
    check_maps(refined.layout_of(picture(), CAPTION), words=7)
    plain = load(save(tmp_path / "plain", "attngan-emoji"))
    for call in (lambda: plain.layout(CAPTION), lambda: plain.layout_of(picture(), CAPTION)):
        with pytest.raises(GanvasError, match=r"system attngan, which has no layouts.*train alr-gan, or"):
            call()


def test_an_empty_caption_lies_nowhere(model: Model) -> None:
    for call in (lambda: model.layout(" "), lambda: model.layout_of(picture(), "")):
        with pytest.raises(GanvasError, match="caption: is empty"):
            call()


def test_tints_are_as_strong_as_weights_and_have_the_colour_of_the_surest_word() -> None:
    white, colours = Image.new("RGB", (2, 2), "white"), np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    weights = np.array([[[1, 0.5], [0, 0.2]], [[0, 0.4], [1, 0]]], np.float32)
    shown = np.asarray(tinted(white, weights, colours)).tolist()
    assert shown == [[[255, 0, 0], [255, 128, 128]], [[0, 0, 255], [255, 204, 204]]]
    black = np.asarray(tinted(Image.new("RGB", (2, 2)), weights, colours))
    assert black[0, 0].tolist() == [128, 0, 0] and black[1, 0].tolist() == [0, 0, 128]


def test_neighbouring_words_have_colours_far_apart() -> None:
    colours = word_colours(18)
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 0.4
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2)
    assert apart[~np.eye(18, dtype=bool)].min() > 0.1


def test_a_sheet_has_a_row_for_each_stage_of_each_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[Tile]]] = []
    titles: list[list[str]] = []
    drawn = word_sheets.sheet

    def watched(rows: list[list[Tile]], *, row_titles: list[str], lead_columns: int) -> Image.Image:
        seen.append(rows)
        titles.append(row_titles)
        return drawn(rows, row_titles=row_titles, lead_columns=lead_columns)

    monkeypatch.setattr(word_sheets, "sheet", watched)
    picture().save(tmp_path / "real.png")
    captions = [CAPTION, "a hat"]
    layout_file(folder, captions, tmp_path / "sheet.png", n=2, picture=tmp_path / "real.png")
    [rows] = seen
    assert titles == [[CAPTION, *[""] * 5, "a hat", *[""] * 5]]
    assert [len(row) for row in rows] == [9] * 6 + [4] * 6
    assert [row[0].caption for row in rows[:6]] == [*["generated"] * 4, *["the picture"] * 2]
    assert [row[1].caption for row in rows[:2]] == ["8 x 8 places", "16 x 16 places"]
    parts = [[int(str(tile.caption).split(", ")[1].rstrip("%")) for tile in row[2:]] for row in rows]
    assert all(abs(sum(row) - 100) <= len(row) / 2 for row in parts)
    assert [str(tile.caption).split(",")[0] for tile in rows[-1][2:]] == ["a", "hat"]


def test_the_command_writes_one_sheet(ganvas: Ganvas, folder: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "real.png")
    options = ["--show-layout", "--precision", "bfloat16", "--out"]
    assert ganvas("generate", folder, CAPTION, *options, "alone.png") == Called(0, "alone.png\n", "")
    called = ganvas("generate", folder, CAPTION, "--picture", "real.png", *options, "both.png")
    assert called == Called(0, "both.png\n", "")
    alone, both = Image.open(tmp_path / "alone.png"), Image.open(tmp_path / "both.png")
    assert both.width == alone.width and both.height > 1.5 * alone.height
    assert {path.name for path in tmp_path.iterdir()} == {"real.png", "alone.png", "both.png"}


REFUSED: list[tuple[list[str], str]] = [
    (["a ball", "--show-attention"], "--show-attention, --show-layout: each writes a sheet of its own"),
    (["a ball", "--style-from", "real.png"], "--show-layout: shows images by their noise"),
    (["a ball", "--picture", "missing.png"], "missing.png: no such image file"),
    (["a ball", "--picture", "text.png"], "text.png: is no image"),
    (["a ball", "--picture", "cut.png"], "cut.png: is damaged"),
    (["a ball", "--picture", "."], ".: no such image file"),
    (["a ball", ""], "caption 2: is empty"),
    (["--captions", "empty.txt"], "no caption given"),
    (["a ball", "--out", "folder"], "layouts are shown on one sheet; name a .png file"),
    (["a ball", "-n", "65"], "65 images: layouts are shown for at most 64"),
    (["a ball", "-n", "0"], "n=0: should be at least 1"),
    (["a ball", "--seed", "-1"], "seed=-1"),
    (["a ball", "--precision", "float8"], "precision 'float8'"),
    (["a ball", "--out", "missing/sheet.png"], "there is no folder missing"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_what_cannot_be_shown_is_refused_in_one_line_and_writes_nothing(
    ganvas: Ganvas, folder: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    picture().save(tmp_path / "real.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "real.png").read_bytes()[:500])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.txt").write_text("\n")
    before = set(tmp_path.iterdir())
    called = ganvas("generate", folder, *arguments, "--show-layout")
    assert called.is_one_line() and words in called.err and called.out == "", called
    assert set(tmp_path.iterdir()) == before


def test_models_without_layouts_say_so_in_one_line(ganvas: Ganvas, undisturbed: Path, tmp_path: Path) -> None:
    called = ganvas("generate", undisturbed, "a ball", "--show-layout")
    assert called.is_one_line() and "system gan-int-cls, which has no layouts" in called.err
    called = ganvas("generate", undisturbed, "a ball", "--picture", "real.png")
    assert called.is_one_line() and "--picture: shows where words lie" in called.err
    assert not list(tmp_path.iterdir())
