"""How fast the feed is, against a DataLoader over the same memory map, and what it costs a training step.

One run measures, in interleaved rounds, images a second of the feed alone (gathered on the host; and ready
for the networks, cropped, flipped and scaled), and of ``torch.utils.data.DataLoader`` over a data set that
reads the same store image by image, with 0 and 2 workers. Then it trains the demo's networks, with the feed
and with one batch over and over, and says which share of a step is spent waiting for the feed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    RESULTS,
    interleave,
    machine,
    make_bench,
    open_recipe,
    parser,
    ratio,
    run_script,
    summary,
    synchronize,
    write_result,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe
from ganvas.training.device import choose_device
from ganvas.training.inputs import Inputs

RECIPE = "gan-int-cls-emoji-demo"
BAR_IMAGES = 30_000
"""Images a second that the feed should make ready at 64 px."""
BAR_SHARE = 0.03
"""Of a training step of the recipe, at most, should be spent waiting for the feed."""

Work = Callable[[], None]
Item = tuple[Tensor, int, int]


def write_store(folder: Path, images: int, size: int) -> Store:
    """A store of random images in 100 classes, three captions each."""
    random = np.random.default_rng(0)
    with StoreWriter(folder, name="random", size=size, source="random numbers", licence="CC0-1.0") as writer:
        for i in range(images):
            captions = tuple(f"caption {k} of image {i}" for k in range(3))
            record = Record(id=str(i), split="train", captions=captions, label=f"class {i % 100}")
            writer.add(record, random.integers(0, 256, (size, size, 3), np.uint8))
        writer.finish()
    return Store(folder)


class ItemByItem(Dataset[Item]):
    """The peer: one image, its caption and another's at a time; ``ready`` also crops and flips it."""

    def __init__(self, feed: Feed, *, ready: bool) -> None:
        self._images, self._rows, self._ready = feed.store.images, feed.rows, ready
        counts = [len(feed.store.captions[row]) for row in feed.rows]
        self._ends = np.cumsum(counts)
        self._size, self._flip = feed.settings.image_size, feed.settings.flip

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        image = self._images[self._rows[index]]
        if self._ready:
            spare = image.shape[0] - self._size
            top, left = torch.randint(spare + 1, (2,)).tolist()
            image = image[top : top + self._size, left : left + self._size]
            if torch.rand(()).item() < self._flip:
                image = image[:, ::-1]
        other = int(torch.randint(len(self._rows), ()))
        return torch.from_numpy(image.copy()), self._caption(index), self._caption(other)

    def _caption(self, index: int) -> int:
        first = int(self._ends[index - 1]) if index else 0
        return int(torch.randint(first, int(self._ends[index]), ()))


def peer(feed: Feed, device: torch.device, *, workers: int, ready: bool) -> Iterator[Tensor]:
    """Endless batches of images from a DataLoader."""
    items = ItemByItem(feed, ready=ready)
    sampler = RandomSampler(items, num_samples=10**9)
    loader = DataLoader(
        items, batch_size=feed.settings.batch_size, sampler=sampler, num_workers=workers, drop_last=True
    )
    for images, _, _ in loader:
        if ready:
            yield images.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        else:
            yield images


def host_batches(feed: Feed) -> Iterator[Tensor]:
    """Batches gathered by the caller's own thread, one after the other."""
    step = 0
    while True:
        yield feed.batch(step).images
        step += 1


def drawing(batches: Iterator[Any], times: int) -> Work:
    """Draw some batches, as one visit."""

    def visit() -> None:
        for _ in range(times):
            next(batches)

    return visit


def measure_rates(feed: Feed, device: torch.device, rounds: int, times: int) -> dict[str, Any]:
    """Images a second of the feed and of its peers."""
    streams: dict[str, Iterator[Any]] = {}
    for kind, ready in (("host", False), ("ready", True)):
        for workers in (0, 2):
            streams[f"DataLoader {workers} workers, {kind}"] = peer(
                feed, device, workers=workers, ready=ready
            )
    for stream in streams.values():
        next(stream)  # workers are forked before the feed's thread is there
    streams["feed, host"] = host_batches(feed)
    batches = feed.batches(0, device)
    streams["feed, ready"] = batches
    visits = {name: drawing(stream, times) for name, stream in streams.items()}
    with closing(batches):
        seconds = interleave(visits, rounds=rounds, warmup=1, device=device)
    count = feed.settings.batch_size * times
    ratios = {}
    for kind in ("host", "ready"):
        for workers in (0, 2):
            name = f"DataLoader {workers} workers, {kind}"
            ratios[f"feed over {name}"] = ratio(seconds[name], seconds[f"feed, {kind}"])
    return {
        "bar": {"at_least": BAR_IMAGES, "side": "feed, ready", "at_size": 64},
        "ratios": ratios,
        "sides": {name: summary(each, count) for name, each in seconds.items()},
    }


def measure_share(
    recipe: Recipe, store: Store, device: torch.device, rounds: int, steps: int
) -> dict[str, Any]:
    """A real training loop with the feed, and with one batch over and over, in turns."""
    bench = make_bench(recipe, device)
    run = bench.loop(store)
    feed = run._feed()
    with tempfile.TemporaryDirectory() as cache:
        encoder = bench.system.text_encoder
        inputs = Inputs(encoder, feed.captions, bench.phase, run.job.fabric, Path(cache))
    waited = {"feed": 0.0, "one batch": 0.0}
    took: dict[str, list[float]] = {"feed": [], "one batch": []}
    with closing(feed.batches(0, device)) as batches:
        fixed = next(batches)
        for number in range((1 + rounds) * 2 * steps):
            name = ("feed", "one batch")[number // steps % 2]
            began = time.perf_counter()
            batch = next(batches) if name == "feed" else fixed
            waiting = time.perf_counter() - began
            run._step(number + 1, inputs(batch))
            synchronize(device)
            if number >= 2 * steps:  # the first round warms up
                took[name].append(time.perf_counter() - began)
                waited[name] += waiting
    batch_size = recipe.training.batch_size
    return {
        "recipe": recipe.name,
        "bar": {"at_most": BAR_SHARE, "figure": "waiting_share"},
        "waiting_share": waited["feed"] / sum(took["feed"]),
        "slowdown": ratio(took["feed"], took["one batch"]),
        "sides": {name: summary(each, batch_size) for name, each in took.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    protocol, rates = result["protocol"], result["rates"]
    table = Table(title=f"images a second at {protocol['image_size']} px, batch {protocol['batch']}")
    for column in ("side", "images/s", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "side" else "right")
    count = protocol["batch"] * protocol["batches_a_round"]
    for name, side in rates["sides"].items():
        seconds = side["seconds"]
        figures = (side["images_per_second"], count / seconds["max"], count / seconds["min"])
        table.add_row(name, *(f"{figure:,.0f}" for figure in figures))
    Console().print(table)
    share = result["training"]
    print(
        f"{share['recipe']}: {share['waiting_share']:.2%} of a step is waiting for the feed (bar: at most"
        f" {BAR_SHARE:.0%}); a step with it takes {share['slowdown']['of_medians']:.3f} times as long as"
        " with one batch over and over"
    )


def warm(store: Store) -> None:
    """Read the whole store once, so that the page cache holds it if it can."""
    for start in range(0, len(store), 1000):
        store.images[start : start + 1000].max()


def options() -> argparse.Namespace:
    """What the user asks for."""
    known = parser(__doc__)
    known.add_argument("--data", type=Path, help="a prepared store (one of random images is made)")
    known.add_argument("--images", type=int, default=20_000, help="images of the random store (20,000)")
    known.add_argument("--size", type=int, default=64, help="side of the images, pixels (64)")
    known.add_argument("--batches", type=int, default=100, help="batches of a side in each round (100)")
    known.add_argument(
        "--steps", type=int, default=10, help="training steps of a side in each of 3 rounds (10)"
    )
    asked = known.parse_args()
    for key in ("images", "batches", "steps"):
        if getattr(asked, key) < 1:
            raise GanvasError(f"--{key} {getattr(asked, key)}: should be at least 1")
    if asked.size < 16:
        raise GanvasError(f"--size {asked.size}: should be at least 16, the smallest that systems generate")
    return asked


def measure(asked: argparse.Namespace, recipe: Recipe, store: Store) -> dict[str, Any]:
    """Everything, as it is written."""
    device = choose_device(recipe.training.device)
    settings = FeedSettings(batch_size=asked.batch, image_size=asked.size)
    about = {
        "batch": asked.batch,
        "image_size": asked.size,
        "rounds": asked.repeat,
        "batches_a_round": asked.batches,
        "warmup_rounds": 1,
        "order": "sides take turns in every round; medians over rounds",
        "store": f"{store.info.name}, {len(store):,} images of {store.info.size} px, page cache warm",
        "feed": f"{settings.num_threads} thread, {settings.ahead} batches ahead; host: the caller's thread",
        "ready": "cropped, flipped (probability 0.5), float32 in [-1, 1], channels_last",
        "peer": "DataLoader, item by item from the same memory map, default collation, scaled by the batch",
        "training": f"3 rounds of {asked.steps} steps, batch {recipe.training.batch_size},"
        f" {recipe.data.image_size} px, text vectors a random stand-in",
        "overrides": asked.set,
    }
    result: dict[str, Any] = {"benchmark": "feed", "machine": machine(device), "protocol": about}
    warm(store)
    with Console(stderr=True).status("feed and peers"):
        result["rates"] = measure_rates(Feed(store, "train", settings), device, asked.repeat, asked.batches)
    with Console(stderr=True).status("training"):
        result["training"] = measure_share(recipe, store, device, 3, asked.steps)
    return result


def main() -> None:
    """Measure, write, print."""
    asked = options()
    recipe = open_recipe(RECIPE, asked)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(asked.data) if asked.data else write_store(Path(folder) / "s", asked.images, asked.size)
        largest = 1 << (store.info.size.bit_length() - 1)  # systems generate powers of two
        data = replace(recipe.data, image_size=min(recipe.data.image_size, largest))
        result = measure(asked, replace(recipe, data=data), store)
    show(result)
    write_result(asked.out or RESULTS / "feed.json", result)


if __name__ == "__main__":
    run_script(main)
