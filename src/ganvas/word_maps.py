"""Which word each place of an image belongs to, of generated images and of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ganvas.errors import GanvasError
from ganvas.images import to_uint8
from ganvas.recipe import Recipe
from ganvas.systems.base import System
from ganvas.text.encoder import Text


class WordMaps(NamedTuple):
    """An image, and the words that its places belong to."""

    image: Image.Image
    words: list[str]
    """Those that were read of the caption."""
    maps: list[npt.NDArray[np.float32]]
    """For each stage that attends, small to large: ``(T, H, W)``, weights that sum to 1 over words."""


def check_attends(system: System, recipe: Recipe) -> None:
    """Refuse a system that does not attend to words.

    Raises:
        GanvasError: it does not, with these settings.
    """
    if not system.attends:
        raise GanvasError(
            f"'{recipe.name}' is a model of system {recipe.system}, which does not attend to"
            " words with these settings; try AttnGAN of several stages (settings.stages=2)"
        )


def check_lays_out(system: System, recipe: Recipe) -> None:
    """Refuse a system that was trained without layout refinement.

    Raises:
        GanvasError: it was; what to train instead.
    """
    if not system.lays_out:
        raise GanvasError(
            f"'{recipe.name}' is a model of system {recipe.system}, which has no layouts with these settings;"
            " train alr-gan, or AttnGAN with settings.layout.alr_weight=1"
        )


def maps_of_generated(
    system: System, images: Sequence[Image.Image], caption: str, text: Text, noise: Tensor
) -> list[WordMaps]:
    """The attention of generated images.

    Args:
        system: one that attends to words.
        images: N, of this caption.
        caption: as it was read.
        text: the caption, encoded: one row.
        noise: ``(N, Z)``, of the images.
    """
    found = []
    for image, row in zip(images, noise, strict=True):
        maps = system.attention(text, row[None].to(text.sentence.device))
        found.append(_of_words(system, image, caption, maps))
    return found


def maps_of_real(system: System, pixels: Tensor, caption: str, text: Text) -> WordMaps:
    """The layout of a real image.

    Args:
        system: one with layout refinement.
        pixels: ``(1, 3, S, S)`` in [-1, 1].
        caption: of the image.
        text: the caption, encoded: one row.
    """
    image = Image.fromarray(to_uint8(pixels)[0])
    return _of_words(system, image, caption, system.layout(pixels, text))


def _of_words(system: System, image: Image.Image, caption: str, maps: Sequence[Tensor]) -> WordMaps:
    words = system.text_encoder.words_of(caption)
    return WordMaps(image, words, [stage[0, : len(words)].float().cpu().numpy() for stage in maps])
