"""The emoji set as a data set: 10,000 captioned drawings that need no download."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ganvas.data.emoji import captions
from ganvas.data.emoji.english import noun_phrase, plain
from ganvas.data.emoji.pack import Drawing, Emoji, read_pack
from ganvas.data.emoji.people import Who, read_people
from ganvas.data.emoji.split import Item, split
from ganvas.data.source import Rejected, Source, chosen_options
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean

_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' width="{size}" height="{size}" viewBox="{left} {top} {width} {height}">{body}</svg>'
)


class EmojiSource(Source):
    """The same subjects in three drawing styles, on white, with captions in one of many languages.

    Args:
        options: ``language``, as emojibase names it; ``en`` by default.

    Raises:
        GanvasError: an option or a language that there is not.
    """

    name = "emoji"
    licence = "Apache-2.0 AND CC-BY-4.0 AND MIT"
    sizes = (32, 256)

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = chosen_options(self.name, options, {"language": "en"})
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
        pack = read_pack()
        language = self.options["language"]
        drawings = list(pack.drawings.values())
        english = {drawing.id: self._english(drawing) for drawing in drawings}
        splits = split([self._item(drawing, english[drawing.id]) for drawing in drawings])
        return [
            Record(
                id=drawing.id,
                split=splits[drawing.id],
                captions=english[drawing.id] if language == "en" else self._translated(drawing, language),
                label=plain(self._who(pack.emojis[drawing.hexcode]).subject),
                attributes=self._attributes(drawing),
            )
            for drawing in drawings
        ]

    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        """The drawing on white, uint8 ``(size, size, 3)``."""
        return render(self._drawings[record.id], size)

    @cached_property
    def _people(self) -> dict[str, Who]:
        return read_people(e.names["en"][0] for e in read_pack().emojis.values() if e.base == e.hexcode)

    @cached_property
    def _tag_frequency(self) -> Counter[str]:
        bases = (emoji for emoji in read_pack().emojis.values() if emoji.base == emoji.hexcode)
        return Counter(tag for emoji in bases for tag in emoji.names["en"][1])

    def _label(self, emoji: Emoji) -> str:
        return read_pack().emojis[emoji.base].names["en"][0]

    def _who(self, emoji: Emoji) -> Who:
        return self._people[self._label(emoji)]

    def _english(self, drawing: Drawing) -> tuple[str, ...]:
        emoji = read_pack().emojis[drawing.hexcode]
        shown = noun_phrase(emoji, self._who(emoji), self._label(emoji))
        tags = captions.useful_tags(emoji.names["en"][1], self._tag_frequency, shown)
        return captions.english(drawing.id, shown, drawing.style, tags)

    def _translated(self, drawing: Drawing, language: str) -> tuple[str, ...]:
        emoji = read_pack().emojis[drawing.hexcode]
        label, tags = emoji.names[language]
        return captions.translated(language, label, drawing.style, tags, toned=bool(emoji.skin_tones))

    def _item(self, drawing: Drawing, english: tuple[str, ...]) -> Item:
        who = self._who(read_pack().emojis[drawing.hexcode])
        return Item(
            id=drawing.id,
            hexcode=drawing.hexcode,
            subject=who.subject,
            combination=(who.subject, who.gender, who.hair, drawing.style),
            captions=english,
        )

    def _attributes(self, drawing: Drawing) -> dict[str, str]:
        emoji = read_pack().emojis[drawing.hexcode]
        who = self._who(emoji)
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
