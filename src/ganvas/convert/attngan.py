"""The generators and discriminators of taoxugit/AttnGAN: ``bird_AttnGAN2.pth``, ``coco_AttnGAN2.pth``,
``bird_AttnDCGAN2.pth``, ``netD0.pth`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ganvas.building import bare_system
from ganvas.convert.damsm_release import TEXT, data_set, released_text_encoder
from ganvas.convert.official import Converted, Given, Part, Release
from ganvas.convert.tables import Rule, Table, convert, load, shape_of
from ganvas.errors import GanvasError
from ganvas.layers.stacked_discriminator import StackedDiscriminator
from ganvas.recipe import DataSettings, Recipe, TrainingSettings
from ganvas.systems.attngan import AttnGan, AttnGanSettings, Generator
from ganvas.systems.damsm import DamsmSettings
from ganvas.text.bilstm import BiLstm

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def _up_block(source: str, target: str) -> tuple[Rule, ...]:
    """Convolution and normalisation after up-sampling."""
    return (
        Rule(rf"{source}\.1\.weight", rf"{target}.0.weight"),
        Rule(rf"{source}\.2\.{_NORM}", rf"{target}.1.\1"),
    )


def _stage(number: int) -> tuple[Rule, ...]:
    """The attentional stage that the release counts ``number``."""
    theirs, ours = f"h_net{number}", f"further.{number - 2}"
    return (
        Rule(
            rf"{theirs}\.att\.conv_context\.weight",
            f"{ours}.attention.project.weight",
            lambda weight: weight.flatten(1),  # a 1x1 convolution
        ),
        Rule(rf"{theirs}\.residual\.(\d+)\.block\.([0134])\.{_NORM}", rf"{ours}.residual.\1.branch.\2.\3"),
        *_up_block(rf"{theirs}\.upsample", f"{ours}.up"),
    )


GENERATOR = Table(
    "AttnGAN generator",
    (
        Rule(r"ca_net\.fc\.(weight|bias)", r"conditioning.fc.\1"),
        Rule(r"h_net1\.fc\.0\.weight", "initial.fc.weight"),
        Rule(rf"h_net1\.fc\.1\.{_NORM}", r"initial.norm.\1"),
        *(rule for i in range(4) for rule in _up_block(rf"h_net1\.upsample{i + 1}", f"initial.up.{i}")),
        *(rule for number in (2, 3) for rule in _stage(number)),
        *(Rule(rf"img_net{i + 1}\.img\.0\.weight", f"heads.{i}.0.weight") for i in range(3)),
        Rule(r"img_net\.img\.0\.weight", "heads.0.0.weight"),  # AttnDCGAN has one
    ),
)


def _unit(source: str, places: tuple[int, int], target: str) -> tuple[Rule, ...]:
    """Convolution and normalisation at two places of the release's sequence."""
    return (
        Rule(rf"{source}\.{places[0]}\.weight", f"{target}.0.weight"),
        Rule(rf"{source}\.{places[1]}\.{_NORM}", rf"{target}.1.\1"),
    )


DISCRIMINATOR = Table(
    "AttnGAN discriminator",
    (
        Rule(r"img_code_s16\.0\.weight", "trunk.down.0.0.weight"),
        *_unit("img_code_s16", (2, 3), "trunk.down.1"),
        *_unit("img_code_s16", (5, 6), "trunk.down.2"),
        *_unit("img_code_s16", (8, 9), "trunk.down.3"),
        *_unit("img_code_s32", (0, 1), "trunk.down.4"),
        *_unit("img_code_s64", (0, 1), "trunk.down.5"),
        *_unit("img_code_s(?:32|64)_1", (0, 1), "trunk.narrow.0"),
        *_unit("img_code_s64_2", (0, 1), "trunk.narrow.1"),
        *_unit(r"COND_DNET\.jointConv", (0, 1), "conditional.joint"),
        Rule(r"COND_DNET\.outlogits\.0\.(weight|bias)", r"conditional.logit.\1"),
        Rule(r"UNCOND_DNET\.outlogits\.0\.(weight|bias)", r"unconditional.\1"),
    ),
)


def generator_settings(state: Mapping[str, Tensor]) -> tuple[AttnGanSettings, int]:
    """Form and widths of a released generator, and the side of its images.

    Raises:
        GanvasError: a tensor that tells them is missing.
    """
    names = {name.removeprefix(GENERATOR.prefix) for name in state}
    single = "img_net.img.0.weight" in names
    head = "img_net" if single else "img_net1"
    _, width, _, _ = shape_of(GENERATOR, state, f"{head}.img.0.weight", 4)
    condition = shape_of(GENERATOR, state, "ca_net.fc.weight", 2)[0] // 4
    seed = shape_of(GENERATOR, state, "h_net1.fc.0.weight", 2)[1]
    if seed <= condition or condition < 1:
        raise GanvasError(f"{GENERATOR.name}: 'h_net1.fc.0.weight' is too narrow for condition and noise")
    stages = _count(names, r"h_net(\d)\..*")
    settings = AttnGanSettings(
        form="dcgan" if single else "attentional",
        stages=stages,
        generator_width=width,
        residual_blocks=_count(names, r"h_net2\.residual\.(\d+)\..*"),
        noise_dim=seed - condition,
        condition_dim=condition,
    )
    return settings, 4 << (_count(names, r"h_net1\.upsample(\d)\..*") + stages - 1)


def attngan_generator(state: Mapping[str, Tensor]) -> Generator:
    """A released generator as ours, in evaluation mode; its form and widths are read from the tensors.

    Args:
        state: the tensors of the release.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    settings, image_size = generator_settings(state)
    _, text_dim = shape_of(GENERATOR, state, "ca_net.fc.weight", 2)  # of sentences and words
    model = Generator(settings, text_dim, text_dim, image_size)
    load(GENERATOR, state, model)
    return model.eval()


def attngan_discriminator(state: Mapping[str, Tensor]) -> StackedDiscriminator:
    """A released discriminator as ours, in evaluation mode; image size and widths are read from the tensors.

    Args:
        state: the tensors of the release.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    names = {name.removeprefix(DISCRIMINATOR.prefix) for name in state}
    width = shape_of(DISCRIMINATOR, state, "img_code_s16.0.weight", 4)[0]
    channels, joint, _, _ = shape_of(DISCRIMINATOR, state, "COND_DNET.jointConv.0.weight", 4)
    if joint <= channels:
        raise GanvasError(f"{DISCRIMINATOR.name}: 'COND_DNET.jointConv.0.weight' has no place for a sentence")
    model = StackedDiscriminator(
        width,
        joint - channels,
        64 << sum(f"{name}.0.weight" in names for name in ("img_code_s32", "img_code_s64")),
        unconditional="UNCOND_DNET.outlogits.0.weight" in names,
    )
    load(DISCRIMINATOR, state, model)
    return model.eval()


def attngan(
    generator: Mapping[str, Tensor],
    text_encoder: BiLstm,
    data_set: str,
    *,
    mask_compat: bool = False,
) -> Converted:
    """A released AttnGAN or AttnDCGAN as a system that generates, and its recipe.

    What only training needs, discriminators and DAMSM's image encoder, is left out.

    Args:
        generator: the tensors of the release.
        text_encoder: the released one, which read the captions of its training.
        data_set: what it was trained on.
        mask_compat: mask words as in its training. What a caption gives then depends on the others of its
            batch; without, it gives what the release gives for it alone.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the two do not belong together.
    """
    settings, image_size = generator_settings(generator)
    _, text_dim = shape_of(GENERATOR, generator, "ca_net.fc.weight", 2)
    if text_dim != text_encoder.sentence_dim:
        raise GanvasError(
            f"{GENERATOR.name}: reads sentences of width {text_dim}, and the text encoder's have"
            f" {text_encoder.sentence_dim}; give the one that belongs to it"
        )
    settings = replace(settings, mask_compat=mask_compat, damsm=DamsmSettings(weights="random"))
    form = "AttnGAN" if settings.form == "attentional" else "AttnDCGAN"
    recipe = Recipe(
        name=f"{form.lower()}-{data_set}-official",
        about=f"The released generator of {form} (2018), with the text encoder of its DAMSM.",
        system="attngan",
        data=DataSettings(set=data_set, image_size=image_size),
        text=text_encoder.settings,
        settings=settings,
        training=TrainingSettings(images={"gan": 0}),
    )
    system = bare_system(recipe, text_encoder)
    assert isinstance(system, AttnGan)
    system.generator.load_state_dict(
        convert(GENERATOR, generator, system.generator.state_dict()), assign=True
    )
    return Converted(system.eval(), recipe)


def _convert(given: Given) -> Converted:
    text = given.states[TEXT.name]
    assert given.vocabulary is not None
    encoder = released_text_encoder(text, given.vocabulary)
    return attngan(given.states[_GENERATOR.name], encoder, data_set(text))


def _count(names: set[str], pattern: str) -> int:
    """How many different groups ``pattern`` finds in whole names."""
    return len({found[1] for name in names if (found := re.fullmatch(pattern, name))})


_GENERATOR = Part("generator", r"h_net1\.fc\.0\.weight")
RELEASE = Release(name="AttnGAN", parts=(_GENERATOR, TEXT), build=_convert, vocabulary=True)
