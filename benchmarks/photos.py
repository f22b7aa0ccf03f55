"""Photos: preparing them, against a plain Pillow loop; feeding a pyramid of sizes, against a DataLoader that
decodes each image anew.

Preparing: one thread does everything (so the figures are per core), from JPEG files in a folder to a store at
256 px, once with photos of COCO's size and once with photos sixteen times as large. The peer opens, decodes,
resizes and saves each image as Pillow's documentation shows it: as PNG (lossless like the store), or as JPEG.

Feeding: AttnGAN's three sizes at batch 20 on two cores. The peer does what the official code does for each
image: open, decode, scale the shorter side to 304, crop, flip, scale to each size, to tensors in [-1, 1].
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.prepare import prepare
from ganvas.data.store import Store
from ganvas.errors import GanvasError

SIZE = 256
SIZES = (64, 128, 256)
BAR_PREPARE, BAR_FEED = 3.0, 10.0
CPU = torch.device("cpu")
_ENLARGED = 4  # times as long and wide: a photo of a phone instead of one of COCO
_FEW = 8  # as many enlarged photos as this in place of each 64 plain ones


def stand_in_photos(count: int) -> list[Image.Image]:
    """Images with the fall of detail that photos have, 640 x 480."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        total = np.zeros((480, 640, 3))
        for octave in range(1, 8):
            small = random.normal(size=(480 * 2**octave // 256 + 1, 640 * 2**octave // 256 + 1, 3)) / octave
            planes = [
                Image.fromarray(small[:, :, c].astype(np.float32)).resize(
                    (640, 480), Image.Resampling.BICUBIC
                )
                for c in range(3)
            ]
            total += np.stack(planes, axis=2)
        images.append(Image.fromarray((127 + 45 * total).clip(0, 255).astype(np.uint8)))
    return images


def write_photos(images: Sequence[Image.Image], folder: Path, *, enlarged: bool) -> list[Path]:
    """A folder of JPEGs with a caption file beside each."""
    folder.mkdir()
    paths = []
    for number, image in enumerate(images):
        if enlarged:
            image = image.resize(
                (image.width * _ENLARGED, image.height * _ENLARGED), Image.Resampling.BICUBIC
            )
        path = folder / f"{number:05}.jpg"
        image.save(path, "JPEG", quality=90)
        path.with_suffix(".txt").write_text(f"photo {number}\n", encoding="utf-8")
        paths.append(path)
    return paths


# --- preparing


def plain_loop(paths: Sequence[Path], out: Path, kind: str) -> None:
    """The peer."""
    out.mkdir(exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").resize((SIZE, SIZE)).save(out / f"{path.stem}.{kind.lower()}", kind)


def measure_preparing(paths: Sequence[Path], work: Path, rounds: int) -> dict[str, Any]:
    """One thread's images a second."""
    folder = paths[0].parent
    options = {"val": "0", "test": "0"}

    def ours() -> None:
        prepare(
            "folder",
            work / "store",
            place=folder,
            size=SIZE,
            workers=1,
            options=options,
            progress=False,
            force=True,
        )

    sides: dict[str, Callable[[], None]] = {
        "ganvas": ours,
        "Pillow to PNG": lambda: plain_loop(paths, work / "png", "PNG"),
        "Pillow to JPEG": lambda: plain_loop(paths, work / "jpeg", "JPEG"),
        "Pillow, decoding alone": lambda: decode_alone(paths),
    }
    seconds = interleave(sides, rounds=rounds, warmup=1, device=CPU)
    return {
        "images": len(paths),
        "pixels": list(Image.open(paths[0]).size),
        "bar": {"at_least": BAR_PREPARE, "ratio": "ganvas over Pillow to PNG"},
        "ratios": {
            f"ganvas over {name}": ratio(each, seconds["ganvas"])
            for name, each in seconds.items()
            if name != "ganvas"
        },
        "sides": {name: summary(each, len(paths)) for name, each in seconds.items()},
    }


def decode_alone(paths: Sequence[Path]) -> None:
    """What the peers spend before they resize."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")


# --- feeding


class Official(Dataset[list[Tensor]]):
    """One image at a time: decoded, scaled, cropped, flipped, and scaled again to each size."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.read_bytes() for path in paths]  # no disk in the way of either side

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(io.BytesIO(self._files[index])) as opened:
            image = opened.convert("RGB")
        stored = SIZES[-1] * 76 // 64
        width, height = image.size
        shape = (stored, stored * height // width) if width < height else (stored * width // height, stored)
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left = int(torch.randint(image.width - SIZE + 1, ()))
        top = int(torch.randint(image.height - SIZE + 1, ()))
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if torch.rand(()).item() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        levels = [
            image if size == SIZE else image.resize((size, size), Image.Resampling.BILINEAR) for size in SIZES
        ]
        return [_to_tensor(level) for level in levels]


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1)


def endless(dataset: Official, batch: int, workers: int) -> Iterator[list[Tensor]]:
    """Batches of the peer."""
    sampler = RandomSampler(dataset, num_samples=10**9)
    return iter(DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers, drop_last=True))


def measure_feeding(
    paths: Sequence[Path], work: Path, batch: int, rounds: int, batches: int
) -> dict[str, Any]:
    """Images a second at three sizes."""
    peer = endless(Official(paths), batch, workers=2)
    next(peer)  # workers are forked before the feed's thread is there
    options = {"val": "0", "test": "0"}
    prepare(
        "folder",
        work / "whole",
        place=paths[0].parent,
        size=SIZE,
        like="attngan",
        options=options,
        progress=False,
    )
    feed = Feed(
        Store(work / "whole"),
        "train",
        FeedSettings(batch_size=batch, image_size=SIZE, smaller=SIZES[:-1], mismatch="image", num_threads=2),
    )
    with closing(feed.batches(0, CPU)) as ours:
        sides = {
            "feed": lambda: drain(ours, 10 * batches),
            "DataLoader 2 workers": lambda: drain(peer, batches),
        }
        # what the DataLoader's workers have made ahead in the pause counts for them, 4 batches of a round
        seconds = interleave(sides, rounds=rounds, warmup=1, device=CPU, pause=0.5)
    an_image = {
        "feed": [s / (10 * batches * batch) for s in seconds["feed"]],
        "DataLoader 2 workers": [s / (batches * batch) for s in seconds["DataLoader 2 workers"]],
    }
    return {
        "sizes": SIZES,
        "batch": batch,
        "bar": {"at_least": BAR_FEED, "ratio": "feed over DataLoader 2 workers"},
        "ratios": {
            "feed over DataLoader 2 workers": ratio(an_image["DataLoader 2 workers"], an_image["feed"])
        },
        "sides": {name: summary(each, 1) for name, each in an_image.items()},
    }


def drain(batches: Iterator[Any], times: int) -> None:
    """Draw some batches."""
    for _ in itertools.islice(batches, times):
        pass


def show(title: str, part: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table(title=title)
    for column in ("side", "images/s", "ganvas is faster by"):
        table.add_column(column, justify="left" if column == "side" else "right")
    ratios = list(part["ratios"].items())
    for name, side in part["sides"].items():
        times = [f"{found['of_medians']:.1f} x" for key, found in ratios if key.endswith(name)]
        table.add_row(name, f"{side['images_per_second']:,.0f}", *(times or [""]))
    Console().print(table)


def main() -> None:
    """Measure, print, write."""
    known = parser(__doc__)
    known.set_defaults(batch=20)
    known.add_argument("--photos", type=Path, help="a folder of JPEGs (stand-ins are made)")
    known.add_argument("--count", type=int, default=64, help="stand-in photos (64)")
    known.add_argument("--batches", type=int, default=40, help="batches of the peer in each round (40)")
    asked = known.parse_args()
    if asked.batch < 2 or asked.count < asked.batch or asked.repeat < 1 or asked.batches < 1:
        raise GanvasError("--batch: at least 2; --count: at least --batch; --repeat, --batches: at least 1")
    torch.set_num_threads(asked.threads or 2)
    if asked.photos:
        files = sorted(asked.photos.glob("*.jpg"))[: asked.count]
        if len(files) < asked.batch:
            raise GanvasError(f"{asked.photos}: holds {len(files)} .jpg files, fewer than --batch")
        images = [Image.open(path).convert("RGB") for path in files]
    else:
        images = stand_in_photos(asked.count)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        small = write_photos(images, work / "small", enlarged=False)
        large = write_photos(images[: max(2, len(images) // _FEW)], work / "large", enlarged=True)
        result = {
            "machine": machine(CPU),
            "protocol": {
                "photos": "given" if asked.photos else "stand-ins",
                "jpeg_quality": 90,
                "size": SIZE,
                "rounds": asked.repeat,
            },
            "preparing": measure_preparing(small, work, asked.repeat),
            "preparing large photos": measure_preparing(large, work, asked.repeat),
            "feeding": measure_feeding(small, work, asked.batch, asked.repeat, asked.batches),
        }
    for part in ("preparing", "preparing large photos", "feeding"):
        show(part, result[part])
    write_result(asked.out or RESULTS / "photos.json", result)


if __name__ == "__main__":
    run_script(main)
