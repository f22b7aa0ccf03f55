"""The char-CNN-RNN text encoders of reedscot/icml2016 (Lua).

Their files have no key names; the names here say each tensor's role, and weights are ``(out, in[, kernel])``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.errors import GanvasError
from ganvas.text.char_cnn_rnn import CharCnnRnn
from ganvas.text.encoder import TextEncoder
from ganvas.text.settings import ALPHABET, CharCnnRnnSettings

TABLE = Table(
    "char-CNN-RNN text encoder",
    (
        Rule(r"(conv[123]|head)\.(weight|bias)", r"\1.\2"),
        Rule(r"gru\.(update|reset|candidate)\.(input|hidden)\.(weight|bias)", r"gru.\1.\2.\3"),
    ),
)


UNTRAINED = (
    "the text encoder is not in this release: captions are read by an untrained one, and images do not follow"
    " them; give a model with the char-CNN-RNN of the release's data set with --text"
)
GIVEN = "images follow captions only as far as this text encoder is the one that the release was trained with"


def sentence_encoder(given: TextEncoder | None, sentence_dim: int, release: str) -> tuple[TextEncoder, str]:
    """The text encoder for a release that has none, and what its user should know.

    Args:
        given: another model's; without it, an untrained char-CNN-RNN, always with the same weights.
        sentence_dim: width of the sentences that the release reads.
        release: for the error line.

    Raises:
        GanvasError: it gives sentences of another width.
    """
    if given is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return CharCnnRnn(CharCnnRnnSettings(embedding=sentence_dim)).eval(), UNTRAINED
    if given.sentence_dim != sentence_dim:
        raise GanvasError(
            f"{release}: reads sentences of width {sentence_dim}, but the text encoder gives"
            f" {given.sentence_dim}; give the one that it was trained with"
        )
    return given, GIVEN


def char_cnn_rnn(
    state: Mapping[str, Tensor], *, characters: int = 201, alphabet: str = ALPHABET, average: bool = True
) -> CharCnnRnn:
    """A released encoder as ours, in evaluation mode; its widths are read from the tensors.

    Args:
        state: tensors by their role.
        characters: characters that it reads of a caption.
        alphabet: the columns of its input.
        average: its sentence is the mean of the states, not the last state.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the settings are impossible.
    """
    channels, _, _ = shape_of(TABLE, state, "conv3.weight", 3)
    embedding, _ = shape_of(TABLE, state, "head.weight", 2)
    settings = CharCnnRnnSettings(
        channels=channels,
        embedding=embedding,
        characters=characters,
        alphabet=alphabet,
        average=average,
        lower_case=False,
    )
    model = CharCnnRnn(settings)
    load(TABLE, state, model)
    return model.eval()
