"""Captions to words: what a caption may be, and the vocabulary of the word encoders."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from ganvas.errors import GanvasError
from ganvas.text.settings import MAX_CAPTION_CHARACTERS

FILE = "tokenizer.json"
"""The file of a model folder that holds a vocabulary."""

_PADDING, _UNKNOWN = "[PAD]", "[UNK]"  # brackets are no word characters, so no caption can spell these
_MAX_VOCABULARY = 1_000_000
_INVISIBLE = r"[\p{Cc}\p{Cf}&&[^\s]]"  # control and format characters, but for those that part words
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"  # scripts written without spaces: every character is a word
_JOINERS = "\u200d\ufe0e\ufe0f"  # between the parts of an emoji, and after them
_UNSEEN = ("Cc", "Cf")
_WORD = rf"[{_UNSPACED}]|[\w&&[^{_UNSPACED}]]+"

WordRule = Literal["unicode", "attngan"]
Unknown = Literal["word", "drop"]

_log = logging.getLogger(__name__)


def check_caption(caption: object, name: str = "caption") -> str:
    """``caption``, which is a string that something can be generated from.

    Args:
        caption: what the user gave.
        name: how the error calls it, such as ``caption 3``.

    Raises:
        GanvasError: it is no string, has no visible character, or more than ``MAX_CAPTION_CHARACTERS``.
    """
    if not isinstance(caption, str):
        raise GanvasError(f"{name}: is a {type(caption).__name__}; give a string")
    if len(caption) > MAX_CAPTION_CHARACTERS:
        raise GanvasError(
            f"{name}: has {len(caption):,} characters; shorten it to {MAX_CAPTION_CHARACTERS:,} or fewer"
        )
    if any(unicodedata.category(character) == "Cs" for character in caption):
        raise GanvasError(f"{name}: is no valid Unicode (it holds half of a surrogate pair); re-encode it")
    if not any(_is_visible(character) for character in caption):
        raise GanvasError(f"{name}: is empty; write what the image should show")
    return caption


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in _UNSEEN


class WordTokenizer:
    """A vocabulary, and the rule that parts captions into words.

    Captions are brought to Unicode form NFKC and lower case, control characters are removed; words are runs
    of word characters, and every Chinese or Japanese character is one. Id 0 is padding. A word outside the
    vocabulary becomes the unknown word; a vocabulary whose unknown word is its padding drops it instead (as
    AttnGAN does). A caption without any word gets the unknown word alone. The rule ``attngan`` is another
    one: runs of word characters in lower case, of which what is not ASCII is taken out.

    Args:
        tokenizer: of the tokenizers library, with word ids from 0.
        num_words: words read of a caption; the rest is cut off, which is logged once.
    """

    def __init__(self, tokenizer: Tokenizer, num_words: int) -> None:
        self.num_words = num_words
        self._tokenizer = tokenizer
        unknown = tokenizer.token_to_id(tokenizer.model.unk_token)
        assert unknown is not None, "a vocabulary has an unknown word"
        self._unknown = unknown
        self._warned = False

    @classmethod
    def train(
        cls,
        captions: Iterable[str],
        num_words: int,
        min_count: int = 1,
        *,
        rule: WordRule = "unicode",
        unknown: Unknown = "word",
    ) -> WordTokenizer:
        """The vocabulary of ``captions``, most frequent words first.

        Args:
            captions: whose words.
            num_words: words read of a caption.
            min_count: how often a word must occur.
            rule: what a word is.
            unknown: what becomes of words outside the vocabulary.

        Raises:
            GanvasError: no word occurs that often.
        """
        counter = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
        _set_word_rule(counter, rule)
        trainer = trainers.WordLevelTrainer(
            vocab_size=_MAX_VOCABULARY, min_frequency=min_count, show_progress=False, special_tokens=[]
        )
        counter.train_from_iterator((readable(caption) for caption in captions), trainer)
        found = counter.get_vocab(with_added_tokens=False)
        if not found:
            often = "" if min_count == 1 else f" at least {min_count} times (text.min_count)"
            raise GanvasError(f"the training captions hold no word{often}; a word encoder needs words")
        words = sorted(found, key=lambda word: found[word])
        return cls.from_words(words, num_words, rule=rule, unknown=unknown)

    @classmethod
    def from_words(
        cls, words: Sequence[str], num_words: int, *, rule: WordRule = "unicode", unknown: Unknown = "word"
    ) -> WordTokenizer:
        """The vocabulary that is ``words``, whose ids count from 2; from 1 where unknown words are
        dropped.
        """
        special = [_PADDING] if unknown == "drop" else [_PADDING, _UNKNOWN]
        vocabulary = {word: place for place, word in enumerate([*special, *words])}
        return cls._of(vocabulary, special[-1], num_words, rule)

    @classmethod
    def from_vocabulary(
        cls, vocabulary: Mapping[str, int], num_words: int, *, rule: WordRule = "attngan"
    ) -> WordTokenizer:
        """A vocabulary with its own numbers, such as that of a release. Unknown words are dropped.

        Args:
            vocabulary: word to number, from 0; number 0 is the end mark and padding.
            num_words: words read of a caption.
            rule: what a word is.
        """
        assert sorted(vocabulary.values()) == list(range(len(vocabulary))), "numbers count from 0"
        end = next(word for word, number in vocabulary.items() if number == 0)
        return cls._of(vocabulary, end, num_words, rule)

    @classmethod
    def _of(
        cls, vocabulary: Mapping[str, int], unknown: str, num_words: int, rule: WordRule
    ) -> WordTokenizer:
        tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=unknown))
        _set_word_rule(tokenizer, rule)
        return cls(tokenizer, num_words)

    @classmethod
    def load(cls, text: str, num_words: int) -> WordTokenizer:
        """The tokenizer that ``save`` gave.

        Raises:
            GanvasError: ``text`` is no vocabulary of words.
        """
        try:
            tree = json.loads(text)
            vocabulary, unknown = tree["model"]["vocab"], tree["model"]["unk_token"]
            sound = (
                tree["model"]["type"] == "WordLevel"
                and not tree["added_tokens"]
                and isinstance(vocabulary, Mapping)
                and sorted(vocabulary.values()) == list(range(len(vocabulary)))
                and unknown in vocabulary
            )
            if not sound:
                raise ValueError("it is no list of words with ids from 0 and an unknown word")
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(f"{error}".split())
            raise GanvasError(f"{FILE}: is damaged ({reason}); save the model again") from None
        return cls(tokenizer, num_words)

    def save(self) -> str:
        """The tokenizer as JSON text."""
        return self._tokenizer.to_str(pretty=True)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Word ids ``(B, L)``, long; ``L`` is that of the longest caption, ``num_words`` at most."""
        encodings = self._tokenizer.encode_batch_fast([readable(caption) for caption in captions])
        rows = [self._known(encoding.ids) for encoding in encodings]
        self._note_truncation(rows)
        tokens = torch.zeros(len(rows), min(self.num_words, max(map(len, rows), default=1)), dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            kept = ids[: self.num_words]
            row[: len(kept)] = torch.tensor(kept)
        return tokens

    def words_of(self, caption: str) -> list[str]:
        """The words that are read of a caption, as the vocabulary writes them."""
        ids = self([caption])[0].tolist()
        return [self._tokenizer.id_to_token(number) or "" for number in ids]

    def unknown_words(self, caption: str) -> list[str]:
        """What of a caption is no word of the vocabulary, each once, as written: runs of letters, digits
        and symbols, such as emoji. Punctuation means nothing, and is not named.
        """
        text = readable(caption)
        encoding = self._tokenizer.encode(text)
        read = bytearray(len(text))
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number != self._unknown:
                read[start:end] = b"\1" * (end - start)
        unread = "".join(
            character if not seen and _means_something(character) else " "
            for character, seen in zip(text, read, strict=True)
            if character in _JOINERS or not _is_removed(character)
        )
        runs = (run.strip(_JOINERS) for run in unread.split())
        return list({run.casefold(): run for run in reversed([run for run in runs if run])}.values())[::-1]

    def _known(self, ids: list[int]) -> list[int]:
        return [word for word in ids if word] or [self._unknown]

    def _note_truncation(self, rows: Sequence[list[int]]) -> None:
        too_long = max(map(len, rows), default=0)
        if too_long > self.num_words and not self._warned:
            self._warned = True
            _log.warning(
                "a caption has %d words; only the first %d are read (text.num_words)",
                too_long,
                self.num_words,
            )


def _set_word_rule(tokenizer: Tokenizer, rule: WordRule) -> None:
    if rule == "attngan":  # runs of word characters in lower case; of each, what is ASCII
        steps = [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[[^\x00-\x7f]&&[^\w]]"), " "),
            normalizers.Replace(Regex(r"[^\x00-\x7f]"), ""),
        ]
    else:
        steps = [normalizers.Replace(Regex(_INVISIBLE), ""), normalizers.NFKC(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)


def _is_removed(character: str) -> bool:
    """As by ``_INVISIBLE``; four separators are white space to Python alone."""
    parts_words = character.isspace() and character not in "\x1c\x1d\x1e\x1f"
    return unicodedata.category(character) in _UNSEEN and not parts_words


def _means_something(character: str) -> bool:
    kind = unicodedata.category(character)
    symbol = kind == "So" or (kind == "Sk" and character > "\x7f")  # ^ and ` are punctuation to the eye
    return kind[0] in "LNM" or kind == "Pc" or symbol or character in _JOINERS


def readable(caption: str) -> str:
    """A caption as the library takes it: bounded, and without halves of surrogate pairs."""
    return caption[:MAX_CAPTION_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
