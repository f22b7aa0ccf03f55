"""The gallery: generated images beside the real ones, as a web page in one file and as one image."""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image, features

from ganvas import __version__
from ganvas.errors import GanvasError
from ganvas.sheets import Picture, Tile, cannot_write, save_png, sheet, to_rgb, write_whole

MAX_IMAGES = 5_000
"""On one page, real ones included: some 50 MB of 64-pixel images."""

_CRISP_BELOW = 48  # images smaller than this are pixel art to the eye, and stay sharp when enlarged
_SHORT_VALUE = 16  # characters that a score's value may have to be set in large type


@dataclass(frozen=True)
class Entry:
    """One caption of a gallery."""

    caption: str
    real: Picture | None
    """The data set's own image for this caption, if it has one."""
    generated: Sequence[Picture]
    """At least one."""
    note: str | None = None
    """A few words below the caption, such as why it was chosen."""


@dataclass(frozen=True)
class ShownScore:
    """A score as a reader meets it."""

    value: str
    """Such as ``12.3``."""
    protocol: str
    """How the number was made, in words: images, split, features, seed."""


def write_gallery(
    out: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    lead: str = "",
    about: Mapping[str, str],
    scores: Mapping[str, ShownScore | str],
    footer: str | None = None,
) -> tuple[Path, Path]:
    """Write ``gallery.html``, which needs no other file and no network, and ``gallery.png``.

    Every text is escaped; the page runs no script and loads nothing.

    Args:
        out: the folder, made if it does not exist.
        entries: the captions and their images, in the order in which they are shown.
        title: the page's heading.
        lead: a sentence or two below it.
        about: facts in a few words each, such as ``{"model": "GAN-INT-CLS", "budget": "12 minutes"}``.
        scores: by name; a plain string is shown as it is.
        footer: the last line; by default which version of Ganvas made the page.

    Returns:
        The page's path and the image's.

    Raises:
        GanvasError: there is no entry, an entry has no generated image, an image is of another kind, there
            are too many, or the folder cannot be written.
        RunStopped: the disk is full.
    """
    _check(entries)
    page = _page(entries, title, lead, about, scores, footer)
    picture = _overview(entries, title)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from None
    return write_whole(out / "gallery.html", page.encode("utf-8")), save_png(picture, out / "gallery.png")


def _check(entries: Sequence[Entry]) -> None:
    if not entries:
        raise GanvasError("a gallery without entries: give at least one caption with its images")
    for entry in entries:
        if not len(entry.generated):
            raise GanvasError(f"gallery: the caption {entry.caption[:60]!r} has no generated image")
    count = sum(len(entry.generated) + (entry.real is not None) for entry in entries)
    if count > MAX_IMAGES:
        raise GanvasError(
            f"gallery: {count:,} images are more than the {MAX_IMAGES:,} that a page takes; show fewer"
        )


def _overview(entries: Sequence[Entry], title: str) -> Image.Image:
    """The gallery as one image."""
    with_real = any(entry.real is not None for entry in entries)
    real = [[Tile(entry.real)] if with_real else [] for entry in entries]
    return sheet(
        [
            lead + [Tile(image) for image in entry.generated]
            for lead, entry in zip(real, entries, strict=True)
        ],
        title=title,
        column_titles=["real", "generated"] if with_real else ["generated"],
        row_titles=[entry.caption for entry in entries],
        lead_columns=int(with_real),
    )


def _page(
    entries: Sequence[Entry],
    title: str,
    lead: str,
    about: Mapping[str, str],
    scores: Mapping[str, ShownScore | str],
    footer: str | None,
) -> str:
    template = Template(asset("gallery.html"))
    with_real = any(entry.real is not None for entry in entries)
    hint = "Each caption with the images that the model generated for it"
    framed = ", beside the <b>framed real image</b> from the data set." if with_real else "."
    return template.substitute(
        style=asset("page.css"),
        title=escaped(title),
        lead=f'<p class="lead" dir="auto">{escaped(lead)}</p>' if lead else "",
        about=_about(about, scores),
        scores=_scores(scores),
        heading="Captions and images",
        hint=f'<p class="hint">{hint}{framed}</p>',
        cards="\n".join(map(_card, entries)),
        footer=escaped(f"Made with Ganvas {__version__}." if footer is None else footer),
    )


def _about(about: Mapping[str, str], scores: Mapping[str, ShownScore | str]) -> str:
    """The facts, then each score's number, which leads to its protocol."""
    facts = [(name, escaped(value)) for name, value in about.items()]
    values = ((name, _value(score)) for name, score in scores.items())
    facts += [(name, f'<a href="#scores">{escaped(value)}</a>') for name, value in values if _is_short(value)]
    cells = (f"<div><dt>{escaped(name)}</dt><dd>{shown}</dd></div>" for name, shown in facts)
    return f'<dl class="about">{"".join(cells)}</dl>' if facts else ""


def _scores(scores: Mapping[str, ShownScore | str]) -> str:
    if not scores:
        return ""
    cells = "".join(f"<div><dt>{escaped(name)}</dt>{_score(score)}</div>" for name, score in scores.items())
    heading = '<h2 id="scores">Scores, and how each was made</h2>'
    return f'<section aria-labelledby="scores">{heading}<dl class="scores">{cells}</dl></section>'


def _score(score: ShownScore | str) -> str:
    value, protocol = _value(score), "" if isinstance(score, str) else score.protocol
    look = "value" if _is_short(value) else "words"
    how = f'<dd class="protocol">{escaped(protocol)}</dd>' if protocol else ""
    return f'<dd class="{look}">{escaped(value)}</dd>{how}'


def _value(score: ShownScore | str) -> str:
    return score if isinstance(score, str) else score.value


def _is_short(value: str) -> bool:
    return len(value) <= _SHORT_VALUE


def _card(entry: Entry) -> str:
    caption, count = escaped(entry.caption), len(entry.generated)
    note = f'<p class="note" dir="auto">{escaped(entry.note)}</p>' if entry.note else ""
    figures = []
    if entry.real is not None:
        real = inline_image(entry.real, f"Real image for the caption: {caption}")
        figures.append(f'<figure class="real">{real}<figcaption>real</figcaption></figure>')
    for number, image in enumerate(entry.generated, 1):
        made = inline_image(image, f"Generated image {number} of {count} for the caption: {caption}")
        figures.append(f"<figure>{made}</figure>")
    columns = "five" if -len(figures) % 5 < -len(figures) % 4 else "four"  # whichever leaves fewer gaps
    images = f'<div class="images {columns}">{"".join(figures)}</div>'
    return f'<article class="card"><h3 dir="auto">{caption}</h3>{note}{images}</article>'


def asset(name: str) -> str:
    """A file of ``ganvas/assets``: a page's template, or ``page.css``, the look that all pages share."""
    return files("ganvas").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def inline_image(picture: Picture, alt: str, *, compressed: bool = False) -> str:
    """An ``img`` element that holds its pixels.

    Args:
        picture: a Pillow image or uint8 ``(H, W, 3)``.
        alt: what it shows, escaped already.
        compressed: as WebP, of which a photo takes a tenth, rather than with every pixel as it is.

    Raises:
        GanvasError: it is of another kind.
    """
    image = to_rgb(picture)
    file = io.BytesIO()
    kind = "webp" if compressed and features.check("webp") else "png"
    image.save(file, format=kind, **({"quality": 90} if kind == "webp" else {"optimize": True}))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    look = ' class="crisp"' if max(image.size) < _CRISP_BELOW else ""
    return (
        f'<img{look} src="data:image/{kind};base64,{data}" width="{image.width}" height="{image.height}"'
        f' alt="{alt}" loading="lazy" decoding="async">'
    )


def escaped(text: str) -> str:
    """``text`` for a page: escaped, on one line, without controls or halves of characters."""
    kept = (
        " " if unicodedata.category(c) == "Cc" else c if unicodedata.category(c) != "Cs" else "\ufffd"
        for c in text
    )
    return html.escape(" ".join("".join(kept).split()))
