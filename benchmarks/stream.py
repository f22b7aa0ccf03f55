"""How fast one host streams tar shards, against a plain DataLoader over the same tars.

Two shard sets are made: images of 256 x 256 pixels, as ``img2dataset`` stores them, and photos of 640 x 480.
In interleaved rounds the stream and a ``torch.utils.data.DataLoader`` (an ``IterableDataset`` that opens the
tars with ``tarfile`` and decodes with Pillow, its shards divided among the workers) make batches ready for
the networks at 256 px. Reading without decoding is measured alone. Then the plan of a stream of 100 million
pairs is computed: what positions cost, how even ranks are, and whether an epoch covers everything.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, interleave, machine, parser, ratio, run_script, summary, write_result
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ganvas.data.indexing import index_shards
from ganvas.data.stream import Plan, StreamFeed, StreamSettings
from ganvas.data.stream_index import Reading, ShardStream
from ganvas.errors import GanvasError
from ganvas.training.device import choose_device

SIZE = 256
"""Side of the images in a batch."""
SETS = {"256 x 256": ((256, 256), 8), "640 x 480": ((640, 480), 4)}
"""Width and height of the stored images, and how many shards of them."""
DISTINCT = 48
"""Different images of a set; they repeat."""
WORKERS = 2
"""Of the peer, and threads that decode for the stream."""

Item = tuple[Tensor, str]


def photo_like(random: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG with about as much detail as a photo: noise at several scales, the coarser the stronger."""
    total = np.zeros((height, width, 3))
    for cells, strength in ((4, 60.0), (12, 30.0), (40, 15.0), (120, 8.0)):
        coarse = random.normal(0, strength, (cells * height // width + 1, cells, 3))
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32))
            total[:, :, channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    total += random.normal(0, 3.0, total.shape)
    out = io.BytesIO()
    Image.fromarray((128 + total).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()


def write_shards(folder: Path, width: int, height: int, shards: int, samples: int) -> int:
    """Shards in img2dataset's layout; the mean bytes of an image."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = [photo_like(random, width, height) for _ in range(min(DISTINCT, samples))]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(samples):
                caption = f"caption {number} of shard {shard}"
                about = json.dumps(
                    {"caption": caption, "width": width, "height": height, "status": "success"}
                )
                parts = {"jpg": images[number % len(images)], "txt": caption.encode(), "json": about.encode()}
                for part, data in parts.items():
                    info = tarfile.TarInfo(f"{shard:05d}{number:04d}.{part}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"successes": samples}))
    return sum(map(len, images)) // len(images)


class Tars(IterableDataset[Item]):
    """The peer: shards dealt to the workers, opened with tarfile, images decoded and resized with Pillow."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            for path in self._paths[number::of]:
                yield from self._samples(path)

    @staticmethod
    def _samples(path: Path) -> Iterator[Item]:
        image: Tensor | None = None
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                if member.name.endswith(".jpg"):
                    image = decode(file.read())
                elif member.name.endswith(".txt") and image is not None:
                    yield image, file.read().decode()


def decode(encoded: bytes) -> Tensor:
    """The shorter side becomes SIZE and the middle is kept, as torchvision's Resize and CenterCrop do."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = SIZE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    return torch.from_numpy(np.array(image.crop((left, top, left + SIZE, top + SIZE))))


def peer(paths: list[Path], batch: int, device: torch.device) -> Iterator[Tensor]:
    """Endless batches of images from a DataLoader, on the device, flipped and in [-1, 1]."""
    for images, _ in DataLoader(Tars(paths), batch_size=batch, num_workers=WORKERS, drop_last=True):
        ready = images.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        yield torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, ready.flip(3), ready)


def encoded_samples(stream: ShardStream) -> Iterator[int]:
    """The bytes of each sample, endlessly, read by one thread and not decoded."""
    while True:
        for shard in range(len(stream.counts)):
            for _, sample in stream.read(shard):
                yield sum(map(len, sample.parts.values()))


def drawing(batches: Iterator[Any], times: int) -> Callable[[], None]:
    """Draw so many, as one visit."""

    def visit() -> None:
        for _ in range(times):
            next(batches)

    return visit


def measure_set(name: str, folder: Path, asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Rates of one shard set."""
    (width, height), shards = SETS[name]
    mean = write_shards(folder / "shards", width, height, shards, asked.samples)
    reading = Reading(size=SIZE, lanes=asked.lanes, buffer=asked.buffer)
    index_shards(str(folder / "shards"), folder / "index", reading)
    stream = ShardStream(folder / "index")
    paths = sorted((folder / "shards").glob("*.tar"))
    for path in paths:
        path.read_bytes()  # into the page cache
    theirs = peer(paths, asked.batch, device)
    next(theirs)  # its workers are forked before the stream's threads are there
    settings = StreamSettings(batch_size=asked.batch, image_size=SIZE, num_threads=WORKERS)
    feed = StreamFeed(stream, settings)
    with closing(feed.batches(0, device)) as ours:
        sides = {
            "DataLoader": drawing(theirs, asked.batches),
            "stream": drawing(ours, asked.batches),
            "reading alone": drawing(encoded_samples(stream), asked.batches * asked.batch),
        }
        seconds = interleave(sides, rounds=asked.repeat, warmup=1, device=device)
    count = asked.batches * asked.batch
    figures = {side: summary(each, count) for side, each in seconds.items()}
    for side in figures.values():
        side["encoded_megabytes_per_second"] = side["images_per_second"] * mean / 1e6
    return {
        "shards": len(paths),
        "samples_a_shard": asked.samples,
        "mean_image_bytes": mean,
        "samples_shuffled_together": feed.buffer,
        "ratios": {"stream over DataLoader": ratio(seconds["DataLoader"], seconds["stream"])},
        "sides": figures,
    }


def simulate(num_shards: int, ranks: int, lanes: int) -> dict[str, Any]:
    """The plan of a large stream: 8,000 to 10,000 samples a shard, as failed downloads leave them."""
    counts = np.random.default_rng(0).integers(8_000, 10_001, num_shards)
    began = time.perf_counter()
    plans = [Plan(counts, seed=0, rank=rank, num_ranks=ranks, lanes=lanes) for rank in range(ranks)]
    made = (time.perf_counter() - began) / ranks
    mean = int(counts.sum()) // (ranks * lanes)
    located = {}
    for epochs in (0.5, 10.5, 100.5):
        began = time.perf_counter()
        plans[0].locate(0, int(epochs * mean))
        located[f"after {epochs} epochs"] = time.perf_counter() - began
    loads = np.array([[counts[plan.dealt(0, lane)].sum() for lane in range(lanes)] for plan in plans])
    dealt = np.concatenate([plan.dealt(0, lane) for plan in plans for lane in range(lanes)])
    once = bool((np.bincount(dealt, minlength=num_shards) == 1).all())
    by_rank = loads.sum(1)
    return {
        "shards": num_shards,
        "samples": int(counts.sum()),
        "ranks": ranks,
        "lanes": lanes,
        "seconds_to_make_a_plan": made,
        "seconds_to_locate_a_step": located,
        "every_shard_once_an_epoch": once,
        "samples_of_a_rank_over_mean": {
            "lowest": float(by_rank.min() / by_rank.mean()),
            "highest": float(by_rank.max() / by_rank.mean()),
        },
        "samples_of_a_lane_over_mean": {
            "lowest": float(loads.min() / loads.mean()),
            "highest": float(loads.max() / loads.mean()),
        },
        "index_bytes": len(json.dumps([[f"{i:05d}.tar", int(n), 10**9] for i, n in enumerate(counts)])),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table(title=f"images a second at {SIZE} px, ready for the networks")
    for column in ("set", "side", "images/s", "MB/s"):
        table.add_column(column, justify="right" if "/s" in column else "left")
    for name, part in result["sets"].items():
        for side, figures in part["sides"].items():
            rates = (figures["images_per_second"], figures["encoded_megabytes_per_second"])
            table.add_row(name, side, *(f"{rate:,.0f}" for rate in rates))
    Console().print(table)
    for name, part in result["sets"].items():
        times = part["ratios"]["stream over DataLoader"]["of_medians"]
        print(f"{name}: the stream is {times:.2f} times as fast as the DataLoader")
    plan = result["plan"]
    print(
        f"plan of {plan['samples']:,} samples in {plan['shards']:,} shards on {plan['ranks']} ranks:"
        f" made in {plan['seconds_to_make_a_plan'] * 1e3:.1f} ms, a step after 10 epochs found in"
        f" {plan['seconds_to_locate_a_step']['after 10.5 epochs'] * 1e3:.0f} ms, ranks between"
        f" {plan['samples_of_a_rank_over_mean']['lowest']:.3f} and"
        f" {plan['samples_of_a_rank_over_mean']['highest']:.3f} of their share"
    )


def options() -> argparse.Namespace:
    """What the user asks for."""
    known = parser(__doc__)
    known.add_argument("--samples", type=int, default=400, help="samples a shard (400)")
    known.add_argument("--batches", type=int, default=24, help="batches of a side in each round (24)")
    known.add_argument("--lanes", type=int, default=2, help="shards read at once (2)")
    known.add_argument("--buffer", type=int, default=512, help="samples shuffled together (512)")
    known.add_argument("--shards", type=int, default=10_000, help="shards of the simulated set (10,000)")
    asked = known.parse_args()
    for key in ("samples", "batches", "lanes", "buffer", "repeat"):
        if getattr(asked, key) < 1:
            raise GanvasError(f"--{key} {getattr(asked, key)}: should be at least 1")
    if asked.batch < 2:
        raise GanvasError(f"--batch {asked.batch}: should be at least 2")
    if asked.shards < 512:
        raise GanvasError(f"--shards {asked.shards}: should be at least 512, for 64 ranks of 8 lanes")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    return asked


def main() -> None:
    """Measure, write, print."""
    asked = options()
    device = choose_device(asked.device)
    about = {
        "batch": asked.batch,
        "image_size": SIZE,
        "rounds": asked.repeat,
        "batches_a_round": asked.batches,
        "warmup_rounds": 1,
        "order": "sides take turns in every round; medians over rounds",
        "shards": "synthetic images with the detail of photos, JPEG quality 92; page cache warm",
        "stream": f"{asked.lanes} lanes, {WORKERS} threads decode, blocks of {asked.buffer} samples",
        "peer": f"DataLoader with {WORKERS} workers over an IterableDataset: tarfile, Pillow; no shuffling",
        "ready": "decoded, the middle square at 256 px, flipped, float32 in [-1, 1]",
        "reading alone": "one thread, encoded samples, nothing decoded",
    }
    result: dict[str, Any] = {
        "benchmark": "stream",
        "machine": machine(device),
        "protocol": about,
        "sets": {},
    }
    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("stream and peer"):
        for name in SETS:
            place = Path(folder) / name.replace(" ", "")
            result["sets"][name] = measure_set(name, place, asked, device)
    result["plan"] = simulate(asked.shards, 64, 8)
    show(result)
    write_result(asked.out or RESULTS / "stream.json", result)


if __name__ == "__main__":
    run_script(main)
