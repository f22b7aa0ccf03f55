"""XMC-GAN of google-research/xmcgan_image_generation: ``ckpt-N.flax``, and parameters by Flax's names.

Keys are joined with ``/``. Kernels are HWIO, or ``(in, out)``. Of local modulation, the official kernels read
the words' context first and the shared part after it, as ours do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ganvas.convert.flax import read_flax
from ganvas.convert.official import MAX_BYTES, Converted, Given, Part, Release
from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe, resolve
from ganvas.systems.xmc_gan import XmcGan
from ganvas.systems.xmc_gan_networks import (
    Discriminator,
    Generator,
    XmcGanSettings,
    discriminator_widths,
    generator_widths,
)
from ganvas.text import build
from ganvas.text.encoder import TextEncoder
from ganvas.text.settings import TransformerSettings

BERT = "google-bert/bert-base-uncased"
_NUM_WORDS = 17  # tokens of a COCO caption that the official code reads

_Module = TypeVar("_Module", bound=nn.Module)


def _conv(kernel: Tensor) -> Tensor:
    """HWIO to OIHW."""
    return kernel.permute(3, 2, 0, 1)


def _linear(kernel: Tensor) -> Tensor:
    """``(in, out)`` to ``(out, in)``."""
    return kernel.permute(1, 0)


def _pointwise(kernel: Tensor) -> Tensor:
    """A 1x1 convolution, HWIO, to a linear map ``(out, in)``."""
    return kernel[0, 0].permute(1, 0)


def _weights(theirs: str, ours: str, kernel: str = "conv") -> list[Rule]:
    transform = {"conv": _conv, "linear": _linear, "pointwise": _pointwise}[kernel]
    return [
        Rule(rf"params/{theirs}/kernel", rf"{ours}.weight", transform),
        Rule(rf"params/{theirs}/bias", rf"{ours}.bias"),
    ]


def _modulation(theirs: str, ours: str) -> list[Rule]:
    """Both forms: of a whole map, and by place."""
    found = []
    for kind, layer, kernel in (
        ("Conditional", "Dense", "linear"),
        ("LocalConditional", "Conv", "pointwise"),
    ):
        name = theirs.replace("Norm", f"{kind}BatchNorm")
        found += [*_weights(rf"{name}/{layer}_0", rf"{ours}.gamma", kernel)]
        found += [*_weights(rf"{name}/{layer}_1", rf"{ours}.beta", kernel)]
        found += [
            Rule(rf"batch_stats/{name}/BatchNorm_0/mean", rf"{ours}.norm.running_mean"),
            Rule(rf"batch_stats/{name}/BatchNorm_0/var", rf"{ours}.norm.running_var"),
        ]
    return found


def _generator_table(whole: int, local: int) -> Table:
    """That of a generator with so many blocks modulated as a whole, and so many by place."""
    rules = [
        *_weights("Dense_0", "sentence", "linear"),
        *_weights("Dense_1", "start", "linear"),
        *_weights("Conv_0", "attention.query"),
        *_weights("Conv_1", "head"),
        *_modulation("Norm_0", "last"),
    ]
    for number in range(whole + local):
        theirs = f"GenBlock_{number}" if number < whole else f"GenSpatialBlock_{number - whole}"
        ours = f"blocks.{number}"
        rules += _modulation(f"{theirs}/Norm_0", f"{ours}.first")
        rules += _modulation(f"{theirs}/Norm_1", f"{ours}.second")
        for place, name in enumerate(("up", "conv", "shortcut")):
            rules += _weights(f"{theirs}/Conv_{place}", f"{ours}.{name}")
    return Table("XMC-GAN generator", tuple(rules), prefix="")


def _spectral(theirs: str, ours: str, kernel: str = "conv") -> list[Rule]:
    vector = Rule(rf"spectral_norm_stats/{theirs}/u0", rf"{ours}.u", lambda u: u.squeeze(0))
    return [*_weights(theirs, ours, kernel), vector]


def _discriminator_table(blocks: int) -> Table:
    rules = [
        *_spectral("SpectralDense_0", "logit", "linear"),
        *_spectral("SpectralDense_1", "sentence", "linear"),
        *_spectral("SpectralConv_0", "region"),
    ]
    for number in range(blocks):
        theirs = f"DiscBlock_{number - 1}" if number else "DiscOptimizedBlock_0"
        for place, name in enumerate(("conv1", "conv2", "shortcut")):
            rules += _spectral(f"{theirs}/SpectralConv_{place}", f"blocks.{number}.{name}")
    return Table("XMC-GAN discriminator", tuple(rules), prefix="")


def xmcgan_generator(state: Mapping[str, Tensor]) -> tuple[Generator, XmcGanSettings, tuple[int, int, int]]:
    """A generator as ours, in evaluation mode, and what it was made from.

    Args:
        state: its tensors, ``params/...`` and ``batch_stats/...``.

    Returns:
        The generator, its settings, and the widths of its sentences and words and the side of its images.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    whole, local = (_count(state, rf"params/{kind}_(\d+)/.*") for kind in ("GenBlock", "GenSpatialBlock"))
    table = _generator_table(whole, local)
    sentence_dim, condition_dim = shape_of(table, state, "params/Dense_0/kernel", 2)
    first_dim, start = shape_of(table, state, "params/Dense_1/kernel", 2)
    word_dim = shape_of(table, state, "params/Conv_0/kernel", 4)[3]
    width = shape_of(table, state, "params/Conv_1/kernel", 4)[2]
    inputs = shape_of(table, state, "params/GenBlock_0/ConditionalBatchNorm_0/Dense_0/kernel", 2)[0]
    image_size = 4 << min(whole + local, 10)
    both = first_dim == inputs
    if image_size > 256 or inputs <= condition_dim or min(whole, width) < 1:
        raise _unknown(table, f"{whole + local} blocks of the width {width}")
    if start != 16 * generator_widths(image_size, width)[0]:
        raise _unknown(table, f"'params/Dense_1/kernel' of the shape ({first_dim}, {start})")
    settings = XmcGanSettings(
        generator_width=width,
        noise_dim=inputs - condition_dim,
        condition_dim=condition_dim,
        first_input="both" if both else "noise",
        attention_side=4 << whole,
    )
    with torch.device("meta"):
        model = Generator(settings, sentence_dim, word_dim, image_size)
    return _filled(table, state, model), settings, (sentence_dim, word_dim, image_size)


def xmcgan_discriminator(state: Mapping[str, Tensor]) -> tuple[Discriminator, XmcGanSettings]:
    """A discriminator as ours, in evaluation mode, and its settings.

    Args:
        state: its tensors, ``params/...`` and ``spectral_norm_stats/...``.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    blocks = _count(state, r"params/DiscBlock_(\d+)/.*") + 1
    table = _discriminator_table(blocks)
    width = shape_of(table, state, "params/DiscOptimizedBlock_0/SpectralConv_0/kernel", 4)[3]
    sentence_dim = shape_of(table, state, "params/SpectralDense_1/kernel", 2)[0]
    channels, word_dim = shape_of(table, state, "params/SpectralConv_0/kernel", 4)[2:]
    image_size = 4 << min(blocks - 1, 10)
    widths = discriminator_widths(image_size, width)
    if not 8 <= image_size <= 256:
        raise _unknown(table, f"{blocks} blocks")
    settings = XmcGanSettings(
        discriminator_width=width, region_side=_region_side(widths, channels, image_size)
    )
    with torch.device("meta"):
        model = Discriminator(settings, sentence_dim, word_dim, image_size)
    return _filled(table, state, model), settings


def _region_side(widths: list[int], channels: int, image_size: int) -> int:
    """Side of the map with so many channels; that of 16 where several have them [code]."""
    sides = [image_size >> (i + 1) for i, width in enumerate(widths[:-1]) if width == channels]
    if not sides:
        raise GanvasError(
            f"XMC-GAN discriminator: 'params/SpectralConv_0/kernel' reads {channels} channels, which no block"
            " has; check that the file belongs to this release"
        )
    return 16 if 16 in sides else sides[0]


def _filled(table: Table, state: Mapping[str, Tensor], model: _Module) -> _Module:
    model.to_empty(device="cpu")
    load(table, state, model)
    return model.eval()


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many blocks of a kind are numbered."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


def _unknown(table: Table, what: str) -> GanvasError:
    return GanvasError(f"{table.name}: {what} fit no model; check that the file belongs to this release")


def xmcgan(
    generator: Mapping[str, Tensor], text_encoder: TextEncoder | None = None, *, name: str = "xmcgan"
) -> tuple[XmcGan, Recipe]:
    """A released generator as a system with a recipe, as models are saved; it draws, and is not trained.

    Args:
        generator: its tensors, ``params/...`` and ``batch_stats/...``.
        text_encoder: what reads the captions; by default BERT, which must be in the cache of the hub.
        name: of the recipe.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the text encoder does not fit.
    """
    model, settings, (sentence_dim, word_dim, image_size) = xmcgan_generator(generator)
    encoder = text_encoder or build(TransformerSettings(model=BERT, num_words=_NUM_WORDS))
    if (encoder.sentence_dim, encoder.word_dim) != (sentence_dim, word_dim):
        raise GanvasError(
            f"{name}: its generator reads sentences and words of the widths {sentence_dim} and {word_dim},"
            f" but the text encoder gives {encoder.sentence_dim} and {encoder.word_dim}; give one with --text"
        )
    settings = replace(settings, frozen_weight=0.0)  # no network is needed to draw
    recipe = resolve(
        {
            "name": name,
            "about": "XMC-GAN in the official code's form, converted.",
            "system": "xmc-gan",
            "data": {"set": "folder", "image_size": image_size},
            "text": asdict(cast(Any, encoder).settings),
            "settings": asdict(settings),
            "training": {"images": {"gan": 0}},
        }
    )
    with torch.device("meta"):  # fresh weights would be thrown away
        system = XmcGan(settings, encoder, image_size)
    system.generator = model
    return system.eval(), recipe


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The averaged generator of a ``ckpt-N.flax``, as ``params/...`` and ``batch_stats/...``."""
    found: dict[str, Tensor] = {}
    for key, value in read_flax(path, MAX_BYTES).items():
        if key.startswith("ema_params/"):
            found["params/" + key.removeprefix("ema_params/").removeprefix("params/")] = value
        elif key.startswith("generator_state/"):
            found[key.removeprefix("generator_state/")] = value
    if not found:
        raise GanvasError(f"{path}: holds no averaged generator ('ema_params'); give a ckpt-N.flax")
    return found


def _convert(given: Given) -> Converted:
    return Converted(*xmcgan(given.states["checkpoint"], given.text_encoder))


RELEASE = Release(
    name="XMC-GAN",
    parts=(Part("checkpoint", r"params/GenBlock_0/.*"),),
    build=_convert,
    read=read_checkpoint,
)
