"""XMC-GAN of google-research/xmcgan_image_generation: ``ckpt-N.flax``, and parameters by Flax's names.

Keys are joined with ``/``. Kernels are HWIO, or ``(in, out)``. Of local modulation, the official kernels read
the words' context first and the shared part after it, as ours do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.errors import GanvasError
from ganvas.systems.xmc_gan_networks import (
    Discriminator,
    Generator,
    XmcGanSettings,
    discriminator_widths,
    generator_widths,
)

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
