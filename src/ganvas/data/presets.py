"""The pre-processing of each paper, by name.

``ganvas data prepare --like NAME`` takes from a preset how images are cropped and scaled, and keeps as many
captions of an image as papers use (``CAPTIONS``). A recipe with ``data.like: NAME`` takes from it, on top of
that, how captions are chosen, which words the vocabulary has, and how many words of a caption are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ganvas.data.pixels import Fit
from ganvas.errors import GanvasError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How one line of papers prepares its data."""

    about: str
    """One sentence for people."""
    fit: Fit
    """For data sets without bounding boxes."""
    boxes: tuple[str, ...] = ()
    """Data sets whose images are cropped around the bounding box first."""
    margin: tuple[int, int] = (76, 64)
    """Stored side to image size: the rest is what a random crop leaves out."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings ``data.*`` of a recipe."""
    of_set: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings ``data.*`` of a recipe on one data set, over those of ``data``."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Settings ``text.*`` of a recipe with a word encoder."""
    num_words: Mapping[str, int] = field(default_factory=dict)
    """Words read of a caption, or tokens of a transformer, by data set."""

    def stored_size(self, image_size: int) -> int:
        """The side of the stored images for images of ``image_size`` pixels."""
        return image_size * self.margin[0] // self.margin[1]

    def fit_of(self, data_set: str) -> Fit:
        """How images of a data set are brought to size."""
        box = data_set in self.boxes
        return Fit(resize=self.fit.resize, box=box, scaling=self.fit.scaling, exact=self.fit.exact)

    def recipe_data(self, data_set: str, image_size: int) -> dict[str, Any]:
        """Settings ``data.*`` of a recipe."""
        stored = {"stored_size": self.stored_size(image_size)}
        return {**stored, **self.data, **self.of_set.get(data_set, {})}

    def recipe_text(self, data_set: str, encoder: str) -> dict[str, Any]:
        """Settings ``text.*`` of a recipe; nothing for an encoder that the paper does not have."""
        if encoder not in ("bilstm", "transformer"):
            return {}
        read = {"num_words": self.num_words[data_set]} if data_set in self.num_words else {}
        return {**read, **(self.words if encoder == "bilstm" else {})}


CAPTIONS: Mapping[str, int] = MappingProxyType({"cub": 10, "oxford102": 10, "coco": 5, "narratives": 1})
"""Captions of an image that the papers use: the first ones, where there are more."""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "reed": Preset(
            about="GAN-INT-CLS: squeezed to a square, sentences of several captions averaged",
            fit=Fit(resize="square", exact=True),
            data={"flip": 0.5, "mismatch": "class", "balanced": True, "captions": 4, "replacement": True},
            of_set={"coco": {"mismatch": "image", "balanced": False, "captions": 3, "replacement": False}},
        ),
        "stackgan": Preset(
            about="StackGAN: the bird in the middle, squeezed to a square, four captions averaged",
            fit=Fit(resize="square", scaling="bicubic", exact=True),
            boxes=("cub",),
            data={"flip": 0.5, "mismatch": "class", "captions": 4},
            of_set={"coco": {"mismatch": "image", "captions": 1}},  # the PyTorch release
        ),
        "attngan": Preset(
            about="StackGAN++, AttnGAN and their kin: the bird in the middle, the longer side kept",
            fit=Fit(resize="whole", exact=True),
            boxes=("cub",),
            data={"flip": 0.5, "mismatch": "image", "captions": 1},
            words={"word_rule": "attngan", "vocabulary": "all", "unknown": "drop", "word_choice": "random"},
            num_words={"cub": 18, "oxford102": 18, "coco": 12},
        ),
        "xmcgan": Preset(
            about="XMC-GAN: the whole image squeezed to a square, no random crop",
            fit=Fit(resize="square", exact=True),
            margin=(1, 1),
            data={"flip": 0.5, "mismatch": "image", "captions": 1},
            num_words={"coco": 17, "narratives": 64},
        ),
    }
)  # fmt: skip


def find_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        GanvasError: there is none.
    """
    if name not in PRESETS:
        raise GanvasError(f"no paper's pre-processing '{name}'; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
