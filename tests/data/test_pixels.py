"""Image files to pixels: every kind of file, upright, on white, within bounds; crops and sizes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ganvas.data import pixels as module
from ganvas.data.pixels import Fit, around, decode, read_image, region, shape_of


def smooth(width: int, height: int) -> Image.Image:
    """A drawing without fine detail, which JPEG and scaling keep."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(6 * x / width + 4 * y / height)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def difference(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(kind: str, orientation: int) -> None:
    image = smooth(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = file(image, kind, exif=exif)
    with Image.open(io.BytesIO(encoded)) as opened:
        upright = ImageOps.exif_transpose(opened)
    assert difference(read_image(encoded), upright) < 1
    left = decode(encoded, 16, Fit(resize="whole"))
    assert left.shape[:2] == ((16, 24) if upright.width > upright.height else (24, 16))
    assert difference(left, upright.resize((left.shape[1], left.shape[0]), Image.Resampling.BILINEAR)) < 2


@pytest.mark.parametrize("scaling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["shorter", "square", "whole"])
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (200, 200)])
def test_scaling_agrees_with_pillow(resize: Any, scaling: Any, size: tuple[int, int]) -> None:
    image = smooth(*size)
    fit = Fit(resize=resize, scaling=scaling)
    found = decode(file(image, "PNG"), 64, fit)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    part = region(*size, fit)
    expected = image.resize(found.shape[1::-1], filters[scaling], box=part)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 2


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_looks_the_same_decoded_at_a_fraction(mode: str, exact: bool) -> None:
    image = smooth(1200, 800)
    encoded = file(image.convert(mode), "JPEG", quality=95)
    found = decode(encoded, 64, Fit(exact=exact))
    expected = (
        image.convert(mode).convert("RGB").crop((200, 0, 1000, 800)).resize((64, 64), Image.Resampling.BOX)
    )
    assert difference(found, expected) < 2


def test_a_large_jpeg_is_decoded_at_a_fraction_unless_asked_to_be_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import simplejpeg

    decoded = []

    def noted(*args: Any, **options: Any) -> Any:
        decoded.append(simplejpeg_decode(*args, **options))
        return decoded[-1]

    simplejpeg_decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    encoded = file(smooth(1200, 800), "JPEG")
    for fit in (Fit(), Fit(exact=True), Fit(resize="square")):
        decode(encoded, 64, fit)
    assert [d.shape for d in decoded] == [(100, 150, 3), (800, 1200, 3), (100, 150, 3)]


def test_sixteen_bits_become_eight() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = read_image(file(Image.fromarray(ramp), "PNG"))
    assert np.abs(found[:, :, 0].astype(float) - ramp / 257).max() <= 0.5
    assert (found[:, :, 0] == found[:, :, 2]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "P":
        paletted = image.convert("RGB").quantize(4)
        clear = paletted.getpixel((0, 0))
        encoded = file(paletted, "PNG", transparency=clear)
    else:
        encoded = file(image.convert(mode), "PNG")
    found = read_image(encoded)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:, 1] < 100).all()


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    encoded = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(encoded) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    whole = file(noise, kind)
    with pytest.raises(ValueError, match=r"is damaged|is no image"):
        decode(whole[: int(len(whole) * kept)], 32, Fit())


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"]),
)
def test_whatever_the_bytes_are_it_is_an_image_or_one_line(content: bytes, start: bytes) -> None:
    try:
        found = decode(start + content, 16, Fit())
    except ValueError as reason:
        assert "\n" not in str(reason)
    else:
        assert found.shape == (16, 16, 3)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 99 * 100)
    with pytest.raises(ValueError, match=r"100 x 100 pixels, more than the 9,900 allowed"):
        read_image(file(smooth(100, 100), "JPEG"))


def test_an_extremely_long_image_is_refused_where_the_longer_side_is_kept() -> None:
    encoded = file(smooth(2100, 100), "PNG")
    with pytest.raises(ValueError, match="20 times as long"):
        decode(encoded, 64, Fit(resize="whole"))
    assert decode(encoded, 64, Fit()).shape == (64, 64, 3)


# --- crops


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((10, 20, 40, 20), (100, 100), (0, 0, 60, 60)),  # middle (30, 30), R = int(0.75 * 40) = 30
        ((60, 27, 325, 304), (500, 335), (0, 0, 465, 335)),  # middle (222, 179), R = int(243.75) = 243
        ((139, 30, 153, 264), (500, 300), (17, 0, 413, 300)),  # middle (215, 162), R = 198
    ],
)
def test_the_crop_around_a_box_is_that_of_the_papers(
    box: tuple[int, int, int, int], size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert around(box, *size) == expected
    assert region(*size, Fit(resize="whole", box=True), box) == expected
    assert region(*size, Fit(resize="whole"), box) == (0, 0, *size)


def test_a_box_outside_of_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        decode(file(smooth(50, 50), "PNG"), 16, Fit(box=True), (200, 200, 10, 10))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 300))
def test_every_shape_comes_to_its_size(width: int, height: int, size: int) -> None:
    middle = region(width, height, Fit())
    assert middle[2] - middle[0] == middle[3] - middle[1] == min(width, height)
    assert 0 <= middle[0] <= middle[2] <= width and 0 <= middle[1] <= middle[3] <= height
    assert shape_of(middle, size, Fit()) == (size, size)
    if max(width, height) <= 20 * min(width, height):
        tall, wide = shape_of((0, 0, width, height), size, Fit(resize="whole"))
        assert min(tall, wide) == size and (tall > wide) <= (height > width)


def test_the_shorter_side_of_304_is_that_of_attngan() -> None:
    assert shape_of((0, 0, 500, 375), 304, Fit(resize="whole")) == (304, 405)  # int(304 * 500 / 375)
