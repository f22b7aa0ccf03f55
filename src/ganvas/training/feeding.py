"""What a run trains on, a prepared data set or a stream of shards, and the feed that a phase draws from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from lightning_fabric import Fabric

from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.store import Store
from ganvas.data.stream import StreamFeed, StreamSettings
from ganvas.data.stream_index import ShardStream, holds_stream
from ganvas.errors import GanvasError
from ganvas.recipe import DataSettings, Recipe
from ganvas.systems.base import Phase

Data: TypeAlias = Store | ShardStream


def check_captions(data: Data, phases: Iterable[Phase]) -> None:
    """Refuse, before anything is trained, data that cannot serve a later phase.

    Raises:
        GanvasError: a stream gives one caption of an image, and a phase reads several.
    """
    for phase in phases:
        if isinstance(data, ShardStream) and phase.captions > 1:
            raise GanvasError(
                f"{data.path}: is a stream of shards, which gives one caption of an image, and phase"
                f" {phase.name} of this system reads {phase.captions}; prepare the data set"
            )


def make_feed(
    recipe: Recipe, data: Data, phase: Phase, number: int, batch_size: int, fabric: Fabric
) -> Feed | StreamFeed:
    """The feed of a phase on this rank.

    Args:
        recipe: how batches are drawn.
        data: from what.
        phase: what the batches are for.
        number: of the phase.
        batch_size: over all ranks.
        fabric: ranks.

    Raises:
        GanvasError: the data cannot serve such batches.
    """
    settings, ranks = recipe.data, fabric.world_size
    image_size = phase.image_size or settings.image_size
    crop = data.info.size * settings.image_size // (settings.stored_size or settings.image_size)
    seed = recipe.training.seed + 1000 * number
    if isinstance(data, ShardStream):
        return StreamFeed(
            data,
            StreamSettings(
                batch_size=batch_size // ranks,
                image_size=image_size,
                crop=crop,
                flip=settings.flip,
                smaller=tuple(phase.smaller),
                wrong_images=phase.wrong_images,
                seed=seed,
                rank=fabric.global_rank,
                num_ranks=ranks,
                num_threads=max(1, _cores() // ranks),
            ),
        )
    return Feed(
        data,
        "train",
        FeedSettings(
            batch_size=batch_size // ranks,
            image_size=image_size,
            crop=crop,
            flip=settings.flip,
            captions=_captions(phase, settings),
            replacement=settings.replacement,
            balanced=settings.balanced,
            mismatch=settings.mismatch,
            smaller=tuple(phase.smaller),
            wrong_images=phase.wrong_images,
            seed=seed,
            rank=fabric.global_rank,
            num_ranks=ranks,
        ),
    )


def _captions(phase: Phase, settings: DataSettings) -> int:
    """Captions drawn for each image: a mean of words is none, so those are never averaged."""
    if phase.trains_text:
        return 1
    return phase.captions if phase.words else settings.captions


def open_stream(settings: DataSettings, folder: Path | None) -> ShardStream | None:
    """The stream that a folder stands for; None if it stands for none.

    Raises:
        GanvasError: it is damaged, or a stream cannot give what the recipe asks for.
    """
    if folder is None or not holds_stream(folder):
        return None
    for key, wanted in (("balanced", False), ("captions", 1), ("like", None)):
        if getattr(settings, key) != wanted:
            possible = "null" if wanted is None else str(wanted).lower()
            raise GanvasError(
                f"{folder}: is a stream of shards, which cannot serve data.{key}={getattr(settings, key)};"
                f" give data.{key}={possible}, or prepare the data set"
            )
    return ShardStream(folder)


def training_captions(data: Data) -> list[str]:
    """The captions of the training images; of a stream, some of them."""
    if isinstance(data, ShardStream):
        return data.captions
    return [caption for row in data.rows("train") for caption in data.captions[row]]


def shown_images(data: Data) -> Store:
    """Where sample sheets take captions and real images from."""
    return data.preview if isinstance(data, ShardStream) else data


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
