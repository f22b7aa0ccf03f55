"""The emoji set as a data set: 10,000 captioned drawings that need no download."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ganvas.data.emoji import captions
from ganvas.data.emoji.english import noun_phrase, plain
from ganvas.data.emoji.pack import Drawing, Emoji, Pack, read_pack
from ganvas.data.emoji.people import Who, read_people
from ganvas.data.emoji.split import Item, split
from ganvas.data.source import Rejected, Request, Source, chosen_options
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean

_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' width="{size}" height="{size}" viewBox="{left} {top} {width} {height}">{body}</svg>'
)


class EmojiSource(Source):
    """The same subjects in three drawing styles, on white, with captions in one of many languages.

    Its option is ``language``, as emojibase names it; ``en`` by default.

    Raises:
        GanvasError: an option or a language that there is not, or a place.
    """

    name = "emoji"
    licence = "Apache-2.0 AND CC-BY-4.0 AND MIT AND Unicode-3.0"
    sizes = (32, 256)

    def __init__(self, request: Request) -> None:
        if request.place is not None:
            raise GanvasError(f"data set 'emoji': is embedded, so it lies in no folder ('{request.place}')")
        if request.fit is not None:
            raise GanvasError("data set 'emoji': is drawn at its size, so nothing can be cropped or resized")
        self.options = chosen_options(self.name, request.options, {"language": "en"})
        pack = read_pack()
        self._drawings = pack.drawings  # they travel to worker processes, which then need not read the pack
        if self.options["language"] not in pack.languages:
            raise GanvasError(
                f"data set 'emoji': no captions in language '{self.options['language']}'; "
                + did_you_mean(self.options["language"], pack.languages)
            )
        made_of = ", ".join(
            f"{source['title']} ({source['package']} {source['version']})" for source in pack.sources
        )
        self.about = f"{made_of}; pack {pack.sha256[:12]}, captions {captions.REVISION}"

    def records(self) -> list[Record]:
        """Every drawing, in the order of the Unicode charts within each style."""
        catalogue = read_catalogue()
        language = self.options["language"]
        return [
            Record(
                id=drawing.id,
                split=catalogue.splits[drawing.id],
                captions=catalogue.english[drawing.id]
                if language == "en"
                else _translated(catalogue.pack.emojis[drawing.hexcode], drawing.style, language),
                label=plain(catalogue.who[drawing.hexcode].subject),
                attributes=_attributes(catalogue, drawing),
            )
            for drawing in catalogue.pack.drawings.values()
        ]

    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        """The drawing on white, uint8 ``(size, size, 3)``."""
        return render(self._drawings[record.id], size)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What holds in every language."""

    pack: Pack
    who: dict[str, Who]
    """By hexcode."""
    english: dict[str, tuple[str, ...]]
    """Captions by drawing."""
    splits: dict[str, str]
    """By drawing."""


@cache
def read_catalogue() -> Catalogue:
    """Subjects, English captions and splits of the pack that ships with Ganvas, made once a process."""
    pack = read_pack()
    labels = {hexcode: pack.emojis[emoji.base].names["en"][0] for hexcode, emoji in pack.emojis.items()}
    people = read_people(labels.values())
    bases = [emoji for emoji in pack.emojis.values() if emoji.base == emoji.hexcode]
    frequency = Counter(tag for emoji in bases for tag in emoji.names["en"][1])
    who = {hexcode: people[label] for hexcode, label in labels.items()}
    english = {}
    for drawing in pack.drawings.values():
        emoji = pack.emojis[drawing.hexcode]
        shown = noun_phrase(emoji, who[drawing.hexcode], labels[drawing.hexcode])
        tags = captions.useful_tags(emoji.names["en"][1], frequency, shown)
        english[drawing.id] = captions.english(drawing.id, shown, drawing.style, tags)
    items = [_item(drawing, who[drawing.hexcode], english[drawing.id]) for drawing in pack.drawings.values()]
    return Catalogue(pack=pack, who=who, english=english, splits=split(items))


def _item(drawing: Drawing, who: Who, english: tuple[str, ...]) -> Item:
    return Item(
        id=drawing.id,
        hexcode=drawing.hexcode,
        combination=(who.subject, who.gender, who.hair, drawing.style),
        captions=english,
    )


def _translated(emoji: Emoji, style: str, language: str) -> tuple[str, ...]:
    label, tags = emoji.names[language]
    return captions.translated(language, label, style, tags, toned=bool(emoji.skin_tones))


def _attributes(catalogue: Catalogue, drawing: Drawing) -> dict[str, str]:
    emoji, who = catalogue.pack.emojis[drawing.hexcode], catalogue.who[drawing.hexcode]
    facts = {
        "style": drawing.style,
        "subject": plain(who.subject),
        "name": plain(emoji.names["en"][0]),
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "gender": who.gender,
        "skin_tone": ", ".join(emoji.skin_tones),
        "hair": who.hair,
    }
    return {name: value for name, value in facts.items() if value}


def render(drawing: Drawing, size: int) -> npt.NDArray[np.uint8]:
    """A drawing on white, uint8 ``(size, size, 3)``.

    Raises:
        Rejected: the renderer refuses it.
    """
    import resvg_py
    from PIL import Image

    left, top, width, height = drawing.box
    svg = _SVG.format(size=size, left=left, top=top, width=width, height=height, body=drawing.body)
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    except ValueError as error:
        raise Rejected(f"cannot be rendered: {error}") from None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
