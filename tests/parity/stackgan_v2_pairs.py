"""Pairs of StackGAN++."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pair import Pair, system, tensor
from torch import Tensor


@system("StackGAN++ generator")
def generator(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.stackgan_v2 import stackgan_v2_generator

    model, _, sentence_dim = stackgan_v2_generator(pair.weights())
    z = pair.input("z")
    sentence = pair.input("text") if sentence_dim else z.new_zeros(len(z), 0)
    epsilon = z.new_zeros(len(z), model.noise_dim - z.shape[1])
    generated = model(sentence, torch.cat([z, epsilon], dim=1))
    outputs = {f"image{i}": image for i, image in enumerate(generated.images)}
    if generated.condition is not None:
        outputs |= {"mu": generated.condition.mean, "logvar": generated.condition.log_variance}
    return outputs


@system("StackGAN++ discriminators")
def discriminators(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.stackgan_v2 import stackgan_v2_discriminator

    outputs = {}
    for module in pair.about["keys"]:
        judge = stackgan_v2_discriminator(pair.weights(module))
        side = module.removeprefix("D")
        features = judge.features(_images(pair, side))
        if judge.conditional is not None:
            outputs[f"cond{side}"] = judge.judge(features, pair.input("condition")).sigmoid()
        if judge.unconditional is not None:
            outputs[f"uncond{side}"] = judge.judge_alone(features).sigmoid()
    return outputs


def _images(pair: Pair, side: str) -> Tensor:
    """Those of one side, by their own remark or by the one for all sides, ``[2,3,r,r]``."""
    own = pair.inputs.get(f"image{side}")
    how = own if own is not None else pair.inputs["image<r>"]
    return tensor(f"image{side}", how.replace("r,r]", f"{side},{side}]") if isinstance(how, str) else how)
