"""Captions with one word replaced, to see what a single word does to the image."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ganvas.errors import GanvasError

MAX_OTHERS = 7
_SCANNED = 200_000  # captions looked through for words to swap: a second or two
_FEWEST = 2  # other words that make a swap worth showing

_COLOURS = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
    "gray",
    "golden",
)
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the this that these those its his her their some any each both all one of in on at to from with
        without by for as into onto over under near and or but nor so is are was were be been being has have
        had having it he she they there which who whose while very
        """,
    )
)
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: every character is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:[-'\u2019][^\W{_UNSPACED}]+)*")


@dataclass(frozen=True)
class Swap:
    """A caption, one of its words, and others for its place."""

    caption: str
    start: int
    """Where the word begins in the caption."""
    word: str
    others: tuple[str, ...]

    @property
    def before(self) -> str:
        """The caption up to the word."""
        return self.caption[: self.start]

    @property
    def after(self) -> str:
        """The caption behind the word."""
        return self.caption[self.start + len(self.word) :]

    def captions(self) -> list[str]:
        """With the word itself, then with each of the others."""
        return [f"{self.before}{word}{self.after}" for word in (self.word, *self.others)]


def read_swap(caption: str, text: str) -> Swap:
    """Understand ``red=green,blue`` for a caption with the word ``red``.

    Args:
        caption: that holds the word; upper and lower case do not matter.
        text: the word, and those that take its place.

    Raises:
        GanvasError: it is something else, or the word is not in the caption.
    """
    word, sign, rest = text.partition("=")
    word, others = word.strip(), tuple(dict.fromkeys(other.strip() for other in rest.split(",")))
    if not sign or not word or not all(others) or word in others:
        raise GanvasError(f"vary: '{text}' should be WORD=OTHER,OTHER, such as red=green,blue")
    if len(others) > MAX_OTHERS:
        raise GanvasError(f"vary: '{text}' has {len(others)} other words; give at most {MAX_OTHERS}")
    quoted = re.escape(word)
    found = re.search(rf"(?<!\w){quoted}(?!\w)", caption, re.IGNORECASE) or re.search(
        quoted, caption, re.IGNORECASE
    )
    if found is None:
        raise GanvasError(f"vary: the caption '{caption[:60]}' has no '{word}'; name a word that it has")
    return Swap(caption, found.start(), found.group(), others)


@dataclass(frozen=True)
class _Place:
    """A word's place in one of the captions that are to be varied."""

    caption: str
    start: int
    word: str
    words: tuple[str, ...]
    index: int

    @property
    def pattern(self) -> tuple[str, ...]:
        """The caption's words without this one."""
        return (*self.words[: self.index], "", *self.words[self.index + 1 :])

    @property
    def neighbours(self) -> tuple[str, str]:
        before = self.words[self.index - 1] if self.index else ""
        after = self.words[self.index + 1] if self.index + 1 < len(self.words) else ""
        return before, after


def find_swaps(captions: Sequence[str], among: Iterable[str], *, num: int, others: int) -> list[Swap]:
    """Words of some captions that others can replace, as the data have it.

    The best replacements are those that make another caption of the data; then colours, for a colour; then
    words that the data have between the same two neighbours. Frequent ones come first.

    Args:
        captions: those that may be varied, in order of preference.
        among: the captions of the data.
        num: swaps wanted; each is of another caption and another word.
        others: replacements of each, at most.

    Returns:
        ``num`` swaps, or fewer where there are none; always the same for the same captions.
    """
    places = [place for caption in dict.fromkeys(captions) for place in _places(caption)]
    counts = _count(places, among)
    ranked = []
    for order, place in enumerate(places):
        for tier, found in enumerate(_candidates(place, counts)):
            chosen = sorted(found, key=lambda word: (-found[word], -counts.all[word]))[:others]
            if len(chosen) >= _FEWEST:
                known = min(counts.all[word] for word in (place.word.lower(), *chosen))
                ranked.append((tier, -known, order, place, tuple(chosen)))
                break
    swaps: list[Swap] = []
    used_words: set[str] = set()
    used_captions: set[str] = set()
    for _, _, _, place, chosen_words in sorted(ranked, key=lambda entry: entry[:3]):
        if place.caption in used_captions or used_words & {place.word.lower(), *chosen_words}:
            continue
        used_captions.add(place.caption)
        used_words |= {place.word.lower(), *chosen_words}
        swaps.append(Swap(place.caption, place.start, place.word, _like(place.word, chosen_words)))
        if len(swaps) == num:
            break
    return swaps


def _places(caption: str) -> list[_Place]:
    found = list(_WORD.finditer(caption))
    words = tuple(match.group().lower() for match in found)
    return [
        _Place(caption, match.start(), match.group(), words, index)
        for index, match in enumerate(found)
        if words[index] not in _FUNCTION_WORDS
    ]


@dataclass(frozen=True)
class _Counts:
    """How often words stand in the data."""

    exact: Mapping[tuple[str, ...], Counter[str]]
    """In a place, all other words of the caption being equal."""
    near: Mapping[tuple[str, str], Counter[str]]
    """Between the same two neighbours."""
    all: Counter[str]
    """Anywhere."""


def _count(places: Sequence[_Place], among: Iterable[str]) -> _Counts:
    counts = _Counts(
        {place.pattern: Counter() for place in places},
        {place.neighbours: Counter() for place in places},
        Counter(),
    )
    spots: dict[int, set[int]] = defaultdict(set)
    for place in places:
        spots[len(place.words)].add(place.index)
    for caption in islice(among, _SCANNED):
        words = tuple(_WORD.findall(caption.lower()))
        counts.all.update(words)
        framed = ("", *words, "")
        for index, word in enumerate(words):
            if (around := (framed[index], framed[index + 2])) in counts.near:
                counts.near[around][word] += 1
        for index in spots.get(len(words), ()):
            if (pattern := (*words[:index], "", *words[index + 1 :])) in counts.exact:
                counts.exact[pattern][words[index]] += 1
    return counts


def _candidates(place: _Place, counts: _Counts) -> list[dict[str, int]]:
    """Words for a place and how well they fit: best kind first."""
    word = place.word.lower()
    exact = dict.fromkeys(counts.exact[place.pattern], 1)  # one that fits fits; the better known is chosen
    colours = {colour: counts.all[colour] for colour in _COLOURS} if word in _COLOURS else {}
    near = counts.near[place.neighbours] if all(place.neighbours) else {}
    return [
        {other: fit for other, fit in kind.items() if other != word and other not in _FUNCTION_WORDS}
        for kind in (exact, colours, near)
    ]


def _like(word: str, others: Sequence[str]) -> tuple[str, ...]:
    """Other words with a capital where ``word`` has one."""
    return tuple(other[:1].upper() + other[1:] if word[:1].isupper() else other for other in others)
