"""A tiny data set, a tiny recipe, and what of a run must not depend on how often it was interrupted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.recipe import Recipe, resolve

SIZE = 16
COLOURS = {"red": (220, 30, 30), "green": (20, 180, 40), "blue": (30, 60, 230), "yellow": (240, 220, 20)}
THINGS = ("ball", "cube", "hat", "star", "bird")
SMALL_SYSTEM = [
    "settings.generator_width=4",
    "settings.discriminator_width=4",
    "settings.projection=8",
    "settings.style_width=4",
    "settings.joint_embedding.image_width=4",
    "text.channels=8",
    "text.embedding=16",
]
"""What makes any recipe of GAN-INT-CLS small."""


def write_store(path: Path, *, size: int = SIZE, splits: tuple[int, int, int] = (14, 3, 3)) -> Store:
    """A prepared data set of coloured squares."""
    names = [
        split for split, count in zip(("train", "val", "test"), splits, strict=True) for _ in range(count)
    ]
    pairs = [(colour, thing) for thing in THINGS for colour in COLOURS]
    random = np.random.default_rng(0)
    with StoreWriter(path, name="squares", size=size, source="drawn here", licence="CC0-1.0") as writer:
        for number, split in enumerate(names):
            colour, thing = pairs[number % len(pairs)]
            image = random.integers(0, 60, (size, size, 3)) + np.array(COLOURS[colour]) * 3 // 4
            record = Record(
                id=str(number),
                split=split,
                captions=(f"a {colour} {thing}", f"one {thing}, {colour}"),
                label=thing,
            )
            writer.add(record, image.clip(0, 255).astype(np.uint8))
        writer.finish()
    return Store(path)


def tiny_tree(**training: Any) -> dict[str, Any]:
    """A recipe that trains in a second on one core."""
    return {
        "name": "tiny",
        "system": "gan-int-cls",
        "data": {"set": "emoji", "image_size": SIZE},
        "text": {"encoder": "char-cnn-rnn", "channels": 8, "embedding": 16},
        "settings": {
            "generator_width": 4,
            "discriminator_width": 4,
            "projection": 8,
            "style_width": 4,
            "joint_embedding": {"image_width": 4},
        },
        "training": {
            "images": {"text": 12, "gan": 24, "style": 8},
            "batch_size": 4,
            "device": "cpu",
            "precision": "float32",
            "log_every": 3,
            "sample_every": 0,
            "samples": 2,
            "save_every": 8,
            **training,
        },
    }


def tiny_recipe(**training: Any) -> Recipe:
    return resolve(tiny_tree(**training))


def logged_losses(run: Path) -> list[dict[str, str]]:
    """The rows of ``log.csv`` without what the clock says."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def outcome(run: Path) -> tuple[list[dict[str, str]], bytes]:
    """What must not depend on how often a run was interrupted."""
    return logged_losses(run), (run / "model" / "model.safetensors").read_bytes()


@contextmanager
def one_thread() -> Iterator[None]:
    """Bits are compared, and tiny networks are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Called:
    """What a command did."""

    status: int
    out: str
    err: str

    def is_one_line(self, status: int = 2) -> bool:
        return (
            self.status == status
            and self.err.startswith("ganvas: ")
            and self.err.count("\n") == 1
            and self.err.endswith("\n")
            and "Traceback" not in self.err
        )
