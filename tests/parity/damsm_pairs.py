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


@system("DAMSM image encoder")
def damsm_image_encoder(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.damsm_image import damsm_image_encoder

    model = damsm_image_encoder(pair.weights(), align_corners="align_corners=False" not in pair.about["mode"])
    (name,) = pair.inputs
    encoded = model(pair.input(name))
    return {"regions": encoded.regions, "code": encoded.code}


@system("DAMSM and KL losses")
def damsm_losses(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.layers.conditioning import kl_loss
    from ganvas.losses.damsm import damsm_losses, matching_attention, sentence_scores, word_scores

    gammas, ids = pair.config, pair.config["class_ids"]
    regions, words = pair.input("regions"), pair.input("words_emb").transpose(1, 2)
    mask = torch.arange(words.shape[1]) < torch.tensor(pair.inputs["lengths"])[:, None]
    losses = damsm_losses(
        word_scores(regions, words, mask, gamma1=gammas["gamma1"], gamma2=gammas["gamma2"]),
        sentence_scores(pair.input("image_code"), pair.input("sent_emb")),
        None if ids is None else torch.tensor(ids),
        gamma3=gammas["gamma3"],
    )
    terms = {
        f"{name}_{direction}": value
        for name, directions in losses._asdict().items()
        for direction, value in directions._asdict().items()
    }
    attention = matching_attention(regions, words, mask, gamma1=gammas["gamma1"])
    length = pair.inputs["lengths"][0]
    return {
        **terms,
        "kl": kl_loss(pair.input("mu"), pair.input("logvar")),
        "attention0": attention[:1, :length],
    }
