"""The compositional split of the emoji set: combinations that training never shows, of words that it does."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ganvas.data.emoji.captions import order

TEST_SHARE = 0.10
VAL_SHARE = 0.06
"""Of all drawings; those that the test split takes, and those that training needs, leave about 5 %."""

_WORD = re.compile(r"\w+")
_APART = re.compile(r"[\s，、：]+")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One drawing, as the split sees it."""

    id: str
    hexcode: str
    """What is drawn, in whatever style."""
    combination: tuple[str | None, ...]
    """What must not be known from training: subject, style, and for people gender and hair."""
    captions: tuple[str, ...]
    """In English: the split is the same in every language."""


def words(captions: Iterable[str]) -> set[str]:
    """The words of captions, in lower case, hyphenated ones in parts too: what training must have met."""
    found: set[str] = set()
    for caption in captions:
        lower = caption.lower()
        found.update(_WORD.findall(lower))
        found.update(part.strip("\"':,.()") for part in _APART.split(lower))
    return found - {""}


def split(items: Sequence[Item]) -> dict[str, str]:
    """Id to ``train``, ``val`` or ``test``; it depends on what the items are, not on their order.

    ``val`` is a random share of what is drawn in several styles. ``test`` takes
    whole combinations, in an order that a hash gives, each one only if

    - everything it draws stays in training in another style, so that its names are known in every language;
    - every English word of its captions stays in training.

    A combination goes to the test split with all its skin tones: a woman firefighter whom training never
    shows in one style is shown there with no skin at all.
    """
    val = _val(items)
    test = _test(items, val)
    return {item.id: "test" if item.id in test else "val" if item.id in val else "train" for item in items}


def _val(items: Sequence[Item]) -> set[str]:
    drawn = Counter(item.hexcode for item in items)
    val: set[str] = set()
    for place, item in sorted(((order("val", item.id), item) for item in items), key=lambda pair: pair[0]):
        if int(place[:8], 16) < VAL_SHARE * 2**32 and drawn[item.hexcode] > 1:
            val.add(item.id)
            drawn[item.hexcode] -= 1
    return val


def _test(items: Sequence[Item], val: set[str]) -> set[str]:
    kept = [item for item in items if item.id not in val]
    drawn = Counter(item.hexcode for item in kept)
    known = Counter(word for item in kept for word in words(item.captions))
    blocks: dict[tuple[str | None, ...], list[Item]] = defaultdict(list)
    for item in items:
        blocks[item.combination].append(item)
    test: set[str] = set()
    wanted = round(TEST_SHARE * len(items))
    for _, block in sorted(blocks.items(), key=lambda pair: order("test", *map(str, pair[0]))):
        leaving = [item for item in block if item.id not in val]
        fewer_drawn = Counter(item.hexcode for item in leaving)
        fewer_known = Counter(word for item in leaving for word in words(item.captions))
        if len(test) + len(block) > wanted:
            continue
        if all(drawn[item.hexcode] > fewer_drawn[item.hexcode] for item in block) and all(
            known[word] > fewer_known[word] for item in block for word in words(item.captions)
        ):
            test.update(item.id for item in block)
            drawn -= fewer_drawn
            known -= fewer_known
    return test
