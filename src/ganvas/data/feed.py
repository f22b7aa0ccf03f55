"""The feed: a prepared store to training batches.

What a batch holds depends on nothing but the seed, the step and the rank, so a resumed run sees the batches
of an undisturbed one, and ranks never share an image within an epoch. Bytes are gathered from the memory map
by threads, a few steps ahead; cropping, flipping and scaling happen on the device, for the whole batch at
once, or in the same threads where the device is the CPU.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.buffers import Buffers
from ganvas.data.store import Store, caption_table
from ganvas.errors import GanvasError

Indices = npt.NDArray[np.int64]

# Kinds of random streams. NumPy fills seeds up with zeros, so [seed, n] and [seed, n, 0] would be one stream.
_STEP, _EPOCH = 1, 2
_KEPT_EPOCHS = 3  # orders in memory: batches gathered ahead reach into the next epoch


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """How batches are drawn."""

    batch_size: int
    """B, images a batch on each rank."""
    image_size: int
    """Side of the images in a batch, pixels."""
    crop: int | None = None
    """Side of the square that is cropped at random out of a stored image (also along a longer side that the
    store has kept) and then scaled to ``image_size``; by default it is ``image_size``."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    captions: int = 1
    """Captions drawn for each image."""
    replacement: bool = False
    """Captions of one image may repeat within a draw; they do where an image has too few."""
    balanced: bool = False
    """Draw the class first, then an image within it, instead of every image once an epoch."""
    mismatch: Literal["class", "image"] = "class"
    """A mismatched pair comes from another class (images without one count as their own), or from any other
    image."""
    smaller: tuple[int, ...] = ()
    """Sides at which a batch holds its images too, pixels, as stacked systems see them."""
    wrong_images: bool = False
    """Gather the mismatched images too, not only their captions."""
    seed: int = 0
    rank: int = 0
    num_ranks: int = 1
    num_threads: int = 1
    """Threads that gather images."""
    ahead: int = 2
    """Batches gathered ahead of the one in use."""


@dataclass(frozen=True, kw_only=True)
class FeedBatch:
    """One batch; on the host its images are uint8 ``(B, S, S, 3)``, see ``on_device``."""

    images: Tensor
    """``(B, 3, S, S)`` in [-1, 1] on the device, channels_last."""
    captions: Tensor
    """``(B, n)``: which captions, as numbers in ``Feed.captions``."""
    wrong_captions: Tensor
    """``(B, n)``: captions of the mismatched images."""
    rows: Tensor
    """``(B,)``: rows of the store."""
    wrong_rows: Tensor
    """``(B,)``: rows of the mismatched images."""
    labels: Tensor
    """``(B,)``: class numbers."""
    wrong_images: Tensor | None = None
    """As ``images``, where asked for."""
    smaller: tuple[Tensor, ...] = ()
    """``images`` at the smaller sizes asked for."""
    wrong_smaller: tuple[Tensor, ...] = ()
    """``wrong_images`` at these sizes."""
    crops: Tensor
    """``(2, B, 2)``: top and left of the crops, of images and of wrong images."""
    flips: Tensor
    """``(2, B)``, bool."""


class Feed:
    """Endless batches of one split.

    Attributes:
        captions: all captions of the split; batches refer to them by number.

    Args:
        store: a prepared store.
        split: ``train``, ``val`` or ``test``.
        settings: how to draw.

    Raises:
        GanvasError: the split cannot serve such batches.
    """

    def __init__(self, store: Store, split: str, settings: FeedSettings) -> None:
        self.store, self.settings = store, settings
        self._crop = settings.image_size if settings.crop is None else settings.crop
        needed = max(settings.image_size, self._crop)
        if needed > store.info.size:
            raise GanvasError(
                f"{store.path}: holds images of {store.info.size} px, but {needed} px are asked"
                f" for; prepare it with --size {needed}"
            )
        # images of different shapes fit into no batch; of large ones, what is not needed stays on the disk
        self._cuts = store.info.whole or self._crop >= _LARGE
        self._buffers = Buffers()
        self.rows = store.rows(split)
        self.captions, starts = caption_table([store.captions[row] for row in self.rows])
        self._first, self._count = starts[:-1], np.diff(starts)
        self._labels = _class_numbers([store.labels[row] for row in self.rows])
        key = self._labels if settings.mismatch == "class" else np.arange(len(self.rows))
        self._others = _Others(key)
        if self._others.num_groups < 2:
            what = "class" if settings.mismatch == "class" else "image"
            raise GanvasError(
                f"{store.path}: split '{split}' has a single {what}, so no mismatched pair can be drawn"
            )
        self._by_class = _Others(self._labels)
        self._permutations: dict[int, Indices] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int) -> FeedBatch:
        """The batch of ``step`` on this rank, on the host: pinned where a GPU is at hand."""
        s = self.settings
        rng = np.random.default_rng([_STEP, s.seed, step, s.rank])
        index = self._by_class.balanced(rng, s.batch_size) if s.balanced else self._epoch_slice(step)
        wrong = self._others.draw(rng, index)
        spare = self._spare(index, wrong)
        captions, wrong_captions = self._draw_captions(rng, index), self._draw_captions(rng, wrong)
        crops = rng.integers(0, spare + 1, (2, s.batch_size, 2))
        flips = rng.random((2, s.batch_size)) < s.flip
        images = self._gather(index, crops[0])
        wrong_images = self._gather(wrong, crops[1]) if s.wrong_images else None
        if self._cuts:  # done, then
            crops = np.zeros_like(crops)
        return FeedBatch(
            images=images,
            wrong_images=wrong_images,
            captions=torch.from_numpy(captions),
            wrong_captions=torch.from_numpy(wrong_captions),
            rows=torch.from_numpy(self.rows[index]),
            wrong_rows=torch.from_numpy(self.rows[wrong]),
            labels=torch.from_numpy(self._labels[index]),
            crops=torch.from_numpy(crops),
            flips=torch.from_numpy(flips),
        )

    def batches(self, first_step: int, device: torch.device) -> Generator[FeedBatch, None, None]:
        """Batches from ``first_step`` on, for ever, on ``device``, made ahead by threads."""
        on_cpu = device.type == "cpu"
        with _threads(self.settings.num_threads) as pool:
            make = self._ready if on_cpu else self.batch
            waiting: deque[Future[FeedBatch]] = deque()
            step = first_step
            while True:
                while len(waiting) <= self.settings.ahead:
                    waiting.append(pool.submit(make, step))
                    step += 1
                batch = waiting.popleft().result()
                yield batch if on_cpu else self._moved(batch, device)

    def _ready(self, step: int) -> FeedBatch:
        return self._moved(self.batch(step), torch.device("cpu"))

    def _moved(self, batch: FeedBatch, device: torch.device) -> FeedBatch:
        s = self.settings
        return on_device(batch, device, self._crop, s.image_size, s.smaller, self._buffers)

    def _epoch_slice(self, step: int) -> Indices:
        """Positions of this rank's share of the step, from one permutation an epoch."""
        s, count = self.settings, len(self.rows)
        first = (step * s.num_ranks + s.rank) * s.batch_size
        places = np.arange(first, first + s.batch_size)
        epochs = places // count
        index = np.empty(s.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            index[here] = self._permutation(epoch)[places[here] % count]
        return index

    def _permutation(self, epoch: int) -> Indices:
        """The order of one epoch; the last few that were asked for are kept."""
        kept = self._permutations
        if epoch not in kept:
            order = np.random.default_rng([_EPOCH, self.settings.seed, epoch]).permutation(len(self.rows))
            recent = list(kept.items())[1 - _KEPT_EPOCHS :]
            self._permutations = {**dict(recent), epoch: order}  # replaced whole: other threads read it
            return order
        return kept[epoch]

    def _draw_captions(self, rng: np.random.Generator, index: Indices) -> Indices:
        """``(B, n)`` numbers of captions of the images at ``index``."""
        first, count = self._first[index, None], self._count[index, None]
        num = self.settings.captions
        drawn = (rng.random((len(index), num)) * count).astype(np.int64)
        if num > 1 and not self.settings.replacement:
            most = int(count.max())
            keys = np.where(np.arange(most) < count, rng.random((len(index), most)), 2.0)
            order = np.argsort(keys, axis=1)[:, :num]  # distinct captions, in random order
            enough = np.arange(order.shape[1]) < count
            drawn[:, : order.shape[1]] = np.where(enough, order, drawn[:, : order.shape[1]])
        return first + drawn

    def _spare(self, index: Indices, wrong: Indices) -> Indices | int:
        """By how much images are larger than what a batch holds: of all, or ``(2, B, 2)``."""
        info = self.store.info
        if not info.whole:
            return info.size - self._crop
        return self.store.images.shapes[self.rows[np.stack([index, wrong])]] - self._crop

    def _gather(self, index: Indices, corners: Indices) -> Tensor:
        """Images of the positions ``index``, uint8 ``(B, S, S, 3)``; where they are cut, the crops at
        ``corners``.
        """
        side = self._crop if self._cuts else self.store.info.size
        images = self._host_memory((len(index), side, side, 3))
        if self._cuts:
            self.store.images.take_crops(self.rows[index], corners, images.numpy())
        else:
            self.store.images.take(self.rows[index], images.numpy())
        return images

    def _host_memory(self, shape: tuple[int, ...]) -> Tensor:
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)  # which PyTorch keeps for the next
        return self._buffers.take(shape, np.uint8)


@contextmanager
def _threads(num: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute with one core each, so that they do not stand in each other's way."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num, thread_name_prefix="feed", initializer=_compute_alone)
    try:
        wait([pool.submit(time.sleep, 0.001) for _ in range(num)])  # starts them all
        torch.set_num_threads(before)  # of threads to come; what a thread has set for itself stays
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute_alone() -> None:
    torch.get_num_threads()  # or the first operation of this thread would take over what the program has set
    torch.set_num_threads(1)


class _Others:
    """Rows in groups, arranged so that a row of another group is drawn without trying twice."""

    def __init__(self, groups: Indices) -> None:
        self._order = np.argsort(groups, kind="stable")
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        self.num_groups = len(counts)
        ends = np.cumsum(counts)
        self._begins, self._counts = ends - counts, counts
        self._begin, self._size = self._begins[inverse], counts[inverse]

    def draw(self, rng: np.random.Generator, index: Indices) -> Indices:
        """For each row of ``index``, a row of another group, uniformly."""
        begin, size = self._begin[index], self._size[index]
        place = (rng.random(len(index)) * (len(self._order) - size)).astype(np.int64)
        chosen: Indices = self._order[np.where(place < begin, place, place + size)]
        return chosen

    def balanced(self, rng: np.random.Generator, num: int) -> Indices:
        """``num`` rows: a group uniformly, then a row within it uniformly."""
        group = rng.integers(0, self.num_groups, num)
        inside = (rng.random(num) * self._counts[group]).astype(np.int64)
        chosen: Indices = self._order[self._begins[group] + inside]
        return chosen


def _class_numbers(labels: Sequence[str | None]) -> Indices:
    """Classes as numbers in order of name; an image without a class is a class of its own."""
    known = {label: i for i, label in enumerate(sorted({label for label in labels if label is not None}))}
    numbers = [known[label] if label is not None else len(known) + i for i, label in enumerate(labels)]
    return np.asarray(numbers, dtype=np.int64)


def on_device(
    batch: FeedBatch,
    device: torch.device,
    crop: int,
    image_size: int | None = None,
    smaller: Sequence[int] = (),
    buffers: Buffers | None = None,
) -> FeedBatch:
    """A host batch moved to ``device`` with its images cropped, flipped, scaled and brought to [-1, 1].

    Args:
        batch: as ``Feed.batch`` makes it.
        device: where to.
        crop: side of the crops, pixels.
        image_size: what they are scaled to; by default they keep their size.
        smaller: further sides of the images.
        buffers: memory to use again, on the CPU.
    """
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    crops, flips = moved["crops"], moved["flips"]
    sizes = [image_size or crop, *smaller]
    images, *small = _levels(moved["images"], crops[0], flips[0], crop, sizes, buffers)
    wrong = moved.get("wrong_images")
    if wrong is not None:
        wrong, *small_wrong = _levels(wrong, crops[1], flips[1], crop, sizes, buffers)
        moved |= {"wrong_images": wrong, "wrong_smaller": tuple(small_wrong)}
    moved["images"] = images
    return replace(batch, smaller=tuple(small), **moved)


def _levels(
    images: Tensor, crops: Tensor, flips: Tensor, crop: int, sizes: Sequence[int], buffers: Buffers | None
) -> list[Tensor]:
    """Crops of uint8 images ``(B, S, S, 3)`` at several sizes, in [-1, 1]."""
    if images.device.type != "cpu" or (crop < _LARGE and list(sizes) == [crop]):
        return pyramid(cropped(images, crops, flips, crop), sizes)
    memory = buffers or Buffers()
    levels = [memory.take((len(images), size, size, 3), np.float32) for size in sizes]
    scratch = memory.take((_FEW, crop, crop, 3), np.uint8)
    for first in range(0, len(images), _FEW):  # so that what is done to them stays in a core's own memory
        few = slice(first, first + _FEW)
        cuts = _cut(images[few], crops[few].tolist(), flips[few].tolist(), scratch)
        for level, size in zip(levels, sizes, strict=True):
            scaled = cuts if size == crop else _scaled(cuts.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
            level[few].copy_(scaled).mul_(_LEVEL).sub_(1)
    return [level.permute(0, 3, 1, 2) for level in levels]


def _cut(images: Tensor, crops: Sequence[Sequence[int]], flips: Sequence[bool], into: Tensor) -> Tensor:
    """Crops of the size of those in ``into``, in the first of its rows."""
    cuts, size = into[: len(images)], into.shape[1]
    for image, (top, left), flip, cut in zip(images, crops, flips, cuts, strict=True):
        part = image[top : top + size, left : left + size]
        cut.copy_(part.flip(1) if flip else part)
    return cuts


def augment(images: Tensor, crops: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop, flip and bring a batch to [-1, 1] at once.

    Args:
        images: uint8 ``(B, S, S, 3)``.
        crops: ``(B, 2)``, top and left of each crop.
        flips: ``(B,)``, bool: mirrored left to right.
        size: side of the crops.

    Returns:
        ``(B, 3, size, size)`` in [-1, 1], float32, channels_last in memory.
    """
    return _to_unit(cropped(images, crops, flips, size))


def cropped(images: Tensor, crops: Tensor, flips: Tensor, size: int) -> Tensor:
    """As ``augment``, but uint8."""
    side = images.shape[1]
    span = torch.arange(size, device=images.device)
    columns = torch.where(flips[:, None], span.flip(0), span) + crops[:, 1:]  # (B, size)
    lines = torch.arange(len(images), device=images.device)[:, None] * side + crops[:, :1] + span  # (B, size)
    pixels = (lines[:, :, None] * side + columns[:, None, :]).flatten()
    # one long list of pixels: several times faster on a CPU than an index for each dimension
    cut = images.flatten(0, 2).index_select(0, pixels).view(-1, size, size, 3)
    return cut.permute(0, 3, 1, 2)


_LARGE = 96  # from this side on, a CPU treats images in groups of _FEW
_FEW = 4


def pyramid(images: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Images at several sizes, by antialiased bilinear scaling from levels to levels, as the papers' code
    does.

    Args:
        images: uint8 ``(B, 3, S, S)``.
        sizes: sides in pixels, any order; S itself costs nothing.

    Returns:
        In [-1, 1], float32, channels_last in memory.
    """
    return [_to_unit(images if size == images.shape[-1] else _scaled(images, size)) for size in sizes]


def _scaled(images: Tensor, size: int) -> Tensor:
    if images.device.type == "cpu":  # scales bytes at once, and five times as fast as floats
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)
    scaled = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return scaled.round_().contiguous(memory_format=torch.channels_last)


def _to_unit(images: Tensor) -> Tensor:
    """Levels 0 to 255 to [-1, 1]."""
    return images.float().mul_(_LEVEL).sub_(1)


_LEVEL = 1 / 127.5
