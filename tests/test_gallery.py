"""The gallery page and its image."""

from __future__ import annotations

import base64
import io
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from web_pages import Page, contrast

from ganvas.errors import GanvasError
from ganvas.gallery import MAX_IMAGES, Entry, ShownScore, write_gallery

ABOUT = {"model": "GAN-INT-CLS", "budget": "12 minutes"}
SCORES: dict[str, ShownScore | str] = {
    "Frechet distance": ShownScore("18.4", "512 images of the test split; lower is better"),
    "remark": "A sentence that is no number at all.",
}
ELEMENTS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "footer",
    "section",
    "article",
}
ELEMENTS |= {"h1", "h2", "h3", "p", "b", "a", "dl", "dt", "dd", "div", "figure", "figcaption", "img"}


def image(value: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (size, size, 3), np.uint8)


def entry(number: int, *, real: bool = True, num_generated: int = 3) -> Entry:
    generated = [image(100 * number + index) for index in range(num_generated)]
    return Entry(f"caption {number}", image(99 + 100 * number) if real else None, generated)


def pixels(source: str | None) -> np.ndarray:
    assert source is not None
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_page_holds_every_image_pixel_for_pixel_in_order(tmp_path: Path) -> None:
    entries = [entry(1), entry(2, real=False)]
    page = Page(write_gallery(tmp_path, entries, title="t", about=ABOUT, scores=SCORES)[0])
    expected = [entries[0].real, *entries[0].generated, *entries[1].generated]
    for shown, original in zip(page.images(), expected, strict=True):
        np.testing.assert_array_equal(pixels(shown["src"]), original)


def test_every_image_says_in_words_what_it_is(tmp_path: Path) -> None:
    page = Page(write_gallery(tmp_path, [entry(7)], title="t", about={}, scores={})[0])
    assert [attributes["alt"] for attributes in page.images()] == [
        "Real image for the caption: caption 7",
        "Generated image 1 of 3 for the caption: caption 7",
        "Generated image 2 of 3 for the caption: caption 7",
        "Generated image 3 of 3 for the caption: caption 7",
    ]


def test_the_page_shows_every_text_it_is_given(tmp_path: Path) -> None:
    noted = Entry("a caption", None, [image(1)], note="held out")
    page = Page(
        write_gallery(
            tmp_path,
            [noted],
            title="The title",
            lead="The lead.",
            about=ABOUT,
            scores=SCORES,
            footer="The end.",
        )[0]
    )
    for text in (
        "The title",
        "The lead.",
        "The end.",
        "held out",
        "a caption",
        *ABOUT,
        *ABOUT.values(),
        *SCORES,
    ):
        assert text in page.text
    assert "18.4" in page.text
    assert "512 images of the test split" in page.text
    assert "A sentence that is no number at all." in page.text


def test_a_number_at_the_top_leads_to_its_protocol(tmp_path: Path) -> None:
    page = Page(write_gallery(tmp_path, [entry(1)], title="t", about={}, scores=SCORES)[0])
    targets = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert targets == ["#scores"]
    assert any(attributes.get("id") == "scores" for _, attributes in page.elements)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = Page(write_gallery(tmp_path, [entry(1)], title="t", about=ABOUT, scores=SCORES)[0])
    assert "default-src 'none'" in page.source
    assert not re.search(r"(?i)https?:|@import|url\(|<script|<link|<iframe|javascript:", page.source)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80))
@example('"><script>alert(1)</script>')
@example("' onload='alert(1)")
@example("</title></style><img src=x>")
@example("$title ${cards} &amp; \ud800 \x00 \x1b[0m")
@example("戴着帽子的笑脸 👩🏽‍🚀")
def test_no_text_becomes_markup(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    out = tmp_path_factory.mktemp("gallery")
    page = Page(
        write_gallery(
            out,
            [Entry(text, None, [image(1)], note=text)],
            title=text,
            lead=text,
            about={text: text},
            scores={text: ShownScore(text, text), "plain": text},
            footer=text,
        )[0]
    )
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    allowed = {"class", "src", "width", "height", "alt", "loading", "decoding"}
    assert [set(attributes) <= allowed for attributes in page.images()] == [True]
    assert page.open == []


def test_the_same_entries_give_the_same_files(tmp_path: Path) -> None:
    made = [
        write_gallery(tmp_path / name, [entry(1)], title="t", about=ABOUT, scores=SCORES)
        for name in ("a", "b")
    ]
    for first, second in zip(*made, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_the_image_has_a_row_for_each_caption(tmp_path: Path) -> None:
    heights = []
    for count in (1, 2, 3):
        entries = [entry(number) for number in range(count)]
        _, picture = write_gallery(tmp_path, entries, title="t", about={}, scores={})
        heights.append(Image.open(picture).height)
    assert heights[2] - heights[1] == heights[1] - heights[0] >= 128


def test_only_tiny_images_are_shown_with_crisp_pixels(tmp_path: Path) -> None:
    entries = [Entry("both", image(1, 16), [image(2, 64)])]
    page = Page(write_gallery(tmp_path, entries, title="t", about={}, scores={})[0])
    assert [attributes.get("class") for attributes in page.images()] == ["crisp", None]


def test_a_gallery_without_generated_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="without entries"):
        write_gallery(tmp_path, [], title="t", about={}, scores={})
    with pytest.raises(GanvasError, match="'an apple' has no generated image"):
        write_gallery(tmp_path, [Entry("an apple", image(1), [])], title="t", about={}, scores={})
    with pytest.raises(GanvasError, match="show fewer"):
        many = Entry("many", None, [image(1)] * (MAX_IMAGES + 1))
        write_gallery(tmp_path, [many], title="t", about={}, scores={})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GanvasError, match=r"file.*cannot be written") as caught:
        write_gallery(tmp_path / "file" / "out", [entry(1)], title="t", about={}, scores={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "accent"])
@pytest.mark.parametrize("behind", ["paper", "card"])
def test_text_stands_out_from_what_is_behind_it(scheme: str, text: str, behind: str) -> None:
    page = files("ganvas").joinpath("assets/page.css").read_text(encoding="utf-8")
    found = {name: re.findall(rf"--{name}: (#\w{{6}});", page) for name in (text, behind)}
    place = ("light", "dark").index(scheme)
    assert contrast(*(colours[place] for colours in found.values())) >= 4.5  # WCAG 2.2, 1.4.3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_the_screen_and_shows_its_images(
    tmp_path: Path, browser: Any, width: int, scheme: str
) -> None:
    entries = [entry(number) for number in range(3)] + [Entry("x" * 300, None, [image(1)])]
    path, _ = write_gallery(tmp_path, entries, title="y" * 90, about=ABOUT, scores=SCORES)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "Promise.all([...document.images].map(async i => {i.loading = 'eager'; await i.decode();"
        " return [i.naturalWidth, i.clientWidth, i.clientHeight]}))"
    )
    assert all(natural == 16 and 50 <= shown == height for natural, shown, height in sizes)
    assert complaints == []
    page.close()
