"""Pairs of StackGAN's PyTorch release."""

from __future__ import annotations

from collections.abc import Mapping

from pair import Pair, system, tensor
from torch import Tensor


@system("StackGAN Stage-I generator")
def stackgan_stage1(pair: Pair) -> Mapping[str, Tensor]:
    drawn, _ = _drawn(pair)
    condition = drawn.condition
    return {"image": drawn.images, "mu": condition.mean, "logvar": condition.log_variance}


@system("StackGAN Stage-II generator")
def stackgan_stage2(pair: Pair) -> Mapping[str, Tensor]:
    small, drawn = _drawn(pair)
    condition = drawn.condition
    return {
        "stage1_image": small.images,
        "image": drawn.images,
        "mu": condition.mean,
        "logvar": condition.log_variance,
    }


def _drawn(pair: Pair):
    """What both stages draw with the conditions' means."""
    from ganvas.convert.stackgan import stackgan_generators

    stage1, stage2 = stackgan_generators(pair.weights())
    text, z = pair.input("text"), pair.input("z")
    epsilon = z.new_zeros(len(z), pair.config["condition"])
    small = stage1(text, z, epsilon)
    return small, None if stage2 is None else stage2(small, text, epsilon)


@system("StackGAN discriminators")
def stackgan_discriminators(pair: Pair) -> Mapping[str, Tensor]:
    from ganvas.convert.stackgan import discriminator_form, stackgan_discriminator

    condition, outputs = pair.input("condition"), {}
    for name in pair.about["keys"]:
        weights = pair.weights(name)
        side = discriminator_form(weights)[2]
        images = tensor(f"image{side}", pair.inputs["image<r>"].replace(",r", f",{side}"))
        model = stackgan_discriminator(weights)
        features = model.features(images)
        outputs[f"{name}_features"] = features
        outputs[f"{name}_cond"] = model.judge(features, condition).sigmoid()
        if model.unconditional is not None:
            outputs[f"{name}_uncond"] = model.judge_alone(features).sigmoid()
    return outputs
