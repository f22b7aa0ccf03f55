"""The embedded emoji set: pack, captions, splits, rendering."""

from __future__ import annotations

import hashlib
import lzma
import re
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.data.emoji import EmojiSource, captions, english, grammar
from ganvas.data.emoji.english import noun_phrase
from ganvas.data.emoji.pack import Drawing, parse_pack, read_pack
from ganvas.data.emoji.people import read_people
from ganvas.data.emoji.source import read_catalogue, render
from ganvas.data.emoji.split import Item, split, words
from ganvas.data.source import Rejected, Request
from ganvas.data.store import Record
from ganvas.errors import GanvasError

STYLES = {"noto", "twemoji", "fluent"}
FOLDER = files("ganvas.data.emoji")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return EmojiSource(Request()).records()


def of(records: list[Record], *splits: str) -> list[Record]:
    return [record for record in records if record.split in splits]


def combination(record: Record) -> tuple[str | None, ...]:
    names = ("subject", "gender", "hair", "skin_tone", "style")
    return tuple(record.attributes.get(name) for name in names)


# --- the pack


def test_the_pack_is_small_enough_to_ship_and_is_the_one_that_was_built() -> None:
    packed = (FOLDER / "emoji.jsonl.xz").read_bytes()
    assert len(packed) <= 8 * 2**20
    assert (FOLDER / "emoji.jsonl.xz.sha256").read_text().split()[0] == hashlib.sha256(packed).hexdigest()


def test_a_damaged_pack_is_refused_in_one_line() -> None:
    packed = lzma.compress(b"{}")
    with pytest.raises(GanvasError, match="install ganvas again") as error:
        parse_pack(packed, "0" * 64)
    assert "\n" not in str(error.value)


def test_every_source_of_the_pack_is_credited_in_the_package() -> None:
    credits = (FOLDER / "CREDITS").read_text(encoding="utf-8")
    for source in read_pack().sources:
        assert f"{source['package']} {source['version']}" in credits
        assert source["url"] in credits
    assert "Twemoji, Copyright Twitter, Inc and other contributors" in credits


def test_about_ten_thousand_drawings_show_the_same_subjects_in_three_styles(records: list[Record]) -> None:
    assert 10_000 < len(records) == len({record.id for record in records})
    styles = {record.label: set() for record in records}
    for record in records:
        styles[record.label].add(record.attributes["style"])
    assert set().union(*styles.values()) == STYLES
    assert sum(found == STYLES for found in styles.values()) > 0.8 * len(styles)


# --- who is drawn


@pytest.mark.parametrize(
    ("hexcode", "subject", "gender", "skin_tone", "hair"),
    [
        ("1F9D1-200D-1F692", "firefighter", "person", None, None),
        ("1F469-1F3FF-200D-1F692", "firefighter", "woman", "dark", None),
        ("1F468-1F3FB-200D-1F9B0", "person", "man", "light", "red"),
        ("1F9D4", "person", "person", None, "beard"),
        ("1F9DC-1F3FD-200D-2640-FE0F", "merperson", "woman", "medium", None),
        ("1F44D-1F3FC", "thumbs up", None, "medium-light", None),
        (
            "1F469-1F3FB-200D-2764-FE0F-200D-1F48B-200D-1F468-1F3FF",
            "kiss",
            "woman and man",
            "light, dark",
            None,
        ),
        ("1F347", "grapes", None, None, None),
    ],
)
def test_attributes_tell_who_is_drawn(
    records: list[Record],
    hexcode: str,
    subject: str,
    gender: str | None,
    skin_tone: str | None,
    hair: str | None,
) -> None:
    record = next(record for record in records if record.id == f"{hexcode}/twemoji")
    assert record.label == subject
    assert combination(record) == (subject, gender, hair, skin_tone, "twemoji")


def test_a_name_that_only_looks_gendered_stays_a_subject_of_its_own() -> None:
    who = read_people(["woman with headscarf", "man’s shoe", "firefighter", "man firefighter"])
    assert (who["woman with headscarf"].subject, who["woman with headscarf"].gender) == (
        "woman with headscarf",
        None,
    )
    assert who["man’s shoe"].gender is None
    assert (who["man firefighter"].subject, who["man firefighter"].gender) == ("firefighter", "man")
    assert who["firefighter"].gender == "person"


# --- English


@pytest.mark.parametrize(
    ("hexcode", "phrase"),
    [
        ("1F600", "a grinning face"),
        ("1F347", "grapes"),
        ("1F962", "chopsticks"),
        ("1F95A", "an egg"),
        ("1F984", "a unicorn"),
        ("1F33F", "an herb"),
        ("1F198", "an SOS button"),
        ("1F1EF-1F1F5", "the flag of Japan"),
        ("1F1E7-1F1F8", "the flag of the Bahamas"),
        ("1F1E6-1F1EC", "the flag of Antigua and Barbuda"),
        ("1F55D", "a clock showing two thirty"),
        ("1F551", "a clock showing two o'clock"),
        ("0035-FE0F-20E3", "a keycap with the number 5"),
        ("264C", "the zodiac sign Leo"),
        ("1F44D-1F3FD", "a thumbs up with medium skin"),
        ("1F9BB-1F3FF", "an ear with dark skin and a hearing aid"),
        ("1F469-1F3FF-200D-1F692", "a woman firefighter with dark skin"),
        ("1F469-1F3FB-200D-1F9B0", "a woman with red hair and light skin"),
        ("1F468-1F3FE-200D-1F9B2", "a bald man with medium-dark skin"),
        ("1F486-1F3FC-200D-2642-FE0F", "a man with medium-light skin getting a massage"),
        ("1F469-1F3FD-200D-1F9AF", "a woman with medium skin and a white cane"),
        ("1F468-200D-1F469-200D-1F467-200D-1F466", "a family of a man, a woman, a girl and a boy"),
        ("1F469-200D-1F469-200D-1F466-200D-1F466", "a family of two women and two boys"),
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "a kiss between a woman and a man"),
        (
            "1F469-1F3FB-200D-1F91D-200D-1F468-1F3FF",
            "a woman and a man holding hands, the woman with light skin and the man with dark skin",
        ),
        (
            "1FAF1-1F3FB-200D-1FAF2-1F3FF",
            "a handshake, the left hand with light skin and the right hand with dark skin",
        ),
    ],
)
def test_a_noun_phrase_is_natural_english(hexcode: str, phrase: str) -> None:
    pack, who = read_pack(), read_catalogue().who
    emoji = pack.emojis[hexcode]
    assert noun_phrase(emoji, who[hexcode], pack.emojis[emoji.base].names["en"][0]) == phrase


def test_articles_agree_with_the_sound_that_follows(records: list[Record]) -> None:
    text = "\n".join(caption for record in records for caption in record.captions)
    wrong_a = set(re.findall(r"\ba ([aeiouAEIO]\w+)", text))
    wrong_an = set(re.findall(r"\ban ([^aeiouAEIO\W]\w*)", text))
    assert wrong_a == {"euro", "ewe", "unicorn", "one"}
    assert wrong_an == {"herb", "hourglass", "x", "NG", "SOS", "UP"}


def test_the_grammar_has_no_entry_for_a_name_that_no_emoji_has() -> None:
    labels = {emoji.names["en"][0] for emoji in read_pack().emojis.values()}
    tails = {label.split(" ", 1)[-1].split(": ")[0] for label in labels}
    assert set(grammar.PHRASES) <= labels
    assert labels >= grammar.NO_ARTICLE | grammar.THE
    assert set(grammar.TAILS) <= tails


def test_the_grammar_has_no_entry_that_the_rules_make_superfluous(monkeypatch: pytest.MonkeyPatch) -> None:
    pack, who = read_pack(), read_catalogue().who
    hexcodes = {emoji.names["en"][0]: hexcode for hexcode, emoji in pack.emojis.items()}
    monkeypatch.setattr(english, "PHRASES", {})
    superfluous = [
        label
        for label, phrase in grammar.PHRASES.items()
        if english._phrase(pack.emojis[hexcodes[label]], who[hexcodes[label]], label)
        == english.Phrase(*phrase.split("|"))
    ]
    assert superfluous == []


# --- captions


def test_every_drawing_has_three_different_captions_at_least(records: list[Record]) -> None:
    assert all(len(set(record.captions)) == len(record.captions) >= 3 for record in records)


def test_no_two_drawings_share_an_english_caption(records: list[Record]) -> None:
    seen = Counter(caption for record in records for caption in record.captions)
    assert [caption for caption, count in seen.items() if count > 1] == []


def test_every_caption_names_style_skin_tones_hair_and_gender(records: list[Record]) -> None:
    shown_as = {
        "woman": r"\b(wom[ae]n|princess|mermaid)\b",
        "man": r"\b(m[ae]n|prince|merman)\b",
        "woman and man": r"\bwoman and a man\b",
    }
    for record in records:
        facts = record.attributes
        tones = [f"{tone} skin" for tone in facts.get("skin_tone", "").split(", ") if tone]
        for caption in record.captions:
            assert facts["style"] in caption
            assert all(tone in caption for tone in tones), caption
            assert facts.get("hair", "") in caption, caption
            assert re.search(shown_as.get(facts.get("gender", ""), ""), caption), caption


def test_every_caption_names_its_subject(records: list[Record]) -> None:
    """By one word of the name at least, or by the first letters of one: 'kissing', 'six thirty', 'men'."""
    alike = {"merperson", "person", "people"}
    for record in records:
        named = {word[:4] for word in words([record.attributes["subject"]]) if len(word) > 1} or words(
            [record.attributes["subject"]]
        )
        for caption in record.captions:
            assert named & {word[: len(n)] for word in words([caption]) for n in named} or (
                set(record.attributes["subject"].split()) & alike
            ), (record.attributes["subject"], caption)


def test_tags_enrich_the_captions_of_most_drawings(records: list[Record]) -> None:
    tagged = sum(any("tagged" in caption for caption in record.captions) for record in records)
    assert tagged > 0.85 * len(records)


def test_every_word_of_the_templates_is_frequent(records: list[Record]) -> None:
    frequency = Counter(word for r in of(records, "train") for c in r.captions for word in words([c]))
    templates = " ".join(captions._PLAIN + captions._TAGGED).format(shown="", style="", tags="")
    assert min(frequency[word] for word in words([templates])) > 1000


def test_captions_and_splits_are_those_of_their_revision() -> None:
    """Where this fails on purpose, raise REVISION, so that stores with the old ones are prepared anew."""
    catalogue = read_catalogue()
    found = hashlib.sha256(
        repr((sorted(catalogue.english.items()), sorted(catalogue.splits.items()))).encode()
    )
    assert (captions.REVISION, found.hexdigest()[:16]) == (3, "d1a597b5c80b99cf")


@given(
    identity=st.text(),
    shown=st.text(),
    style=st.sampled_from(sorted(STYLES)),
    tags=st.lists(st.text(), max_size=6),
)
def test_any_text_gives_captions_that_hold_it_unchanged(
    identity: str, shown: str, style: str, tags: list[str]
) -> None:
    made = captions.english(identity, shown, style, tags)
    assert len(made) == 5
    assert all(shown in caption and style in caption for caption in made)
    assert made == captions.english(identity, shown, style, tags)


@given(
    language=st.sampled_from(read_pack().languages),
    label=st.text(min_size=1),
    tags=st.lists(st.text(max_size=20), max_size=6),
    toned=st.booleans(),
)
def test_any_name_gives_captions_in_any_language(
    language: str, label: str, tags: list[str], toned: bool
) -> None:
    made = captions.translated(language, label, "noto", tags, toned=toned)
    assert len(made) == len(set(made)) >= 3
    assert all("noto" in caption and "\n" not in caption for caption in made)


@given(
    st.text(min_size=1), st.lists(st.text(alphabet=st.characters(categories=["L"]), max_size=9), max_size=9)
)
def test_useful_tags_are_frequent_words_that_the_caption_lacks(shown: str, tags: list[str]) -> None:
    frequency = Counter(tags * 2)
    useful = captions.useful_tags(sorted(set(tags)), frequency, shown)
    assert len(useful) <= 6
    assert all(tag not in shown and len(tag) > 2 for tag in useful)


def test_a_chinese_caption_uses_chinese_names_punctuation_and_words() -> None:
    chinese = {record.id: record for record in EmojiSource(Request(options={"language": "zh"})).records()}
    assert "女消防员，较深肤色，noto 风格" in chinese["1F469-1F3FF-200D-1F692/noto"].captions
    assert "葡萄，水果，fluent 风格" in chinese["1F347/fluent"].captions
    assert "手拉手的两个人，较浅肤色、中等-浅肤色，twemoji 风格" in (
        chinese["1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FC/twemoji"].captions
    )


def test_another_language_changes_captions_only(records: list[Record]) -> None:
    german = EmojiSource(Request(options={"language": "de"})).records()
    assert [(r.id, r.split, r.label, r.attributes) for r in german] == [
        (r.id, r.split, r.label, r.attributes) for r in records
    ]
    assert any("Feuerwehrfrau: dunkle Hautfarbe" in caption for r in german for caption in r.captions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "klingon"}, "no captions in language 'klingon'"),
        ({"lang": "zh"}, "did you mean 'language'?"),
    ],
)
def test_an_unknown_option_is_refused_in_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(GanvasError) as error:
        EmojiSource(Request(options=options))
    assert message in str(error.value) and "\n" not in str(error.value)


# --- splits


def test_the_splits_have_their_shares(records: list[Record]) -> None:
    share = {name: len(of(records, name)) / len(records) for name in ("train", "val", "test")}
    assert 0.09 < share["test"] < 0.101
    assert 0.045 < share["val"] < 0.055


def test_the_test_split_never_repeats_a_combination_of_training_or_validation(records: list[Record]) -> None:
    known = {combination(record) for record in of(records, "train", "val")}
    assert known.isdisjoint(combination(record) for record in of(records, "test"))


def test_the_test_split_holds_a_combination_out_with_all_its_skin_tones(records: list[Record]) -> None:
    def block(record: Record) -> tuple[str | None, ...]:
        return tuple(record.attributes.get(name) for name in ("subject", "gender", "hair", "style"))

    known = {block(record) for record in of(records, "train", "val")}
    assert known.isdisjoint(block(record) for record in of(records, "test"))


@pytest.mark.parametrize("language", read_pack().languages)
def test_every_word_of_a_test_caption_occurs_in_training(language: str) -> None:
    records = EmojiSource(Request(options={"language": language})).records()
    known = words(caption for record in of(records, "train") for caption in record.captions)
    assert words(caption for record in of(records, "test") for caption in record.captions) <= known


def test_everything_drawn_outside_training_is_drawn_in_training_in_another_style(
    records: list[Record],
) -> None:
    known = {record.id.split("/")[0] for record in of(records, "train")}
    assert {record.id.split("/")[0] for record in of(records, "val", "test")} <= known
    assert {r.label for r in records} == {r.label for r in of(records, "train")}


def test_every_style_and_every_group_with_several_styles_is_tested(records: list[Record]) -> None:
    tested = of(records, "test")
    assert {record.attributes["style"] for record in tested} == STYLES
    assert {r.attributes["group"] for r in tested} == {r.attributes["group"] for r in records}


@given(st.data())
def test_a_split_does_not_depend_on_the_order_of_the_drawings(data: st.DataObject) -> None:
    items = [
        Item(
            id=f"{subject}/{style}",
            hexcode=str(subject),
            combination=(str(subject), style),
            captions=(f"a {style} {subject % 7}",),
        )
        for subject in range(40)
        for style in STYLES
    ]
    assert split(data.draw(st.permutations(items))) == split(items)


# --- rendering


@pytest.mark.parametrize("size", [32, 64, 256])
@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_drawing_is_rendered_on_white_at_the_size_asked_for(style: str, size: int) -> None:
    image = render(read_pack().drawings[f"1F431/{style}"], size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == [255, 255, 255]
    assert 0.2 < (image.min(axis=2) < 250).mean() < 0.95


def test_no_drawing_of_a_sample_is_blank() -> None:
    drawings = list(read_pack().drawings.values())[::23]
    blank = [drawing.id for drawing in drawings if render(drawing, 32).min() > 240]
    assert blank == []


@pytest.mark.parametrize("body", ["<g>", "<path d='M0 0'", "&nothing;"])
def test_a_drawing_that_cannot_be_rendered_is_rejected_with_the_reason(body: str) -> None:
    with pytest.raises(Rejected, match="cannot be rendered"):
        render(Drawing(style="noto", hexcode="1F431", box=(0, 0, 32, 32), body=body), 32)
