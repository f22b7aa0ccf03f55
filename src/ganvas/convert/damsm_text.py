"""The DAMSM text encoders of taoxugit/AttnGAN: ``text_encoder200.pth`` for birds, ``100`` for COCO."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.text.bilstm import BiLstm
from ganvas.text.settings import BiLstmSettings
from ganvas.text.tokenizer import WordTokenizer

TABLE = Table(
    "DAMSM text encoder",
    (
        Rule(r"encoder\.weight", "embedding.weight"),
        Rule(r"rnn\.((?:weight|bias)_[ih]h_l0)", r"forwards.\1"),
        Rule(r"rnn\.((?:weight|bias)_[ih]h_l0)_reverse", r"backwards.\1"),
    ),
)


def damsm_text_encoder(
    state: Mapping[str, Tensor], tokenizer: WordTokenizer, *, num_words: int = 18
) -> BiLstm:
    """A released encoder as ours, in evaluation mode; its widths are read from the tensors.

    Args:
        state: the tensors of the release.
        tokenizer: the released vocabulary, one word a row of the embedding.
        num_words: words that it reads of a caption.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the vocabulary has another size.
    """
    _, embedding = shape_of(TABLE, state, "encoder.weight", 2)
    _, half = shape_of(TABLE, state, "rnn.weight_hh_l0", 2)
    settings = BiLstmSettings(features=2 * half, embedding=embedding, num_words=num_words)
    model = BiLstm(settings, tokenizer)
    load(TABLE, state, model)
    return model.eval()
