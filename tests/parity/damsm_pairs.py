"""Pairs of DAMSM."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pair import Pair, system
from torch import Tensor


@system("AttnGAN/DAMSM text encoder")
def damsm_text_encoder(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.damsm_text import damsm_text_encoder
    from ganvas.text.tokenizer import WordTokenizer

    num_words = pair.config["words"]
    words = [f"w{number}" for number in range(2, pair.config["vocabulary"])]
    model = damsm_text_encoder(
        pair.weights(), WordTokenizer.from_words(words, num_words), num_words=num_words
    )
    text = model(torch.tensor(pair.inputs["captions"]))
    return {"words_emb": text.words.transpose(1, 2), "sent_emb": text.sentence}
