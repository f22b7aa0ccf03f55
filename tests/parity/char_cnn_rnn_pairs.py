"""Pairs of the char-CNN-RNN text encoders."""

from __future__ import annotations

from collections.abc import Mapping

from pair import Pair, system
from torch import Tensor


@system("char-CNN-RNN text encoder")
def char_cnn_rnn(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.char_cnn_rnn import char_cnn_rnn

    known = {key: pair.config[key] for key in ("characters", "alphabet", "average") if key in pair.config}
    model = char_cnn_rnn(pair.weights(), **known)
    return {"phi": model.encode(pair.inputs["captions"]).sentence}
