"""Pairs of XMC-GAN, whose weights have Flax's names and whose images have channels last."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pair import Pair, system, tensor
from torch import Tensor


@system("XMC-GAN generator and discriminator")
def networks(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.xmcgan import xmcgan_discriminator, xmcgan_generator
    from ganvas.losses.contrastive import vector_contrast, word_contrast
    from ganvas.text.encoder import Text

    generator = xmcgan_generator(pair.weights("generator"))[0]
    generator.attention.rho0 = pair.config["rho0"]
    discriminator = xmcgan_discriminator(pair.weights("discriminator"))[0]
    z, sentence, words = (pair.input(name) for name in ("z", "sentence", "words"))
    text = Text(sentence, words, _mask(pair, words))
    image = (generator(text, z) + 1) / 2
    size = pair.config["image_size"]
    how = pair.inputs["real"].replace("B,size,size", f"{len(z)},{size},{size}")
    images = torch.cat([tensor(name, how) for name in ("real", "fake")])
    seen = discriminator(2 * images.permute(0, 3, 1, 2) - 1, sentence)
    outputs = {
        "image (NHWC, in [0,1])": image.permute(0, 2, 3, 1),
        "logits": seen.logits[:, None],
    }
    vectors, regions = seen.image.chunk(2), discriminator.regions(seen.middle).chunk(2)
    found = {"image_contrastive": vector_contrast(vectors[1], vectors[0])}
    for i, which in enumerate(("real", "fake")):
        found[f"{which}_sentence"] = vector_contrast(vectors[i], seen.sentence)
        found[f"{which}_word"] = word_contrast(regions[i], text.words, text.mask)
    for name, contrast in found.items():
        outputs |= {f"{name}_loss": contrast.loss, f"{name}_acc": contrast.accuracy}
        outputs[f"{name}_entropy"] = contrast.entropy
    return outputs


@system("XMC-GAN contrastive losses")
def losses(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.layers.self_modulation import attend
    from ganvas.losses.contrastive import vector_contrast, word_contrast

    config = pair.config
    regions, words = pair.input("regions").transpose(1, 2), pair.input("word_feat")
    unit, weights = attend(regions[:2], words[:2], torch.ones(2, words.shape[1]).bool(), config["rho0"])
    word = word_contrast(
        regions,
        words,
        _mask(pair, words),
        rho1=config["rho1"],
        rho2=config["rho2"],
        scale=config["word logit scale (1/tau)"],
    )
    image, sentence = pair.input("image_feat"), pair.input("sentence_feat")
    return {
        "sentence": vector_contrast(image, sentence, temperature=config["temperature"]).loss,
        "word": word.loss,
        "region_context (first 2 items, no mask)": weights.transpose(1, 2) @ unit,
    }


def _mask(pair: Pair, words: Tensor) -> Tensor:
    """Of the pair's lengths."""
    return torch.arange(words.shape[1]) < torch.tensor(pair.inputs["lengths"])[:, None]
