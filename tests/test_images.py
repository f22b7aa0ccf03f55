"""Images: read with a bound, upright, on white; damaged ones are one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.data.pixels import MAX_PIXELS
from ganvas.errors import GanvasError
from ganvas.images import image_to_tensor, open_image, to_uint8


def png_that_claims(width: int, height: int) -> bytes:
    """A whole PNG of a few bytes whose header promises any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size", [(50_000, 50_000), (10_000, 9_000), (8_001, 8_000), (2**31 - 1, 2**31 - 1), (1, MAX_PIXELS + 1)]
)
def test_a_small_file_that_claims_a_huge_image_is_refused_undecoded(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GanvasError, match=f"{path}: .*(64,000,000 allowed|cannot be read|no image)"):
            open_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(GanvasError, match=f"{path}: ") as refused:
        open_image(path)
    assert "\n" not in str(refused.value)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.png", Path("/proc/self/mem"), Path("a\0b")):
        with pytest.raises(GanvasError, match=r"no such image file|no image|cannot be read"):
            open_image(path)


def drawing() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    drawing().save(file, kind)
    return file.getvalue()


FILES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@pytest.mark.parametrize("kind", sorted(FILES))
def test_every_common_kind_of_file_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(FILES[kind])
    image = open_image(tmp_path / "x")
    assert image.mode == "RGB" and image.size == (40, 24)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_no_damaged_file_is_answered_by_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert open_image(path).mode == "RGB"
    except GanvasError as refused:
        assert "\n" not in str(refused)
    finally:
        path.unlink()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.convert(mode).save(tmp_path / "x.png")
    read = open_image(tmp_path / "x.png")
    assert read.getpixel((0, 0)) == (0, 0, 0) and read.getpixel((3, 3)) == (255, 255, 255)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (20, 40)


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    tensor = image_to_tensor(Image.fromarray(array), 16)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() >= -1 and tensor.max() <= 1
    assert (to_uint8(tensor)[0] == array).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 3), (5, 7)])
def test_any_shape_becomes_a_square(size: tuple[int, int]) -> None:
    assert image_to_tensor(Image.new("RGB", size), 16).shape == (1, 3, 16, 16)


def test_what_lies_outside_the_range_is_cut_off_and_halves_are_rounded() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(values.bfloat16()).dtype == np.uint8
