import json
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import GanvasError
from ganvas.text.tokenizer import MAX_CAPTION_CHARACTERS, WordTokenizer, check_caption

CAPTIONS = ["A red bird.", "a blue-grey bird with red wings", "A BIRD"]


def trained(captions=CAPTIONS, num_words=18, **settings):
    return WordTokenizer.train(captions, num_words, **settings)


def words(tokenizer, caption):
    """The words that a caption is read as."""
    names = {number: word for word, number in json.loads(tokenizer.save())["model"]["vocab"].items()}
    return [names[number] for number in tokenizer([caption])[0].tolist() if number]


def test_words_are_numbered_from_two_the_most_frequent_first():
    vocabulary = json.loads(trained().save())["model"]["vocab"]
    assert vocabulary == {
        **{"[PAD]": 0, "[UNK]": 1, "a": 2, "bird": 3, "red": 4},
        **{"blue": 5, "grey": 6, "wings": 7, "with": 8},
    }
    assert len(trained()) == 9


def test_the_vocabulary_does_not_depend_on_the_order_of_the_captions():
    assert trained(CAPTIONS[::-1]).save() == trained().save()


def test_rare_words_are_left_out_as_set():
    assert words(trained(min_count=2), "a blue bird") == ["a", "[UNK]", "bird"]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Red, red-ORANGE & 3 wings!", ["red", "red", "orange", "3", "wings"]),
        ("a bird's wing", ["a", "bird", "s", "wing"]),
        ("ＲＥＤ ﬁsh", ["red", "fish"]),
        ("re\x00d\u200b bi\u00adrd\nwing\ttail", ["red", "bird", "wing", "tail"]),
        ("caf\u00e9 cafe\u0301", ["café", "café"]),
        ("红色的鸟", ["红", "色", "的", "鸟"]),
        ("hello鸟world", ["hello", "鸟", "world"]),
        ("とり カラス", ["と", "り", "カ", "ラ", "ス"]),
        ("빨간 새", ["빨간", "새"]),
        ("लाल चिड़िया", ["लाल", "चिड़िया"]),
        ("[PAD] [UNK]", ["pad", "unk"]),
    ],
)
def test_captions_part_into_words(caption, expected):
    assert words(trained([caption]), caption) == expected


@pytest.mark.parametrize("caption", ["😀", "...", "", " \n", "zebra", "\ud800"])
def test_a_caption_without_a_known_word_is_one_unknown_word(caption):
    assert trained()([caption]).tolist() == [[1]]


def test_shorter_captions_are_padded_with_zeros():
    assert trained()(["a bird", "a", "a red bird"]).tolist() == [[2, 3, 0], [2, 0, 0], [2, 4, 3]]


def test_long_captions_are_cut_and_this_is_logged_once(caplog):
    tokenizer = trained(num_words=3)
    with caplog.at_level(logging.WARNING):
        assert tokenizer(["a red bird with wings", "bird"]).tolist() == [[2, 4, 3], [3, 0, 0]]
        tokenizer(["a " * 5000])
    assert [record.getMessage() for record in caplog.records] == [
        "a caption has 5 words; only the first 3 are read (text.num_words)"
    ]


def test_a_caption_is_read_no_further_than_the_longest_allowed():
    tokenizer = trained(num_words=MAX_CAPTION_CHARACTERS)
    assert tokenizer(["a " * 10**6]).shape == (1, MAX_CAPTION_CHARACTERS // 2)


def test_a_saved_tokenizer_loads_as_it_was():
    tokenizer = trained()
    again = WordTokenizer.load(tokenizer.save(), 18)
    assert again.save() == tokenizer.save()
    assert again([*CAPTIONS, "zebra"]).equal(tokenizer([*CAPTIONS, "zebra"]))


def test_a_vocabulary_whose_unknown_word_is_padding_drops_unknown_words():
    tree = json.loads(trained().save())
    tree["model"]["unk_token"] = "[PAD]"
    tokenizer = WordTokenizer.load(json.dumps(tree), 18)
    assert tokenizer(["a zebra bird", "zebra"]).tolist() == [[2, 3], [0, 0]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree["model"].update(vocab={}),
        lambda tree: tree["model"].update(vocab={"[UNK]": 7}),
        lambda tree: tree["model"].update(vocab={"[UNK]": "0"}),
        lambda tree: tree["model"].update(unk_token="zebra"),
        lambda tree: tree["model"].update(type="BPE"),
        lambda tree: tree.pop("model"),
        lambda tree: tree["pre_tokenizer"]["pattern"].update(Regex="["),
        lambda tree: tree.update(
            added_tokens=[{"id": 3, "content": "bird", "special": True, "lstrip": False, "rstrip": False}]
        ),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_one_line(damage):
    tree = json.loads(trained().save())
    damage(tree)
    with pytest.raises(GanvasError, match=r"tokenizer\.json: is damaged") as caught:
        WordTokenizer.load(json.dumps(tree), 18)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "null"])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(GanvasError, match=r"tokenizer\.json: is damaged"):
        WordTokenizer.load(text, 18)


def test_captions_without_any_word_make_no_vocabulary():
    with pytest.raises(GanvasError, match="hold no word;"):
        trained(["😀", "..."])
    with pytest.raises(GanvasError, match=r"at least 3 times \(text.min_count\)"):
        trained(["a bird"], min_count=3)


@given(st.lists(st.text(st.characters()), min_size=1, max_size=5))
def test_any_text_gives_ids_of_the_vocabulary_with_padding_at_the_end(captions):
    tokenizer = trained()
    tokens = tokenizer(captions)
    assert tokens.dtype == torch.long and 1 <= tokens.shape[1] <= 18
    assert ((tokens >= 0) & (tokens < len(tokenizer))).all()
    assert (tokens[:, 0] > 0).all()
    assert ((tokens[:, 1:] == 0) >= (tokens[:, :-1] == 0)).all()


@pytest.mark.parametrize("caption", ["a", "😀", "鸟", "x" * MAX_CAPTION_CHARACTERS, " a\n"])
def test_a_visible_caption_is_accepted_as_it_is(caption):
    assert check_caption(caption) == caption


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        ("", "is empty; write what the image should show"),
        (" \t\n\u200b\u00ad\x00", "is empty; write what the image should show"),
        ("x" * (MAX_CAPTION_CHARACTERS + 1), "has 10,001 characters; shorten it to 10,000 or fewer"),
        (None, "is a NoneType; give a string"),
        (["a bird"], "is a list; give a string"),
        ("a \ud800 bird", "is no valid Unicode"),
    ],
)
def test_an_impossible_caption_is_refused_in_one_line_that_names_it(caption, problem):
    with pytest.raises(GanvasError) as caught:
        check_caption(caption, "caption 3")
    assert str(caught.value).startswith(f"caption 3: {problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Bird's wing, 3 times!", ["a", "bird", "s", "wing", "3", "times"]),
        ("caf\u00e9 na\u00efve", ["caf", "nave"]),
        ("bird\u2014white", ["bird", "white"]),
        ("a\ufffd\ufffdbird", ["a", "bird"]),
        ("\u9e1f red", ["red"]),
    ],
)
def test_the_rule_of_attngan_keeps_what_is_ascii_of_each_word(caption, expected):
    assert words(trained([caption], rule="attngan", unknown="drop"), caption) == expected


def test_unknown_words_are_dropped_where_asked_and_known_ones_count_from_one():
    tokenizer = trained(["a red bird"], unknown="drop")
    assert json.loads(tokenizer.save())["model"]["vocab"] == {"[PAD]": 0, "a": 1, "bird": 2, "red": 3}
    assert tokenizer(["a blue bird", "blue"]).tolist() == [[1, 2], [0, 0]]


def test_an_imported_vocabulary_keeps_its_numbers():
    vocabulary = {"<end>": 0, "wing": 3, "bird": 1, "a": 2}
    tokenizer = WordTokenizer.load(WordTokenizer.from_vocabulary(vocabulary, 5).save(), 5)
    assert tokenizer(["A bird, a blue WING"]).tolist() == [[2, 1, 2, 3]]
    assert len(tokenizer) == 4


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red bird", []),
        ("A RED, \u201cbird\u201d \u2013 with wings!?", []),
        ("a zorbly bird, Zorbly ZORBLY", ["zorbly"]),
        ("Qux before zorbly", ["Qux", "before", "zorbly"]),
        ("\U0001f600", ["\U0001f600"]),
        (
            "a bird \U0001f469\U0001f3fd\u200d\U0001f680\u2764\ufe0f",
            ["\U0001f469\U0001f3fd\u200d\U0001f680\u2764"],
        ),
        ("\u7ea2\u8272 bird", ["\u7ea2\u8272"]),
        ("\u043b\u0435\u0432", ["\u043b\u0435\u0432"]),
        ("... -- ^ `", []),
        ("r\u200bed b\u00adird", []),
        ("\uff32\uff25\uff24", []),
    ],
)
@pytest.mark.parametrize("unknown", ["word", "drop"])
def test_words_and_symbols_that_were_never_seen_are_named(caption, expected, unknown):
    assert trained(unknown=unknown).unknown_words(caption) == expected


@given(st.text(max_size=60))
def test_what_is_named_as_unknown_stands_in_the_caption_and_is_read_as_no_known_word(caption):
    tokenizer = trained()
    found = tokenizer.unknown_words(caption)
    assert len({word.casefold() for word in found}) == len(found)
    for word in found:
        assert set(word) <= set(caption) and not any(character.isspace() for character in word)
        assert set(words(tokenizer, word)) <= {"[UNK]"}


@given(st.lists(st.sampled_from(["a", "Red", "BIRD", "wings", "blue", ",", "."])))
def test_nothing_is_unknown_where_every_word_is_known(parts):
    assert trained().unknown_words(" ".join(parts)) == []
