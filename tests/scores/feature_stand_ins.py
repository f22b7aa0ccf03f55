"""A back-end small enough for tests, and pictures made of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganvas.scores.features import BACKENDS, Backend, register
from ganvas.scores.pictures import Pictures

TINY = "tiny"


class Tiny(nn.Module):
    """Two random convolutions and their mean."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 16, 3, stride=2)
            self.second = nn.Conv2d(16, 24, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).relu()).relu().mean(dim=(2, 3))


@contextmanager
def tiny_features(seed: int = 0, name: str = TINY, **changes: Any) -> Iterator[Backend]:
    """The back-end ``tiny``, known for a while."""
    settings: dict[str, Any] = {
        "name": name,
        "about": "Random convolutions.",
        "size": 32,
        "resize": "bilinear, antialiased",
        "mean": (127.5,) * 3,
        "std": (50.0,) * 3,
        "build": lambda weights: Tiny(seed),
    }
    before = BACKENDS.get(name)
    try:
        yield register(Backend(**{**settings, **changes}))
    finally:
        del BACKENDS[name]
        if before:
            BACKENDS[name] = before


def arrays_as_pictures(images: npt.NDArray[np.uint8], split: str = "train", chunk: int = 7) -> Pictures:
    """Images that a model might have made."""
    return Pictures(
        captions=["a caption"] * len(images),
        rows=np.zeros(len(images), np.int64),
        batches=lambda: (images[first : first + chunk] for first in range(0, len(images), chunk)),
        about={"data": "made here", "split": split, "num_images": len(images), "seed": 0},
        kind="generated",
    )
