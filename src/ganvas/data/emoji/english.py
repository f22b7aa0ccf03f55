"""Natural English for emojis: who or what is shown, with skin tone and hair, as one noun phrase."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ganvas.data.emoji.grammar import AN, NO_ARTICLE, NOT_AN, PHRASES, TAILS, THE, THE_FLAGS
from ganvas.data.emoji.pack import Emoji
from ganvas.data.emoji.people import Who

_NUMBERS = {2: "two", 3: "three", 4: "four"}
_PLURAL = {
    "man": "men",
    "woman": "women",
    "boy": "boys",
    "girl": "girls",
    "adult": "adults",
    "child": "children",
}
_TWO = {"person": "two people", "man": "two men", "woman": "two women", "woman and man": "a woman and a man"}
_PEOPLE = {**_PLURAL, "person": "people"}
_HAIR = {"beard": "a beard"}
_TIME = re.compile(r"(\w+)(?:-thirty| o’clock)")
_PARTED = re.compile(r"(.+?) ((?:with|doing|getting) .+)")


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in two parts, so that a skin tone can stand beside the noun that it belongs to."""

    head: str
    """Article and noun, such as ``a woman``."""
    tail: str = ""
    """What follows, such as ``with a white cane`` or ``getting a massage``."""

    def having(self, *traits: str) -> str:
        """The phrase with traits such as ``dark skin``: ``a woman with dark skin and a white cane``."""
        tail = self.tail
        if traits and tail.startswith("with "):
            traits, tail = (*traits, tail.removeprefix("with ")), ""
        described = f"{self.head} with {' and '.join(traits)}" if traits else self.head
        return f"{described} {tail}".strip()


def noun_phrase(emoji: Emoji, who: Who, label: str) -> str:
    """What an emoji shows: ``a woman firefighter with dark skin``.

    Args:
        emoji: gives group and skin tones.
        who: gives subject, gender and hair.
        label: the English label of its base, without skin tones.
    """
    if len(emoji.skin_tones) == 2:
        return plain(_pair(emoji, who, label))
    traits = [f"{tone} skin" for tone in emoji.skin_tones]
    if who.hair == "bald":
        return plain(Phrase(f"a bald {who.gender}").having(*traits))
    if who.hair:
        traits.insert(0, _HAIR.get(who.hair, f"{who.hair} hair"))
    return plain(_phrase(emoji, who, label).having(*traits))


def plain(text: str) -> str:
    """The same with the quotes and apostrophes that people type."""
    return text.replace("’", "'").replace("“", '"').replace("”", '"').replace("\u202f", " ")


def _phrase(emoji: Emoji, who: Who, label: str) -> Phrase:
    if who.gender:
        return _person(who, label)
    if emoji.group == "flags" and label.startswith("flag: "):
        return Phrase(_flag(label.removeprefix("flag: ")))
    if label.startswith("family: "):
        return Phrase(_family(label.removeprefix("family: ").split(", ")))
    if label in PHRASES:
        return Phrase(*PHRASES[label].split("|"))
    if emoji.subgroup == "time" and (time := _TIME.fullmatch(label)):
        return Phrase(f"a clock showing {plain(label).replace('-', ' ') if time else label}")
    if emoji.subgroup == "zodiac":
        return Phrase(f"the zodiac sign {label}")
    if emoji.subgroup == "regional-indicator":
        return Phrase(f"the {label.replace('indicator', 'indicator letter')}")
    if label.startswith("keycap: "):
        return Phrase("a keycap", f"with the number {label.removeprefix('keycap: ')}")
    if label.startswith(("person ", "people ")):
        word, rest = label.split(" ", 1)
        return Phrase("a person" if word == "person" else "people", _tail(rest))
    if emoji.subgroup in ("transport-sign", "warning") and label.startswith("no "):
        return Phrase(f"a {label} sign")
    return _thing(label)


def _thing(label: str) -> Phrase:
    if label in NO_ARTICLE:
        named = label
    elif label in THE:
        named = f"the {label}"
    else:
        named = f"{_article(label)} {label.replace(' (blood type)', ' for the blood type')}"
    parted = _PARTED.fullmatch(named)
    return Phrase(*parted.groups()) if parted else Phrase(named)


def _article(label: str) -> str:
    vowel = label.startswith(AN) or (label[0] in "aeiouAEIO" and not label.startswith(NOT_AN))
    return "an" if vowel else "a"


def _person(who: Who, label: str) -> Phrase:
    gender = who.gender or "person"
    if who.subject == "person":
        return Phrase(f"a {gender}")
    if who.subject == "kiss":
        return Phrase(f"a kiss between {_TWO[gender]}")
    if who.subject == "couple with heart":
        return Phrase("a couple" if gender == "person" else f"a couple of {_TWO[gender]}", "with a heart")
    if who.subject.startswith("people "):
        people = _TWO[gender].removeprefix("two ")
        return Phrase(people, _tail(who.subject.removeprefix("people ")))
    if who.subject.startswith("person ") and label not in ("prince", "princess"):
        return Phrase(f"a {gender}", _tail(who.subject.removeprefix("person ")))
    return Phrase(f"{_article(label)} {label}")


def _tail(rest: str) -> str:
    """What people do or have: ``walking: facing right`` becomes ``walking, facing right``."""
    what, _, where = rest.partition(": ")
    what = TAILS.get(what, what)
    return f"{what}, {where}" if where else what


def _pair(emoji: Emoji, who: Who, label: str) -> str:
    """Two people, or two hands, with a skin tone each."""
    left, right = (f"{tone} skin" for tone in emoji.skin_tones)
    phrase = _phrase(emoji, who, label)
    shown = phrase.having()
    if who.gender == "woman and man":
        return f"{shown}, the woman with {left} and the man with {right}"
    if label == "handshake":
        return f"{shown}, the left hand with {left} and the right hand with {right}"
    return f"{shown}, the left {who.gender or 'person'} with {left} and the right one with {right}"


def _family(members: list[str]) -> str:
    counted = [
        f"{_article(member)} {member}" if count == 1 else f"{_NUMBERS[count]} {_PLURAL[member]}"
        for member, count in Counter(members).items()
    ]
    listed = " and ".join([", ".join(counted[:-1]), counted[-1]] if len(counted) > 1 else counted)
    return f"a family of {listed}"


def _flag(country: str) -> str:
    country = country.replace(" & ", " and ").replace(" - ", " ")
    article = "the " if country.startswith(THE_FLAGS) else ""
    return f"the flag of {article}{country}"
