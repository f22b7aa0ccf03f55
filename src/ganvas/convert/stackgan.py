"""The networks of hanzhanggit/StackGAN-Pytorch: ``netG_epoch_90.pth`` and ``netD_epoch_last.pth`` on COCO.

A generator's file is Stage-I alone, or Stage-II with Stage-I below ``STAGE1_G.``. The captions of these
releases were encoded by a char-CNN-RNN that is in none of their files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from torch import Tensor

from ganvas.building import bare_system
from ganvas.convert.char_cnn_rnn import GIVEN, UNTRAINED, sentence_encoder
from ganvas.convert.official import Converted, Given, Part, Release
from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.errors import GanvasError
from ganvas.layers.stages_trained import StagesTrained
from ganvas.recipe import Recipe, resolve
from ganvas.systems.stackgan import StackGan
from ganvas.systems.stackgan_networks import Discriminator, StackGanSettings, Stage1, Stage2
from ganvas.text.encoder import TextEncoder

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BELOW = "STAGE1_G."

STAGE1 = Table(
    "StackGAN Stage-I generator",
    (
        Rule(r"ca_net\.fc\.(weight|bias)", r"condition.fc.\1"),
        Rule(r"fc\.0\.weight", "project.weight"),
        Rule(rf"fc\.1\.{_NORM}", r"norm.\1"),
        Rule(r"upsample(\d)\.1\.weight", r"blocks.\1.0.weight"),
        Rule(rf"upsample(\d)\.2\.{_NORM}", r"blocks.\1.1.\2"),
        Rule(r"img\.0\.weight", "image.0.weight"),
    ),
)

STAGE2 = Table(
    "StackGAN Stage-II generator",
    (
        Rule(r"STAGE1_G\..*", None),
        Rule(r"ca_net\.fc\.(weight|bias)", r"condition.fc.\1"),
        Rule(rf"encoder\.(\d)\.{_NORM}", r"encoder.\1.\2"),
        Rule(rf"hr_joint\.([01])\.{_NORM}", r"join.\1.\2"),
        Rule(rf"residual\.(\d+)\.block\.([0134])\.{_NORM}", r"residual.\1.branch.\2.\3"),
        *(Rule(rf"upsample{i + 1}\.1\.weight", rf"blocks.{i}.0.weight") for i in range(9)),
        *(Rule(rf"upsample{i + 1}\.2\.{_NORM}", rf"blocks.{i}.1.\1") for i in range(9)),
        Rule(r"img\.0\.weight", "image.0.weight"),
    ),
)

DISCRIMINATOR = Table(
    "StackGAN discriminator",
    (
        Rule(r"encode_img\.0\.weight", "trunk.0.0.weight"),
        *(Rule(rf"encode_img\.{3 * i - 1}\.weight", rf"trunk.{i}.0.weight") for i in range(1, 10)),
        *(Rule(rf"encode_img\.{3 * i}\.{_NORM}", rf"trunk.{i}.1.\1") for i in range(1, 10)),
        Rule(r"get_cond_logits\.outlogits\.0\.weight", "conditional.joint.0.weight"),
        Rule(rf"get_cond_logits\.outlogits\.1\.{_NORM}", r"conditional.joint.1.\1"),
        Rule(r"get_cond_logits\.outlogits\.3\.(weight|bias)", r"conditional.logit.\1"),
        Rule(r"get_uncond_logits\.outlogits\.0\.(weight|bias)", r"unconditional.\1"),
    ),
)


def stackgan(
    generator: Mapping[str, Tensor],
    discriminators: Sequence[Mapping[str, Tensor]] = (),
    *,
    text_encoder: TextEncoder | None = None,
    data_set: str = "coco",
) -> tuple[StackGan, Recipe]:
    """A released StackGAN as a system that generates, and its recipe; widths are read from the tensors.

    Args:
        generator: the tensors of a release, Stage-I or Stage-II.
        discriminators: those of its discriminators, any of them; the others are left out.
        text_encoder: what encoded its captions: the char-CNN-RNN of Reed et al. for the same data set, which
            ``ganvas.convert.char_cnn_rnn`` makes from that release's tensors. Without it the system has an
            untrained one, for which captions mean nothing: it then wants sentence vectors, such as the
            embeddings that were published with the data, in ``generate(Text(...), noise)``.
        data_set: what it was trained on.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the parts do not belong together.
    """
    settings, sizes, sentence_dim = generator_settings(generator)
    encoder, _ = sentence_encoder(text_encoder, sentence_dim, STAGE1.name)
    widths = {discriminator_form(state)[0] for state in discriminators}
    if len(widths) > 1:
        raise GanvasError(f"{DISCRIMINATOR.name}: several widths, {sorted(widths)}; give those of one model")
    width = widths.pop() if widths else max(1, settings.generator_width // 2)
    recipe = _recipe(replace(settings, discriminator_width=width), sizes[-1], encoder, data_set)
    system = bare_system(recipe, encoder)
    assert isinstance(system, StackGan)
    system.stage1, system.stage2 = stackgan_generators(generator)
    system.trained = StagesTrained(len(sizes))
    for state in discriminators:
        side = discriminator_form(state)[2]
        if side not in sizes:
            raise GanvasError(
                f"{DISCRIMINATOR.name}: judges images of {side} px; the generators draw {sizes}"
            )
        setattr(system, f"discriminator{sizes.index(side) + 1}", stackgan_discriminator(state))
    return system.eval(), recipe


def stackgan_generators(state: Mapping[str, Tensor]) -> tuple[Stage1, Stage2 | None]:
    """The generators of a release as ours, in evaluation mode; widths are read from the tensors.

    Args:
        state: the tensors of Stage-I, or of Stage-II with Stage-I in it.

    Returns:
        Stage-I, and Stage-II where it is there.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    settings, sizes, sentence_dim = generator_settings(state)
    stage1 = Stage1(settings, sentence_dim, sizes[0])
    load(STAGE1, _stage1_part(state), stage1)
    if len(sizes) == 1:
        return stage1.eval(), None
    stage2 = Stage2(settings, sentence_dim, *sizes)
    load(STAGE2, state, stage2)
    return stage1.eval(), stage2.eval()


def stackgan_discriminator(state: Mapping[str, Tensor]) -> Discriminator:
    """A released discriminator as ours, in evaluation mode; widths and image size are read from the tensors.

    Args:
        state: its tensors.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    width, condition_dim, side = discriminator_form(state)
    stage = 2 if any("get_uncond_logits" in key for key in state) else 1
    settings = StackGanSettings(form="pytorch", discriminator_width=width, condition_dim=condition_dim)
    model = Discriminator(settings, condition_dim, side, stage=stage)
    load(DISCRIMINATOR, state, model)
    return model.eval()


def generator_settings(state: Mapping[str, Tensor]) -> tuple[StackGanSettings, list[int], int]:
    """What a release's tensors say of its generators.

    Args:
        state: the tensors of Stage-I, or of Stage-II with Stage-I in it.

    Returns:
        Settings, the sides of each stage's images, and the width of sentences.

    Raises:
        GanvasError: a tensor that tells them is missing.
    """
    part = _stage1_part(state)
    twice, sentence_dim = shape_of(STAGE1, part, "ca_net.fc.weight", 2)
    _, seed = shape_of(STAGE1, part, "fc.0.weight", 2)
    _, last, _, _ = shape_of(STAGE1, part, "img.0.weight", 4)
    if seed <= twice // 2 or twice < 2:
        raise GanvasError(f"{STAGE1.name}: 'fc.0.weight' has no place for noise beside a condition")
    sizes = [4 << _count(part, r"upsample(\d+)\..*")]
    stacked = _has_stage2(state)
    if stacked:
        sizes.append(sizes[0] // 4 << _count(state, r"upsample(\d+)\..*"))
    settings = StackGanSettings(
        form="pytorch",
        stages=len(sizes),
        stage1_size=sizes[0],
        noise_dim=seed - twice // 2,
        condition_dim=twice // 2,
        generator_width=2 * last,
        residual_blocks=_count(state, r"residual\.(\d+)\..*") if stacked else None,
        mismatch="shift",
    )
    return settings, sizes, sentence_dim


def discriminator_form(state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width df, width of conditions, and side of images of a released discriminator.

    Raises:
        GanvasError: a tensor that tells them is missing.
    """
    width, *_ = shape_of(DISCRIMINATOR, state, "encode_img.0.weight", 4)
    channels, joint, _, _ = shape_of(DISCRIMINATOR, state, "get_cond_logits.outlogits.0.weight", 4)
    if joint <= channels:
        key = "get_cond_logits.outlogits.0.weight"
        raise GanvasError(f"{DISCRIMINATOR.name}: '{key}' has no place for a condition")
    halvings = sum("encode_img" in key and tensor.shape[2:] == (4, 4) for key, tensor in state.items())
    return width, joint - channels, 4 << halvings


def _recipe(settings: StackGanSettings, image_size: int, encoder: TextEncoder, data_set: str) -> Recipe:
    return resolve(
        {
            "name": f"stackgan-{data_set}-released",
            "about": f"A released StackGAN, converted; trained on {data_set}.",
            "system": "stackgan",
            "data": {"set": data_set, "image_size": image_size, "like": "stackgan"},
            "text": asdict(encoder.settings),  # type: ignore[call-overload]
            "settings": asdict(settings),
            "training": {"images": {"stage1": 0}},
        }
    )


def _has_stage2(state: Mapping[str, Tensor]) -> bool:
    return any(key.removeprefix(STAGE1.prefix).startswith(_BELOW) for key in state)


def _stage1_part(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of Stage-I by its own keys."""
    if not _has_stage2(state):
        return state
    bare = {key.removeprefix(STAGE1.prefix): tensor for key, tensor in state.items()}
    return {key.removeprefix(_BELOW): tensor for key, tensor in bare.items() if key.startswith(_BELOW)}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different groups ``pattern`` finds in whole keys."""
    keys = (key.removeprefix(STAGE1.prefix) for key in state)
    return len({found[1] for key in keys if (found := re.fullmatch(pattern, key))})


def _convert(given: Given) -> Converted:
    system, recipe = stackgan(given.states["generator"], text_encoder=given.text_encoder)
    return Converted(system, recipe, GIVEN if given.text_encoder else UNTRAINED)


RELEASE = Release(
    name="StackGAN", parts=(Part("generator", r"(STAGE1_G\.)?upsample1\.1\.weight"),), build=_convert
)
