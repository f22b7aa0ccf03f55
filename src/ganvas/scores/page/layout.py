"""The page of a comparison as HTML: one file, no script, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from ganvas import __version__
from ganvas.gallery import asset, escaped, inline_image
from ganvas.scores.page.charts import chart, key
from ganvas.scores.page.content import (
    Between,
    Captioned,
    Cell,
    Comparison,
    Curve,
    Fact,
    ScoreRow,
    Series,
    Variation,
)
from ganvas.sheets import Picture, to_rgb, write_whole

_COMPRESSED_FROM = 128  # pixels a side: larger images are compressed as photos are


def write_page(out: Path, shown: Comparison, *, title: str, lead: str) -> Path:
    """Write the page as one file that needs no other one.

    Every text is escaped; the page runs no script and loads nothing.

    Args:
        out: the file; its folder has to exist.
        shown: what it shows.
        title: its heading.
        lead: a sentence or two below it.

    Returns:
        ``out``.

    Raises:
        GanvasError: an image is of another kind, or the file cannot be written.
        RunStopped: the disk is full.
    """
    sections = [
        (name, text)
        for name, text in (
            ("Models", _models(shown)),
            ("Scores", _scores(shown)),
            ("Same captions", _captioned(shown)),
            ("One word changed", _variations(shown)),
            ("Between two captions", _betweens(shown)),
            ("Learning curves", _curves(shown)),
        )
        if text
    ]
    links = "".join(f'<li><a href="#{_id(name)}">{name}</a></li>' for name, _ in sections)
    bodies = (
        f'<section id="{_id(name)}" aria-labelledby="{_id(name)}-heading">'
        f'<h2 id="{_id(name)}-heading">{name}</h2>\n{text}\n</section>'
        for name, text in sections
    )
    facts = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in shown.about.items()
    )
    page = Template(asset("compare.html")).substitute(
        style=asset("page.css"),
        title=escaped(title),
        lead=f'<p class="lead" dir="auto">{escaped(lead)}</p>',
        about=f'<dl class="about">{facts}</dl>' if facts else "",
        nav=f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>',
        sections="\n".join(bodies),
        footer=escaped(f"Made with Ganvas {__version__}."),
    )
    return write_whole(out, page.encode("utf-8"))


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _hint(text: str) -> str:
    return f'<p class="hint">{text}</p>'


def _model(shown: Comparison, number: int) -> str:
    """A model's name with its line, as every part of the page has it."""
    return f'<span class="model">{key(number)}<span dir="auto">{escaped(shown.models[number])}</span></span>'


def _table(label: str, head: Iterable[str], rows: Iterable[str]) -> str:
    """A table that scrolls by itself where it is wider than the screen."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0"><table class="facts">'
        f"<thead><tr><td></td>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _models(shown: Comparison) -> str:
    head = [_model(shown, number) for number in range(len(shown.models))]
    hint = _hint("What was trained, and the settings in which the models differ.") if len(head) > 1 else ""
    return hint + _table("Models", head, (_fact(fact, head) for fact in shown.facts))


def _fact(fact: Fact, who: Sequence[str]) -> str:
    name = escaped(fact.name)
    head = _row_head(f"<code>{name}</code>" if fact.setting else name)
    if len(set(fact.values)) == 1:
        cell = f'<td role="cell" colspan="{len(fact.values)}">{escaped(fact.values[0])}</td>'
        return f'<tr role="row">{head}{cell}</tr>'
    cells = "".join(_row_cell(model, escaped(value)) for model, value in zip(who, fact.values, strict=True))
    return f'<tr role="row" class="differs">{head}{cells}</tr>'


def _row_head(text: str) -> str:
    """The head of a row; roles are said again, as a phone's layout would hide that it is a table."""
    return f'<th scope="row" role="rowheader">{text}</th>'


def _row_cell(who: str, text: str, look: str = "") -> str:
    """A cell that names its model by itself where the table's head is not shown."""
    named = f' class="{look}"' if look else ""
    return f'<td role="cell" data-own{named}><span class="who">{who}</span><div>{text}</div></td>'


def _scores(shown: Comparison) -> str:
    if not shown.scores:
        return ""
    head = [_model(shown, number) for number in range(len(shown.models))]
    head += ['<span class="model">real images</span>'] if shown.real_scores else []
    hint = _hint(
        "Values of a row were made by one protocol, which is below the table. Where a model was scored by"
        " another one, its cell says in what it differs, and is not compared."
    )
    return (
        hint
        + _table("Scores", head, (_score_row(row, head) for row in shown.scores))
        + "".join(map(_protocol, shown.scores))
    )


def _score_row(row: ScoreRow, who: Sequence[str]) -> str:
    direction = "higher is better \u2191" if row.higher_is_better else "lower is better \u2193"
    head = _row_head(f'{escaped(row.name)}<span class="direction">{direction}</span>')
    cells = "".join(_row_cell(model, *_cell(cell)) for model, cell in zip(who, row.cells, strict=True))
    return f'<tr role="row" class="score">{head}{cells}</tr>'


def _cell(cell: Cell) -> tuple[str, str]:
    """What a cell says, and how it looks."""
    if cell.value is None:
        return "not scored", "none"
    value = f'<span class="value">{escaped(cell.value)}</span>'
    if cell.best:
        return f'{value}<span class="badge">best</span>', "best"
    if not cell.remarks:
        return value, ""
    remarks = "".join(f"<li>{escaped(remark)}</li>" for remark in cell.remarks)
    return f'{value}<ul class="remarks"><li><b>Not compared</b></li>{remarks}</ul>', "apart"


def _protocol(row: ScoreRow) -> str:
    facts = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in row.protocol.items()
    )
    return f"<details><summary>How {escaped(row.name)} was made</summary><dl>{facts}</dl></details>"


def _captioned(shown: Comparison) -> str:
    if not shown.captioned:
        return ""
    count = len(shown.captioned[0].images[0])
    noise = "Images in one column have the same noise" if count > 1 else "All images have the same noise"
    framed = ", and the <b>framed image</b> is the data set\u2019s own"
    real = framed if any(entry.real is not None for entry in shown.captioned) else ""
    cards = "".join(_caption_card(shown, entry) for entry in shown.captioned)
    return _hint(f"{noise}{real}.") + f'<div class="cards">{cards}</div>'


def _caption_card(shown: Comparison, entry: Captioned) -> str:
    caption = escaped(entry.caption)
    real = ""
    if entry.real is not None:
        image = _image(entry.real, f"Real image for the caption: {caption}")
        real = f'<figure class="real">{image}<figcaption>real</figcaption></figure>'
    rows = "".join(
        _strip(
            shown,
            number,
            [[f"noise {index + 1}, caption: {caption}" for index in range(len(images))]],
            [images],
        )
        for number, images in enumerate(entry.images)
    )
    head = f'<div class="asked"><h3 dir="auto">{caption}</h3>{real}</div>'
    return f'<article class="card">{head}<table>{rows}</table></article>'


def _strip(
    shown: Comparison, number: int, alts: Sequence[Sequence[str]], images: Sequence[Sequence[Picture]]
) -> str:
    """A model's images in rows, below its name."""
    name = escaped(shown.models[number])
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{_image(image, f'{name}, {alt}')}</td>" for image, alt in zip(row, row_alts, strict=True)
        )
        + "</tr>"
        for row, row_alts in zip(images, alts, strict=True)
    )
    head = f'<tr><th colspan="{len(images[0])}" scope="rowgroup">{_model(shown, number)}</th></tr>'
    return f"<tbody>{head}{rows}</tbody>"


def _series_table(shown: Comparison, series: Series, whats: Sequence[str]) -> str:
    """A table of images with a column for each state of the text.

    Args:
        shown: names of the models.
        series: the images.
        whats: for each column, what its images show; escaped already.
    """
    head = "".join(
        f'<th scope="col"{_first(column)} dir="auto">{escaped(name)}</th>'
        for column, name in enumerate(series.columns)
    )
    bodies = "".join(
        _strip(
            shown,
            number,
            [[f"noise {index + 1}, {what}" for what in whats] for index in range(len(rows))],
            rows,
        )
        for number, rows in enumerate(series.images)
    )
    return f"<table><thead><tr>{head}</tr></thead>{bodies}</table>"


def _first(column: int) -> str:
    return "" if column else ' class="first"'


def _variations(shown: Comparison) -> str:
    if not shown.variations:
        return ""
    hint = _hint(
        "The marked word is replaced by others; everything else, noise too, stays. A model that listens to"
        " its caption changes what the word says and nothing more."
    )
    cards = "".join(_variation(shown, entry) for entry in shown.variations)
    return hint + f'<div class="cards">{cards}</div>'


def _variation(shown: Comparison, entry: Variation) -> str:
    slot = f'<span class="slot">{escaped(entry.columns[0])}</span>'
    before, after = _joined(entry.before), _joined(entry.after)
    whats = [f"caption: {before}{escaped(word)}{after}" for word in entry.columns]
    head = f'<h3 dir="auto">{before}{slot}{after}</h3>'
    return f'<article class="card">{head}{_series_table(shown, entry, whats)}</article>'


def _joined(part: str) -> str:
    """A piece of a caption; the spaces at its ends part it from what comes next."""
    text = escaped(part)
    return " " * (text != "" and part[0].isspace()) + text + " " * (part != "" and part[-1].isspace())


def _betweens(shown: Comparison) -> str:
    if not shown.betweens:
        return ""
    hint = _hint(
        "What the text encoder made of two captions is blended in equal steps, with the same noise. Changes"
        " that come step by step speak for a model that has not learned single captions by heart."
    )
    cards = "".join(_between(shown, entry) for entry in shown.betweens)
    return hint + f'<div class="cards wide-cards">{cards}</div>'


def _between(shown: Comparison, entry: Between) -> str:
    first, second = escaped(entry.first), escaped(entry.second)
    head = (
        f'<div class="ends"><h3 dir="auto"><small>from</small>{first}</h3>'
        f'<h3 dir="auto"><small>to</small>{second}</h3></div>'
    )
    whats = [f"{escaped(share)} of the way from: {first}, to: {second}" for share in entry.columns]
    return f'<article class="card">{head}{_series_table(shown, entry, whats)}</article>'


def _curves(shown: Comparison) -> str:
    if not shown.curves:
        return ""
    hint = "Each term of each loss against images seen in its phase, as the runs logged it."
    if shown.without_log:
        hint += f" Without a log: {escaped(', '.join(shown.without_log))}."
    with_log = sorted({number for curve in shown.curves for number in curve.lines})
    legend = "".join(f"<li>{_model(shown, number)}</li>" for number in with_log)
    parts = [_hint(hint), f'<ul class="legend">{legend}</ul>']
    for phase in dict.fromkeys(curve.phase for curve in shown.curves):
        figures = "".join(_curve(shown, curve) for curve in shown.curves if curve.phase == phase)
        parts.append(f'<h3 class="phase">Phase {escaped(phase)}</h3><div class="curves">{figures}</div>')
    return "".join(parts)


def _curve(shown: Comparison, curve: Curve) -> str:
    term = curve.term.replace("_", " ")
    ends = {number: points[-1] for number, points in curve.lines.items()}
    told = "; ".join(
        f"{shown.models[number]} ends at {value:.3g} after {images:,.0f} images"
        for number, (images, value) in ends.items()
    )
    drawn = chart(curve.lines, f"Phase {curve.phase}, {term}, against images seen. {told}.")
    last = "".join(
        f'<li><span class="model">{key(number)}<b>{value:.3g}</b></span></li>'
        for number, (_, value) in ends.items()
    )
    ended = f'<ul class="ended" aria-hidden="true">{last}</ul>'
    return f"<figure><figcaption>{escaped(term)}</figcaption>{drawn}{ended}</figure>"


def _image(picture: Picture, alt: str) -> str:
    image = to_rgb(picture)
    return inline_image(image, alt, compressed=max(image.size) >= _COMPRESSED_FROM)
