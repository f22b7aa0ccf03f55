"""Training batches straight from tar shards, without unpacking them.

What a batch holds depends on nothing but the seed, the step, the rank, and how many ranks there are. Each
epoch has an order of the shards; a rank takes every R-th of them and deals them to its lanes, each of which
reads one shard at a time. Step s is served by lane s % L. Within a lane, samples are shuffled in blocks. So
the place of any step in the shards follows from their counts alone, and a resumed run opens the one shard in
which its block begins.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganvas.data.archives import Sample
from ganvas.data.feed import pyramid
from ganvas.data.pixels import Pixels
from ganvas.data.stream_index import ShardStream
from ganvas.data.webdataset import Unusable
from ganvas.errors import GanvasError

Indices = npt.NDArray[np.int64]
Block = list[tuple[str, Sample]]
"""Encoded samples with their names, shuffled."""

# Kinds of random streams, as in ganvas.data.feed, and none of its.
_STEP, _EPOCH, _BLOCK = 11, 12, 13
_KEPT_EPOCHS = 3
_PATIENCE = 2.0  # seconds that a thread gets to end


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How batches are drawn."""

    batch_size: int
    """B, images a batch on each rank."""
    image_size: int
    """Side of the images in a batch, pixels."""
    crop: int | None = None
    """Side of the square that is cropped at random, pixels, and scaled to ``image_size``; by default that."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    smaller: tuple[int, ...] = ()
    """Sides at which a batch holds its images too, pixels."""
    wrong_images: bool = False
    """Give the mismatched images too, not only their captions."""
    seed: int = 0
    rank: int = 0
    num_ranks: int = 1
    num_threads: int = 2
    """Threads that decode."""
    ahead: int = 2
    """Batches decoded ahead of the one in use."""


@dataclass(frozen=True, kw_only=True)
class StreamBatch:
    """One batch on its device."""

    images: Tensor
    """``(B, 3, S, S)`` in [-1, 1], channels_last."""
    texts: list[str]
    """One caption of each image, drawn at random."""
    wrong_texts: list[str]
    """The mismatched pairs: the caption of the next image in the batch; for the last, that of the first."""
    wrong_images: Tensor | None
    """The images that ``wrong_texts`` belong to, where asked for."""
    smaller: tuple[Tensor, ...] = ()
    """``images`` at the smaller sizes asked for."""
    wrong_smaller: tuple[Tensor, ...] = ()
    """``wrong_images`` at these sizes."""
    labels: Tensor
    """``(B,)``: a number for each image; no other step or rank has it."""
    names: list[str]
    """Shard and key of each image."""


class Plan:
    """Which samples a lane of a rank serves, in which order: arithmetic on the counts of the shards.

    Attributes:
        lanes: how many there are; fewer than asked for, where a rank has fewer shards.

    Args:
        counts: ``(N,)``, samples of each shard; those without any are never visited.
        seed, rank, num_ranks, lanes: as in ``StreamSettings`` and ``Reading``.

    Raises:
        GanvasError: there are fewer shards than ranks.
    """

    def __init__(self, counts: Indices, *, seed: int, rank: int, num_ranks: int, lanes: int) -> None:
        self._shards = np.flatnonzero(counts)
        if len(self._shards) < num_ranks:
            raise GanvasError(
                f"{len(self._shards):,} shards with samples for {num_ranks} ranks: each needs one of its own;"
                " write more and smaller shards, or train on fewer devices"
            )
        self.lanes = max(1, min(lanes, len(self._shards) // num_ranks))
        self._counts, self._seed, self._rank, self._num_ranks = counts, seed, rank, num_ranks
        self._orders: dict[int, Indices] = {}

    def dealt(self, epoch: int, lane: int) -> Indices:
        """The shards that a lane reads in an epoch, in order."""
        orders = self._orders
        if epoch not in orders:
            rng = np.random.default_rng([_EPOCH, self._seed, epoch])
            order = self._shards[rng.permutation(len(self._shards))]
            recent = list(orders.items())[1 - _KEPT_EPOCHS :]
            self._orders = orders = {**dict(recent), epoch: order}  # replaced whole: other threads read it
        return orders[epoch][self._rank :: self._num_ranks][lane :: self.lanes]

    def locate(self, lane: int, position: int) -> tuple[int, int, int]:
        """Where a sample lies in the endless sequence of a lane.

        Returns:
            The epoch, the place among ``dealt`` shards, and the number of the sample in that shard.
        """
        epoch = 0
        while True:
            ends = np.cumsum(self._counts[self.dealt(epoch, lane)])
            if position < ends[-1]:
                place = int(np.searchsorted(ends, position, side="right"))
                return epoch, place, position - int(ends[place - 1] if place else 0)
            position -= int(ends[-1])
            epoch += 1


class StreamFeed:
    """Endless batches from indexed shards.

    Args:
        stream: the shards.
        settings: how to draw.

    Raises:
        GanvasError: the stream cannot serve such batches.
    """

    def __init__(self, stream: ShardStream, settings: StreamSettings) -> None:
        self.stream, self.settings = stream, settings
        reading, s = stream.info.reading, settings
        self.crop = s.image_size if s.crop is None else s.crop
        if max(s.image_size, self.crop) > reading.size:
            raise GanvasError(
                f"{stream.path}: streams images of {reading.size} px, but {self.crop} px are asked for;"
                f" index the shards with size {self.crop}"
            )
        if s.batch_size < 2:
            raise GanvasError(
                "a stream makes mismatched pairs within a batch: give each rank 2 images or more"
            )
        self.plan = Plan(stream.counts, seed=s.seed, rank=s.rank, num_ranks=s.num_ranks, lanes=reading.lanes)
        self._max_block_bytes = (reading.megabytes << 20) // (2 * self.plan.lanes)
        self.buffer = self._fitting_buffer()
        self._block_batches = self.buffer // s.batch_size
        self._said_so = False

    def _fitting_buffer(self) -> int:
        """Samples in a block: whole batches, and few enough for memory even in the shard of the largest."""
        stream, batch_size = self.stream, self.settings.batch_size
        filled = stream.counts > 0
        mean = float((stream.bytes[filled] / stream.counts[filled]).max())
        fitting = min(stream.info.reading.buffer, int(self._max_block_bytes / max(mean, 1.0)))
        return max(fitting // batch_size, 1) * batch_size

    def batch(self, step: int, device: torch.device | None = None) -> StreamBatch:
        """The batch of ``step``, read for itself: slow, and what ``batches`` gives too."""
        lane, number, within = self._place(step)
        with closing(self._sequence(lane, number * self.buffer)) as sequence:
            block = self._next_block(sequence, lane, number)
        with ThreadPoolExecutor(1) as pool:
            return self._start(step, block, within, pool).result(device or torch.device("cpu"))

    def batches(self, first_step: int, device: torch.device) -> Generator[StreamBatch, None, None]:
        """Batches from ``first_step`` on, for ever, on ``device``, read and decoded ahead by threads."""
        lanes = [_Lane(self, lane, self._first_block(lane, first_step)) for lane in range(self.plan.lanes)]
        pool = ThreadPoolExecutor(self.settings.num_threads, thread_name_prefix="decode")
        # no more at a time than one block of each lane: a lane has room for two
        ahead = min(self.settings.ahead, self.plan.lanes * self._block_batches - 1)
        waiting: deque[tuple[_Started, _Lane, bool]] = deque()
        step = first_step
        try:
            while True:
                while len(waiting) <= ahead:
                    number, _, within = self._place(step)
                    lane = lanes[number]
                    last = within == self._block_batches - 1
                    waiting.append((self._start(step, lane.block(), within, pool), lane, last))
                    if last:
                        lane.leave()
                    step += 1
                started, lane, last = waiting.popleft()
                batch = started.result(device)
                del started
                if last:
                    lane.room.release()
                yield batch
        finally:
            for lane in lanes:
                lane.stop()
            for lane in lanes:
                lane.thread.join(_PATIENCE)
            pool.shutdown(wait=True, cancel_futures=True)

    def _place(self, step: int) -> tuple[int, int, int]:
        """The lane that serves a step, its block, and which batch of the block it is."""
        turn, lane = divmod(step, self.plan.lanes)
        number, within = divmod(turn, self._block_batches)
        return lane, number, within

    def _first_block(self, lane: int, first_step: int) -> int:
        """The block from which a lane serves its first step that is not before ``first_step``."""
        return self._place(first_step + (lane - first_step) % self.plan.lanes)[1]

    def _sequence(self, lane: int, position: int) -> Generator[tuple[str, Sample], None, None]:
        """The endless samples of a lane, from a position on."""
        epoch, place, first = self.plan.locate(lane, position)
        while True:
            for shard in self.plan.dealt(epoch, lane)[place:].tolist():
                yield from self.stream.read(shard, first)
                first = 0
            epoch, place = epoch + 1, 0

    def _next_block(self, sequence: Iterator[tuple[str, Sample]], lane: int, number: int) -> Block:
        """The next samples of a lane, shuffled."""
        block: Block = []
        num_bytes = 0
        for name, sample in islice(sequence, self.buffer):
            block.append((name, sample))
            num_bytes += sum(map(len, sample.parts.values()))
            if num_bytes > 2 * self._max_block_bytes and len(block) > self.settings.batch_size:
                raise GanvasError(
                    f"{name}: the {len(block):,} samples before it take {num_bytes >> 20:,} MB; index the"
                    " shards with a smaller buffer, or with more megabytes"
                )
        s = self.settings
        order = np.random.default_rng([_BLOCK, s.seed, s.rank, lane, number]).permutation(len(block))
        return [block[i] for i in order]

    def _start(self, step: int, block: Block, within: int, pool: ThreadPoolExecutor) -> _Started:
        """Begin to decode a batch."""
        s = self.settings
        rng = np.random.default_rng([_STEP, s.seed, step, s.rank])
        choices = rng.random(s.batch_size)
        corners = rng.integers(0, self.stream.info.size - self.crop + 1, (s.batch_size, 2))
        flips = rng.random(s.batch_size) < s.flip
        images = torch.empty(
            s.batch_size, self.crop, self.crop, 3, dtype=torch.uint8, pin_memory=torch.cuda.is_available()
        )
        pixels, first = images.numpy(), within * s.batch_size

        def fill(i: int) -> tuple[str, str]:
            name, captions, image = self._decode(block, first + i)
            top, left = corners[i]
            cut = image[top : top + self.crop, left : left + self.crop]
            pixels[i] = cut[:, ::-1] if flips[i] else cut
            return name, captions[int(choices[i] * len(captions))]

        return _Started(
            feed=self,
            images=images,
            futures=[pool.submit(fill, i) for i in range(s.batch_size)],
            first_label=(step * s.num_ranks + s.rank) * s.batch_size,
        )

    def _decode(self, block: Block, place: int) -> tuple[str, list[str], Pixels]:
        """A sample, or the next in its block that can be used: its name, captions and pixels."""
        for number in range(len(block)):
            name, sample = block[(place + number) % len(block)]
            try:
                pixels, captions = self.stream.decode(sample)
            except Unusable as reason:
                self._say_once(name, str(reason))
                continue
            return name, captions, pixels
        raise GanvasError(f"{block[0][0]}: none of the {len(block):,} samples around it can be used")

    def _say_once(self, name: str, reason: str) -> None:
        if not self._said_so:
            self._said_so = True
            print(f"{name}: {reason}; such samples are replaced by their neighbours", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A batch that is being decoded."""

    feed: StreamFeed
    images: Tensor
    futures: Sequence[Future[tuple[str, str]]]
    first_label: int

    def result(self, device: torch.device) -> StreamBatch:
        """The batch, when all of it is there."""
        found = [future.result() for future in self.futures]
        s = self.feed.settings
        images = self.images.to(device, non_blocking=True).permute(0, 3, 1, 2)
        images, *smaller = pyramid(images, [s.image_size, *s.smaller])
        texts = [text for _, text in found]
        return StreamBatch(
            images=images,
            texts=texts,
            wrong_texts=[*texts[1:], texts[0]],
            smaller=tuple(smaller),
            wrong_images=images.roll(-1, 0) if s.wrong_images else None,
            wrong_smaller=tuple(image.roll(-1, 0) for image in smaller) if s.wrong_images else (),
            labels=torch.arange(self.first_label, self.first_label + s.batch_size, device=device),
            names=[name for name, _ in found],
        )


class _Lane:
    """A thread that reads the blocks of a lane: one is in use, one is read meanwhile."""

    def __init__(self, feed: StreamFeed, lane: int, first: int) -> None:
        self._feed, self._lane, self._first = feed, lane, first
        self._blocks: queue.SimpleQueue[Block | BaseException] = queue.SimpleQueue()
        self._current: Block | None = None
        self._stopped = threading.Event()
        self.room = threading.Semaphore(2)
        # a daemon: a server that no longer answers holds up no one's end
        self.thread = threading.Thread(target=self._run, name=f"lane-{lane}", daemon=True)
        self.thread.start()

    def block(self) -> Block:
        """The block at hand; waits for it, and raises what reading it raised."""
        if self._current is None:
            found = self._blocks.get()
            if isinstance(found, BaseException):
                self._blocks.put(found)  # for whoever asks again
                raise found
            self._current = found
        return self._current

    def leave(self) -> None:
        """Go on to the next block."""
        self._current = None

    def stop(self) -> None:
        """Let the thread end at its next sample."""
        self._stopped.set()
        self.room.release()

    def _run(self) -> None:
        number = self._first
        try:
            with closing(self._feed._sequence(self._lane, number * self._feed.buffer)) as sequence:
                while True:
                    self.room.acquire()
                    if self._stopped.is_set():
                        return
                    block = self._feed._next_block(self._watched(sequence), self._lane, number)
                    if self._stopped.is_set():
                        return
                    self._blocks.put(block)
                    del block
                    number += 1
        except BaseException as error:
            self._blocks.put(error)

    def _watched(self, sequence: Iterator[tuple[str, Sample]]) -> Iterator[tuple[str, Sample]]:
        """The samples, until the thread is to end."""
        for item in sequence:
            if self._stopped.is_set():
                return
            yield item
