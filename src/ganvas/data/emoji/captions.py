"""Captions for emojis: several for each drawing, the same on every machine.

English captions are sentences of a few template families, chosen by a hash, so that the corpus is varied and
yet every word of a template is frequent. Other languages use their own names and tags.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ganvas.data.emoji.english import plain

REVISION = 3
"""Raised whenever captions or splits change, so that stores with older ones are prepared anew."""

_PLAIN = (
    "{shown}, drawn in the {style} style",
    "{shown} in {style} style",
    "a {style} emoji of {shown}",
    "a {style} drawing of {shown}",
    "an emoji of {shown}, {style} style",
    "an icon of {shown} in the {style} style",
    "{style} style: {shown}",
)
_TAGGED = (
    "{shown} in the {style} style, tagged {tags}",
    "a {style} emoji of {shown}, tagged {tags}",
    "an emoji tagged {tags}: {shown}, drawn in the {style} style",
    "{style} style, tagged {tags}: {shown}",
)
_TEMPLATES = {
    "zh": (
        ("{label}，{style} 风格", "{style} 风格的表情符号：{label}", "{label}，{style} 风格的图标"),
        ("{label}，{tags}，{style} 风格", "{style} 风格：{label}，{tags}"),
    ),
    "zh-hant": (
        ("{label}，{style} 風格", "{style} 風格的表情符號：{label}", "{label}，{style} 風格的圖示"),
        ("{label}，{tags}，{style} 風格", "{style} 風格：{label}，{tags}"),
    ),
}
"""Language to plain templates and templates with tags."""
_NEUTRAL = (
    ("{label}, {style}", "{style}: {label}", "{label} ({style})"),
    ("{label}, {tags}, {style}", "{style}: {label}, {tags}"),
)
"""For languages without templates of their own."""

_CHINESE_TONE = re.compile(r"(肤色|皮膚) ?(?=\S)")
"""A skin tone that another one follows."""

_NO_TAGS = frozenset(
    (
        "about", "adult", "af", "again", "all", "and", "are", "ass", "awk", "bae", "bday", "bet", "bff",
        "boy", "boys", "brb", "bro", "bruh", "cmon", "dam", "dark", "deg", "doo", "dope", "dup", "eek",
        "face", "female", "fleek", "fml", "for", "fosho", "gang", "gbeng", "gbsct", "gbwls", "geez", "get",
        "getting", "girl", "girls", "goes", "got", "gotcha", "gotta", "gtg", "haha", "hahaha", "hehe",
        "hey", "his", "hmm", "hrs", "huh", "idk", "ily", "imp", "jeez", "jel", "just", "left", "legit",
        "let", "light", "lit", "lmao", "lol", "male", "man", "medium", "men", "muah", "mwah", "nooo",
        "nope", "not", "now", "nyc", "off", "omg", "omw", "one", "out", "over", "own", "people", "person",
        "pga", "pissed", "rawr", "right", "rofl", "roflcopter", "roflmao", "sexy", "she", "shh", "smh",
        "sms", "sub", "style", "sucks", "tbt", "the", "this", "thx", "tmi", "tmnt", "too", "triste",
        "ttfn", "ttyl",
        "ugh", "uhh", "under", "up", "was", "what", "whatever", "when", "where", "whew", "who", "whoa",
        "why", "with", "woah", "woman", "women", "woo", "wow", "xoxo", "yay", "yikes", "yolo", "you",
        "your", "yum", "yup",
    )
)  # fmt: skip
"""Tags that say nothing about a drawing, or say what gender and skin tone say already."""


def order(*parts: str) -> str:
    """What puts things into an order that looks random and is the same everywhere."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def shuffled(items: Iterable[str], *parts: str) -> list[str]:
    """The items, in an order that depends on ``parts`` alone."""
    return sorted(items, key=lambda item: order(*parts, item))


def useful_tags(tags: Sequence[str], frequency: Counter[str], shown: str) -> list[str]:
    """The tags that add something to an English caption, frequent ones first, at most six.

    Args:
        tags: as emojibase has them.
        frequency: how many emojis have each tag; one that hardly any other has teaches nothing.
        shown: the noun phrase that the caption has anyway.
    """
    fit = [
        tag
        for tag in tags
        if len(tag) > 2
        and tag.isalpha()
        and tag.islower()
        and frequency[tag] > 1
        and tag not in _NO_TAGS
        and tag not in shown
    ]
    return sorted(fit, key=lambda tag: (-frequency[tag], tag))[:6]


def english(identity: str, shown: str, style: str, tags: Sequence[str]) -> tuple[str, ...]:
    """Five English captions: three plain ones, and two with tags where there are any.

    Args:
        identity: chooses the templates.
        shown: the noun phrase of what is drawn.
        style: the drawing style's name.
        tags: words that may enrich a caption.
    """
    plain_ones = shuffled(_PLAIN, identity)
    mixed = shuffled(tags, identity)
    pairs = [mixed[start : start + 2] for start in (0, 2) if mixed[start : start + 2]]
    tagged = [
        (template, " and ".join(pair))
        for template, pair in zip(shuffled(_TAGGED, identity), pairs, strict=False)
    ]
    chosen = [(template, "") for template in plain_ones[: 5 - len(tagged)]] + tagged
    return tuple(template.format(shown=shown, style=style, tags=pair) for template, pair in chosen)


def translated(language: str, label: str, style: str, tags: Sequence[str], *, toned: bool) -> tuple[str, ...]:
    """Captions in another language than English: its own name, its own tags, and the style's name.

    Args:
        language: as emojibase names it.
        label: the name, with the skin tone in it where there is one.
        style: the drawing style's name.
        tags: the tags; the first four that add something are used.
        toned: whether the label ends in a skin tone, after a colon.
    """
    chinese = language.startswith("zh")
    name, *known = (" ".join(plain(text).split()) for text in (label, *tags))
    words = [tag for tag in known if tag.lower() not in name.lower()][:4]
    if chinese:
        name = name.replace(": ", "：")
    if chinese and toned:
        name = _CHINESE_TONE.sub(r"\1、", name.replace("：", "，"))
    templates, tagged = _TEMPLATES.get(language, _NEUTRAL)
    listed = ("、" if chinese else ", ").join(words)
    chosen = templates + (tagged if listed else ())
    return tuple(template.format(label=name, style=style, tags=listed) for template in chosen)
