"""Captions to vectors. ``text_encoders`` lists the encoders, ``build`` makes one; torch loads only then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ganvas.errors import GanvasError, did_you_mean
from ganvas.text.settings import (
    BiLstmSettings,
    CharCnnRnnSettings,
    TextSettings,
    TransformerSettings,
)

if TYPE_CHECKING:
    from ganvas.text.encoder import TextEncoder

__all__ = ["TextEncoderEntry", "TextSettings", "build", "text_encoders", "text_settings"]


@dataclass(frozen=True)
class TextEncoderEntry:
    """One text encoder of the registry."""

    settings: type[Any]
    """The dataclass of its settings."""
    module: str
    """Where its ``build(settings, captions, files)`` lives."""


_ENCODERS = {
    "char-cnn-rnn": TextEncoderEntry(CharCnnRnnSettings, "ganvas.text.char_cnn_rnn"),
    "bilstm": TextEncoderEntry(BiLstmSettings, "ganvas.text.bilstm"),
    "transformer": TextEncoderEntry(TransformerSettings, "ganvas.text.transformer"),
}


def text_encoders() -> dict[str, TextEncoderEntry]:
    """The text encoders that Ganvas knows, by name."""
    return dict(_ENCODERS)


def text_settings(name: object) -> type[Any]:
    """The settings class of the text encoder called ``name``.

    Raises:
        GanvasError: there is none.
    """
    if not isinstance(name, str):
        missing = "is missing" if name is None else f"{name!r} is no name"
        raise GanvasError(f"text.encoder: {missing}; known: {', '.join(sorted(_ENCODERS))}")
    if name not in _ENCODERS:
        raise GanvasError(f"text.encoder: no text encoder '{name}'; {did_you_mean(name, _ENCODERS)}")
    return _ENCODERS[name].settings


def build(
    settings: TextSettings,
    captions: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> TextEncoder:
    """Make a text encoder, with fresh weights unless it comes trained.

    Args:
        settings: which encoder, and its settings.
        captions: the training captions, for encoders that have a vocabulary.
        files: what ``TextEncoder.files`` of a saved encoder gave; the vocabulary then comes from here.

    Raises:
        GanvasError: the encoder has a vocabulary and neither captions nor files are given, a file is missing
            or damaged, or a pretrained model cannot be opened.
    """
    make: Any = import_module(_ENCODERS[settings.encoder].module).build
    built: TextEncoder = make(settings, captions, files)
    return built
