"""StackGAN++ of hanzhanggit/StackGAN-v2: ``netG_*.pth`` and ``netD0.pth``, ``netD1.pth``...

The conditional birds, and the unconditional dogs, cats, bedrooms and churches. Releases hold averaged weights
beside live running statistics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from ganvas.convert.char_cnn_rnn import GIVEN, UNTRAINED, sentence_encoder
from ganvas.convert.official import Converted, Given, Part, Release
from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.errors import GanvasError
from ganvas.layers.stacked_discriminator import StackedDiscriminator
from ganvas.recipe import Recipe, resolve
from ganvas.systems.stackgan_v2 import FIRST_SIZE, Generator, StackGanV2, StackGanV2Settings, stage_sizes
from ganvas.text.encoder import NoText, TextEncoder


def _features_first(kernel: Tensor, channels: int) -> Tensor:
    """Official kernels read the condition before the features; ours read it after them."""
    return kernel.roll(channels, dims=1)


def _stage_rules() -> list[Rule]:
    """Those of ``h_net2``, ``h_net3``..., whose numbers are two above ours."""
    rules = []
    for number in range(2, 6):
        theirs, ours = f"h_net{number}", f"further.{number - 2}"
        rules += [
            Rule(
                rf"{theirs}\.jointConv\.0\.weight",
                f"{ours}.join.weight",
                lambda kernel: _features_first(kernel, len(kernel) // 2),  # half as many features as outputs
            ),
            Rule(rf"{theirs}\.jointConv\.1\.(.+)", rf"{ours}.joined.0.\1"),
            Rule(rf"{theirs}\.residual\.(\d)\.block\.(.+)", rf"{ours}.residual.\1.branch.\2"),
            Rule(rf"{theirs}\.upsample\.1\.weight", rf"{ours}.up.0.weight"),
            Rule(rf"{theirs}\.upsample\.2\.(.+)", rf"{ours}.up.1.\1"),
        ]
    return rules


GENERATOR = Table(
    "StackGAN++ generator",
    (
        Rule(r"ca_net\.fc\.(weight|bias)", r"augmentation.fc.\1"),
        Rule(r"h_net1\.fc\.0\.weight", "first.0.fc.weight"),
        Rule(r"h_net1\.fc\.1\.(.+)", r"first.0.norm.\1"),
        Rule(r"h_net1\.upsample(\d)\.1\.weight", r"first.\1.0.weight"),
        Rule(r"h_net1\.upsample(\d)\.2\.(.+)", r"first.\1.1.\2"),
        *_stage_rules(),
        *(Rule(rf"img_net{i + 1}\.img\.0\.weight", f"heads.{i}.0.weight") for i in range(5)),
    ),
)


def _discriminator_rules() -> list[Rule]:
    """The trunk: halvings down to a sixteenth, further ones, and what makes the features narrower again."""
    rules = [Rule(r"img_code_s16\.0\.weight", "trunk.down.0.0.weight")]
    for halving, place in ((1, 2), (2, 5), (3, 8)):
        rules += [
            Rule(rf"img_code_s16\.{place}\.weight", f"trunk.down.{halving}.0.weight"),
            Rule(rf"img_code_s16\.{place + 1}\.(.+)", rf"trunk.down.{halving}.1.\1"),
        ]
    for halving, share in ((4, 32), (5, 64), (6, 128)):
        rules.append(Rule(rf"img_code_s{share}\.([01])\.(.+)", rf"trunk.down.{halving}.\1.\2"))
    for number in (1, 2, 3):
        rules.append(Rule(rf"img_code_s\d+_{number}\.([01])\.(.+)", rf"trunk.narrow.{number - 1}.\1.\2"))
    return rules


DISCRIMINATOR = Table(
    "StackGAN++ discriminator",
    (
        *_discriminator_rules(),
        Rule(
            r"jointConv\.0\.weight",
            "conditional.joint.0.weight",
            lambda kernel: _features_first(kernel, len(kernel)),
        ),
        Rule(r"jointConv\.1\.(.+)", r"conditional.joint.1.\1"),
        Rule(r"logits\.0\.(weight|bias)", r"conditional.logit.\1"),
        Rule(r"uncond_logits\.0\.(weight|bias)", r"unconditional.\1"),
    ),
)

UNCONDITIONAL_DISCRIMINATOR = Table(
    "StackGAN++ unconditional discriminator",
    (*_discriminator_rules(), Rule(r"logits\.0\.(weight|bias)", r"unconditional.\1")),
)


def stackgan_v2_generator(state: Mapping[str, Tensor]) -> tuple[Generator, StackGanV2Settings, int]:
    """A released generator as ours, in evaluation mode, and what it was made from.

    Args:
        state: the tensors of ``netG_*.pth``.

    Returns:
        The generator, its settings, and the width of its sentences, 0 for an unconditional one.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    rows, start_dim = shape_of(GENERATOR, state, "h_net1.fc.0.weight", 2)
    sentence_dim = condition_dim = 0
    if _has(state, r"ca_net\..*"):
        outputs, sentence_dim = shape_of(GENERATOR, state, "ca_net.fc.weight", 2)
        condition_dim = outputs // 4
    stages = _count(state, r"img_net(\d+)\.img\.0\.weight")
    settings = StackGanV2Settings(
        stages=stages,
        noise_dim=start_dim - condition_dim,
        condition_dim=condition_dim or StackGanV2Settings.condition_dim,
        generator_width=rows // 512,  # 16 ngf channels of a 4x4 map, doubled by the gate
        residual_blocks=_count(state, r"h_net2\.residual\.(\d+)\.block\.0\.weight") if stages > 1 else 2,
    )
    if min(settings.noise_dim, settings.generator_width, settings.condition_dim) < 1:
        raise GanvasError(
            f"{GENERATOR.name}: 'h_net1.fc.0.weight' has the shape ({rows}, {start_dim}), from which no"
            " widths follow; check that the file belongs to this release"
        )
    with torch.device("meta"):
        model = Generator(settings, sentence_dim, stage_sizes(FIRST_SIZE << (stages - 1), stages))
    model.to_empty(device="cpu")
    load(GENERATOR, state, model)
    return model.eval(), settings, sentence_dim


def stackgan_v2_discriminator(state: Mapping[str, Tensor]) -> StackedDiscriminator:
    """A released discriminator as ours, in evaluation mode; widths and side are read from the tensors.

    Args:
        state: the tensors of ``netD0.pth`` or its like.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    conditional = _has(state, r"jointConv\..*")
    table = DISCRIMINATOR if conditional else UNCONDITIONAL_DISCRIMINATOR
    width = shape_of(table, state, "img_code_s16.0.weight", 4)[0]
    condition_dim = 0
    if conditional:
        channels, joint = shape_of(table, state, "jointConv.0.weight", 4)[:2]
        condition_dim = joint - channels
        if condition_dim < 1:
            raise GanvasError(f"{table.name}: 'jointConv.0.weight' leaves no room for a condition")
    size = FIRST_SIZE << sum(_has(state, rf"img_code_s{share}\.0\.weight") for share in (32, 64, 128))
    alone = not conditional or _has(state, r"uncond_logits\..*")
    with torch.device("meta"):
        model = StackedDiscriminator(width, condition_dim, size, unconditional=alone)
    model.to_empty(device="cpu")
    load(table, state, model)
    return model.eval()


def stackgan_v2(
    generator: Mapping[str, Tensor],
    discriminators: Sequence[Mapping[str, Tensor]] = (),
    text_encoder: TextEncoder | None = None,
    *,
    name: str = "stackgan-v2",
) -> tuple[StackGanV2, Recipe]:
    """A release as a system that generates, and its recipe.

    Args:
        generator: the tensors of ``netG_*.pth``.
        discriminators: those of ``netD0.pth``, ``netD1.pth``...; without them the system can generate, and no
            more.
        text_encoder: the char-CNN-RNN whose sentences a conditional release was trained on. It is not in its
            files; ``ganvas.convert.char_cnn_rnn`` makes one of Reed et al.'s. Without it captions are read by
            an untrained one. Unconditional releases have none.
        name: of the recipe.

    Raises:
        GanvasError: tensors are missing or do not fit each other.
    """
    tree, settings, sentence_dim = stackgan_v2_generator(generator)
    encoder: TextEncoder = NoText()
    if sentence_dim:
        encoder, _ = sentence_encoder(text_encoder, sentence_dim, GENERATOR.name)
    judges = [stackgan_v2_discriminator(state) for state in discriminators]
    if judges:
        ndf = shape_of(DISCRIMINATOR, discriminators[0], "img_code_s16.0.weight", 4)[0]
        settings = replace(settings, discriminator_width=ndf)
    if not sentence_dim:
        settings = replace(settings, color_weight=50.0)  # as the unconditional releases were trained
    image_size = FIRST_SIZE << (len(tree.heads) - 1)
    recipe = resolve(
        {
            "name": name,
            "about": "An official StackGAN++ release, converted.",
            "system": "stackgan++",
            "data": {"set": "folder", "image_size": image_size},
            "text": asdict(encoder.settings) if sentence_dim else None,  # type: ignore[call-overload]
            "settings": asdict(settings),
            "training": {"images": {"gan": 0}},
        }
    )
    with torch.device("meta"):  # fresh weights would be thrown away
        system = StackGanV2(settings, encoder, image_size)
    if judges:
        _check_judges(system, judges)
    system.generator, system.joint_embedding = tree, None
    system.discriminators = nn.ModuleList(judges)
    return system.eval(), recipe


def _check_judges(system: StackGanV2, judges: Sequence[StackedDiscriminator]) -> None:
    """Whether discriminators are those of a system.

    Raises:
        GanvasError: they are not.
    """
    if len(judges) != len(system.discriminators):
        raise GanvasError(
            f"{DISCRIMINATOR.name}: {len(judges)} are given, but the generator has"
            f" {len(system.discriminators)} branches; give netD0 and the others in their order, or none"
        )
    for number, (mine, judge) in enumerate(zip(system.discriminators, judges, strict=True)):
        wanted, given = mine.state_dict(), judge.state_dict()
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in given.items()}:
            raise GanvasError(
                f"{DISCRIMINATOR.name}: number {number} does not judge the {system.sizes[number]} px images"
                " of this generator; give netD0 and the others of one release in their order"
            )


def _names(state: Mapping[str, Tensor]) -> list[str]:
    return [key.removeprefix(GENERATOR.prefix) for key in state]


def _has(state: Mapping[str, Tensor], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in _names(state))


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in _names(state))


def _convert(given: Given) -> Converted:
    system, recipe = stackgan_v2(given.states["generator"], (), given.text_encoder)
    warning = GIVEN if given.text_encoder else UNTRAINED
    return Converted(system, recipe, warning if system.conditional else "")


RELEASE = Release(name="StackGAN++", parts=(Part("generator", r"h_net1\..*"),), build=_convert)
