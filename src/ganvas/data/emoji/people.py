"""Who is drawn: the subject of an emoji apart from gender and hair.

``man firefighter``, ``woman firefighter`` and ``firefighter`` are one subject with three genders;
``woman: red hair`` is a person with red hair. Skin tones are already apart (``Emoji.skin_tones``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SPECIAL = {
    "man": ("person", "man"),
    "woman": ("person", "woman"),
    "merman": ("merperson", "man"),
    "mermaid": ("merperson", "woman"),
    "prince": ("person with crown", "man"),
    "princess": ("person with crown", "woman"),
    "old man": ("older person", "man"),
    "old woman": ("older person", "woman"),
    "deaf man": ("deaf person", "man"),
    "deaf woman": ("deaf person", "woman"),
    "pregnant man": ("pregnant person", "man"),
    "pregnant woman": ("pregnant person", "woman"),
    "man dancing": ("person dancing", "man"),
    "woman dancing": ("person dancing", "woman"),
    "men holding hands": ("people holding hands", "man"),
    "women holding hands": ("people holding hands", "woman"),
    "woman and man holding hands": ("people holding hands", "woman and man"),
}
_COUPLE = re.compile(r"(kiss|couple with heart): (woman|man), (woman|man)")
_HAIR = re.compile(r"(person|man|woman): (?:(\w+) hair|(bald|beard))")
_GENDERED = re.compile(r"(man|woman|men|women) (.+)")
_SINGULAR = {"men": "man", "women": "woman"}
_NEUTRAL = {"man": "person", "woman": "person", "men": "people", "women": "people"}


@dataclass(frozen=True, kw_only=True)
class Who:
    """The subject of an emoji, and what is told apart from it."""

    subject: str
    """The English name without gender, hair and skin tone."""
    gender: str | None = None
    """``woman``, ``man``, ``person`` (drawn as neither), or ``woman and man`` for a couple."""
    hair: str | None = None
    """``red``, ``curly``, ``white``, ``blond``, ``bald`` or ``beard``."""


def read_people(labels: Iterable[str]) -> dict[str, Who]:
    """English label to subject, gender and hair, for the labels of emojis without skin tones."""
    known = set(labels)
    found = {label: _read(label, known) for label in sorted(known)}
    gendered = {who.subject for who in found.values() if who.gender}
    return {
        label: Who(subject=who.subject, gender="person", hair=who.hair)
        if who.gender is None and who.subject in gendered
        else who
        for label, who in found.items()
    }


def _read(label: str, known: set[str]) -> Who:
    if label in _SPECIAL:
        subject, gender = _SPECIAL[label]
        return Who(subject=subject, gender=gender)
    if couple := _COUPLE.fullmatch(label):
        subject, one, other = couple.groups()
        return Who(subject=subject, gender=one if one == other else "woman and man")
    if hair := _HAIR.fullmatch(label):
        return Who(subject="person", gender=hair[1], hair=hair[2] or hair[3])
    if gendered := _GENDERED.fullmatch(label):
        word, rest = gendered.groups()
        for subject in (rest, f"{_NEUTRAL[word]} {rest}"):
            if subject in known:
                return Who(subject=subject, gender=_SINGULAR.get(word, word))
    return Who(subject=label)
