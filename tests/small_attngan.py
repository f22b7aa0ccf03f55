"""An AttnGAN small enough for a test, and batches for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ganvas.systems.attngan import AttnGan, AttnGanSettings
from ganvas.systems.base import Batch
from ganvas.systems.damsm import DamsmSettings
from ganvas.text import build
from ganvas.text.settings import BiLstmSettings

CAPTIONS = ["a red bird with a long blue tail", "bird", "a small green bird", "two birds"]


def small_attngan(image_size: int = 32, **changes: Any) -> AttnGan:
    torch.manual_seed(0)
    encoder = build(BiLstmSettings(features=8, embedding=4, num_words=6), CAPTIONS, None)
    settings = AttnGanSettings(
        **{
            "stages": 2,
            "generator_width": 4,
            "discriminator_width": 4,
            "residual_blocks": 1,
            "noise_dim": 5,
            "condition_dim": 3,
            "damsm": DamsmSettings(image_encoder="scratch", width=4, regions=4),
            **changes,
        }
    )
    return AttnGan(settings, encoder, image_size)


def batch_of(system: AttnGan, size: int = 4, sizes: Sequence[int] = ()) -> Batch:
    """``size`` images of each of ``sizes``, by default those that the system draws."""
    torch.manual_seed(1)
    captions = (CAPTIONS * 2)[:size]
    images = [torch.randn(size, 3, side, side).tanh() for side in sizes or system.sizes]
    with torch.no_grad():
        text, wrong = system.embed(captions), system.embed(captions[::-1])
    return Batch(
        images=images[-1],
        smaller=images[:-1],
        tokens=system.text_encoder.tokenize(captions),
        text=text,
        wrong_text=wrong,
        labels=torch.arange(size),
    )
