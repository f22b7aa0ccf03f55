"""Pairs of AttnGAN."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from pair import Pair, system, tensor
from torch import Tensor


@system("AttnGAN generator")
def attngan_generator(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.attngan import attngan_generator
    from ganvas.text.encoder import Text

    model = attngan_generator(pair.weights())
    words = pair.input("words_emb").transpose(1, 2)
    text = Text(pair.input("sent_emb"), words, torch.ones(words.shape[:2], dtype=torch.bool))
    z = pair.input("z")
    noise = torch.cat([z, z.new_zeros(len(z), model.condition_dim)], dim=1)
    condition, _ = model.features(text, noise)
    outputs = {"mu": condition.mean, "logvar": condition.log_variance, **_drawn(model, text, noise)}
    first_hidden = re.search(r"words (\d+)\.\. masked", pair.inputs["mask"])
    if first_hidden:
        one = text.rows(slice(0, 1))
        one = one._replace(mask=torch.arange(words.shape[1])[None] < int(first_hidden[1]))
        outputs |= {f"masked_{name}": value for name, value in _drawn(model, one, noise[:1]).items()}
    return outputs


def _drawn(model, text, noise):
    images = {f"image{i}": image for i, image in enumerate(model(text, noise).images)}
    return images | {f"attention{i}": maps for i, maps in enumerate(model.attention(text, noise))}


@system("AttnGAN discriminators")
def attngan_discriminators(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.attngan import attngan_discriminator

    sentence, outputs = pair.input("sent_emb"), {}
    for name in pair.about["keys"]:
        side = name.removeprefix("D")
        model = attngan_discriminator(pair.weights(name))
        images = tensor(f"image{side}", pair.inputs["image<r>"].replace(",r", f",{side}"))
        features = model.features(images)
        outputs[f"features{side}"] = features
        outputs[f"cond{side}"] = model.judge(features, sentence).sigmoid()
        if model.unconditional is not None:
            outputs[f"uncond{side}"] = model.judge_alone(features).sigmoid()
    return outputs
