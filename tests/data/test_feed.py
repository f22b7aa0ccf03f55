"""The feed: what a batch holds depends on seed, step and rank alone, and is fair, whole and in bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ganvas.data.feed import Feed, FeedBatch, FeedSettings, augment, on_device, pyramid
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError

SIZE = 8
CPU = torch.device("cpu")
LABELS = ("cat", "dog", "cat", None, "emu", "cat", None, "dog", "cat", "emu", "cat")
"""Uneven classes, and two images without one."""


def pixels(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)


def write(
    path: Path, labels: Sequence[str | None] = LABELS, *, split: str = "train", size: int = SIZE
) -> Store:
    """Image ``i`` has ``1 + i % 4`` captions, called ``i/0``, ``i/1``, ...; a last image is in ``val``."""
    with StoreWriter(path, name="zoo", size=size, source="a test", licence="CC0-1.0") as writer:
        for i, label in enumerate(labels):
            captions = tuple(f"{i}/{k}" for k in range(1 + i % 4))
            writer.add(Record(id=str(i), split=split, captions=captions, label=label), pixels(i, size))
        writer.add(Record(id="last", split="val", captions=("last",)), pixels(1000, size))
        writer.finish()
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write(tmp_path_factory.mktemp("feed") / "store")


def feed_of(store: Store, **changes: Any) -> Feed:
    return Feed(store, "train", FeedSettings(**{"batch_size": 4, "image_size": SIZE, **changes}))


def same(one: FeedBatch, other: FeedBatch) -> bool:
    """Whether two batches hold the same values everywhere."""
    pairs = [(value, vars(other)[name]) for name, value in vars(one).items()]
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b for a, b in pairs
    )


def rows_of(feeds: Sequence[Feed], steps: int) -> list[int]:
    """The rows that ranks draw, in the order of steps, then of ranks."""
    return [row for step in range(steps) for feed in feeds for row in feed.batch(step).rows.tolist()]


def owner(feed: Feed, caption: int) -> int:
    """The row of the store that a caption belongs to."""
    return int(feed.captions[caption].split("/")[0])


VARIANTS = {
    "plain": {},
    "balanced": {"balanced": True},
    "several captions": {"captions": 3},
    "captions that repeat": {"captions": 3, "replacement": True},
    "other image": {"mismatch": "image", "wrong_images": True},
    "crops": {"image_size": 5},
    "second of two ranks": {"rank": 1, "num_ranks": 2},
    "larger than the split": {"batch_size": 27},
}
each_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_a_batch_depends_on_seed_step_and_rank_only(store: Store, changes: dict[str, Any]) -> None:
    used, fresh = feed_of(store, **changes), feed_of(store, **changes)
    for step in (0, 1, 2, 9, 4):
        used.batch(step)
    assert same(used.batch(7), fresh.batch(7))
    assert same(fresh.batch(2), used.batch(2))


@pytest.mark.parametrize("change", [{"seed": 1}, {"rank": 1, "num_ranks": 2}], ids=["seed", "rank"])
def test_another_seed_or_rank_draws_otherwise(store: Store, change: dict[str, Any]) -> None:
    usual = {"num_ranks": change.get("num_ranks", 1)}
    one, other = feed_of(store, **usual, balanced=True), feed_of(store, **{**usual, **change}, balanced=True)
    assert [one.batch(i).rows.tolist() for i in range(3)] != [other.batch(i).rows.tolist() for i in range(3)]


def test_steps_and_epochs_have_random_streams_of_their_own(store: Store) -> None:
    """NumPy pads seeds with zeros: an epoch's stream must not be that of the step of the same number."""
    seeds: list[tuple[int, ...]] = []
    real = np.random.default_rng
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: seeds.append(tuple(seed)) or real(seed))
        feed = feed_of(store)
        for step in range(12):
            feed.batch(step)
    streams = {tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in set(seeds)}
    assert len(set(seeds)) == len(seeds) == 12 + 5  # 48 images of 11: five epochs begun, each order made once
    assert len(streams) == len(seeds)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_an_epoch_shows_every_image_once_and_ranks_share_none(store: Store, num_ranks: int) -> None:
    feeds = [feed_of(store, batch_size=3, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    count = len(LABELS)
    rows = rows_of(feeds, 4 * count)
    epochs = [rows[i : i + count] for i in range(0, len(rows) - count + 1, count)]
    assert len(epochs) >= 4
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@settings(deadline=None, max_examples=40)
@given(
    batch_size=st.integers(1, 40),
    num_ranks=st.integers(1, 4),
    image_size=st.integers(1, SIZE),
    captions=st.integers(1, 6),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 2**40),
    mismatch=st.sampled_from(["class", "image"]),
    replacement=st.booleans(),
    balanced=st.booleans(),
)
def test_any_settings_give_whole_batches_in_bounds(store: Store, **changes: Any) -> None:
    step = changes.pop("step")
    feed = feed_of(store, **changes, rank=changes["num_ranks"] - 1, wrong_images=True)
    size, num, side = changes["batch_size"], changes["captions"], changes["image_size"]
    host = feed.batch(step)
    batch = on_device(host, CPU, side)
    assert batch.images.shape == (size, 3, side, side)
    assert batch.wrong_images is not None and batch.wrong_images.shape == batch.images.shape
    assert batch.images.min() >= -1 and batch.images.max() <= 1
    assert batch.crops.shape == (2, size, 2) and batch.crops.min() >= 0
    assert batch.crops.max() <= SIZE - side
    assert torch.equal(host.images, torch.from_numpy(store.images[host.rows.numpy()]))
    for captions, rows in ((batch.captions, batch.rows), (batch.wrong_captions, batch.wrong_rows)):
        assert captions.shape == (size, num)
        assert [[owner(feed, c) for c in line] for line in captions.tolist()] == [
            [row] * num for row in rows.tolist()
        ]
    assert not (batch.rows == batch.wrong_rows).any()


@pytest.mark.parametrize("batch_size", [11, 12, 25, 110])
def test_a_batch_larger_than_the_split_goes_through_whole_epochs(store: Store, batch_size: int) -> None:
    rows = feed_of(store, batch_size=batch_size).batch(3).rows.tolist()
    counts = Counter(rows)
    assert max(counts.values()) - min(counts[row] for row in range(len(LABELS))) <= 2
    first = (-3 * batch_size) % len(LABELS)  # where an epoch begins within the batch
    epoch = rows[first : first + len(LABELS)]
    assert len(epoch) < len(LABELS) or sorted(epoch) == list(range(len(LABELS)))


def test_few_orders_of_epochs_stay_in_memory_in_whatever_order_steps_are_asked_for(store: Store) -> None:
    feed = feed_of(store, batch_size=len(LABELS))
    for step in (*range(20), *reversed(range(20))):
        feed.batch(step)
    assert len(feed._permutations) <= 3


@pytest.mark.parametrize("threads", [1, 3])
@each_variant
def test_resuming_at_a_step_gives_the_batches_of_an_undisturbed_feed(
    store: Store, changes: dict[str, Any], threads: int
) -> None:
    def stream(first: int) -> Iterator[FeedBatch]:
        return feed_of(store, **changes, num_threads=threads).batches(first, CPU)

    with closing(stream(0)) as undisturbed, closing(stream(5)) as resumed:
        later = islice(undisturbed, 5, 9)
        assert all(same(a, b) for a, b in zip(later, resumed, strict=False))


@each_variant
def test_batches_are_the_single_batches_moved_to_the_device(store: Store, changes: dict[str, Any]) -> None:
    feed = feed_of(store, **changes, num_threads=2)
    with closing(feed.batches(3, CPU)) as batches:
        for step in range(3, 8):
            want = on_device(feed.batch(step), CPU, feed.settings.image_size)
            assert same(next(batches), want)


def test_an_error_in_a_gathering_thread_reaches_the_caller(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Feed, step: int) -> FeedBatch:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Feed, "batch", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        next(feed_of(store).batches(0, CPU))


def drawn(feed: Feed, steps: int) -> list[tuple[int, int]]:
    """Pairs of a row and its mismatched row."""
    batches = [feed.batch(step) for step in range(steps)]
    return [pair for b in batches for pair in zip(b.rows.tolist(), b.wrong_rows.tolist(), strict=True)]


def allowed(mismatch: str) -> dict[int, set[int]]:
    """Which rows may be the mismatched one of each row."""
    every = range(len(LABELS))
    return {
        a: {
            b
            for b in every
            if a != b and not (mismatch == "class" and LABELS[a] is not None and LABELS[a] == LABELS[b])
        }
        for a in every
    }


@pytest.mark.parametrize("balanced", [False, True], ids=["epochs", "balanced"])
@pytest.mark.parametrize("mismatch", ["class", "image"])
def test_mismatched_images_are_drawn_evenly_from_all_that_do_not_match(
    store: Store, mismatch: str, balanced: bool
) -> None:
    feed = feed_of(store, batch_size=1100, mismatch=mismatch, balanced=balanced)
    pairs = Counter(drawn(feed, 20))
    for row, others in allowed(mismatch).items():
        found = {b: n for (a, b), n in pairs.items() if a == row}
        assert set(found) == others
        mean = sum(found.values()) / len(others)
        assert all(abs(n - mean) < 5 * mean**0.5 for n in found.values())


def test_labels_tell_classes_apart_and_images_without_one_from_all_others(store: Store) -> None:
    batch = feed_of(store, batch_size=len(LABELS)).batch(0)
    number = dict(zip(batch.rows.tolist(), batch.labels.tolist(), strict=True))
    for a, label in enumerate(LABELS):
        for b, other in enumerate(LABELS):
            assert (number[a] == number[b]) == (a == b or (label is not None and label == other))


@pytest.mark.parametrize("mismatch", ["class", "image"])
def test_balanced_draws_take_classes_evenly_and_images_evenly_within_them(
    store: Store, mismatch: str
) -> None:
    feed = feed_of(store, batch_size=1000, balanced=True, mismatch=mismatch)
    rows = Counter(rows_of([feed], 20))
    classes: Counter[str] = Counter()
    for row, count in rows.items():
        classes[LABELS[row] or f"alone {row}"] += count
    assert len(classes) == 5
    for name, count in classes.items():
        assert abs(count - 4000) < 5 * 4000**0.5
        inside = [rows[row] for row in range(len(LABELS)) if name in (LABELS[row], f"alone {row}")]
        mean = count / len(inside)
        assert all(abs(n - mean) < 5 * mean**0.5 for n in inside)


def test_captions_without_replacement_are_distinct_where_there_are_enough(store: Store) -> None:
    feed = feed_of(store, batch_size=400, captions=3)
    batch = feed.batch(0)
    for captions, rows in ((batch.captions, batch.rows), (batch.wrong_captions, batch.wrong_rows)):
        for line, row in zip(captions.tolist(), rows.tolist(), strict=True):
            assert len(set(line)) == min(3, len(store.captions[row]))


@pytest.mark.parametrize("changes", [{}, {"captions": 2}, {"captions": 4, "replacement": True}], ids=str)
def test_every_caption_of_an_image_is_drawn_evenly(store: Store, changes: dict[str, Any]) -> None:
    feed = feed_of(store, batch_size=2200, **changes)
    counts = Counter(c for step in range(4) for c in feed.batch(step).captions.flatten().tolist())
    for row in range(len(LABELS)):
        own = [counts[c] for c in range(len(feed.captions)) if owner(feed, c) == row]
        mean = sum(own) / len(own)
        assert all(abs(n - mean) < 5 * mean**0.5 for n in own)


def test_captions_with_replacement_repeat(store: Store) -> None:
    lines = feed_of(store, batch_size=100, captions=3, replacement=True).batch(0).captions.tolist()
    assert any(len(set(line)) == 1 for line in lines if len(store.captions[owner_row(store, line[0])]) == 4)


def owner_row(store: Store, caption: int) -> int:
    """The row of a caption, by counting captions."""
    counts = np.cumsum([len(store.captions[row]) for row in store.rows("train")])
    return int(np.searchsorted(counts, caption, side="right"))


def test_crops_reach_every_offset_and_flips_have_their_probability(store: Store) -> None:
    batch = feed_of(store, batch_size=4000, image_size=6, flip=0.25, wrong_images=True).batch(0)
    for crops, flips in zip(batch.crops, batch.flips, strict=True):
        counts = Counter(map(tuple, crops.tolist()))
        assert set(counts) == {(top, left) for top in range(3) for left in range(3)}
        assert all(abs(n - 4000 / 9) < 5 * (4000 / 9) ** 0.5 for n in counts.values())
        assert abs(flips.sum().item() - 1000) < 5 * 1000**0.5


@pytest.mark.parametrize(("flip", "flipped"), [(0.0, False), (1.0, True)])
def test_a_flip_that_is_never_or_always_wanted_is_never_or_always_done(
    store: Store, flip: float, flipped: bool
) -> None:
    assert (feed_of(store, batch_size=200, flip=flip).batch(0).flips == flipped).all()


def test_a_flip_mirrors_left_and_right(store: Store) -> None:
    never, always = feed_of(store, flip=0.0), feed_of(store, flip=1.0)
    with closing(never.batches(0, CPU)) as plain, closing(always.batches(0, CPU)) as mirrored:
        assert torch.equal(next(plain).images.flip(3), next(mirrored).images)


@settings(deadline=None, max_examples=50)
@given(num=st.integers(1, 5), side=st.integers(1, 9), data=st.data(), seed=st.integers(0, 2**32))
def test_augmenting_a_batch_is_augmenting_its_images_one_by_one(
    num: int, side: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, side))
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (num, side, side, 3), np.uint8)
    crops = random.integers(0, side - size + 1, (num, 2))
    flips = random.random(num) < 0.5
    got = augment(*map(torch.from_numpy, (images, crops, flips)), size)
    for image, (top, left), flip, result in zip(images, crops, flips, got, strict=True):
        cut = image[top : top + size, left : left + size]
        want = (cut[:, ::-1] if flip else cut).astype(np.float32) * np.float32(1 / 127.5) - 1
        np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), want)


def test_images_come_in_float32_and_channels_last_with_black_at_minus_one_and_white_at_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 4, 4, 3).contiguous()
    got = augment(images, torch.zeros(2, 2, dtype=torch.long), torch.tensor([False, True]), 4)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got[0], torch.full((3, 4, 4), -1.0)) and torch.equal(got[1], torch.ones(3, 4, 4))


def test_wrong_images_are_those_of_the_wrong_rows_with_crops_and_flips_of_their_own(store: Store) -> None:
    feed = feed_of(store, batch_size=50, image_size=5, wrong_images=True)
    host = feed.batch(0)
    assert host.wrong_images is not None
    assert torch.equal(host.wrong_images, torch.from_numpy(store.images[host.wrong_rows.numpy()]))
    assert not torch.equal(host.crops[0], host.crops[1]) and not torch.equal(host.flips[0], host.flips[1])
    got = on_device(host, CPU, 5).wrong_images
    assert got is not None
    assert torch.equal(got, augment(host.wrong_images, host.crops[1], host.flips[1], 5))


def test_wrong_images_are_not_gathered_unasked(store: Store) -> None:
    feed = feed_of(store)
    assert on_device(feed.batch(0), CPU, SIZE).wrong_images is None


def test_only_the_split_asked_for_is_fed(store: Store) -> None:
    feed = feed_of(store)
    assert len(feed) == len(LABELS)
    assert "last" not in feed.captions
    assert set(rows_of([feed], 9)) == set(range(len(LABELS)))


@pytest.mark.parametrize(
    ("labels", "split", "changes", "message"),
    [
        (["cat"] * 3, "train", {}, "split 'train' has a single class, so no mismatched pair can be drawn"),
        (["cat"], "train", {"mismatch": "image"}, "split 'train' has a single image, so no mismatched"),
        ([None], "train", {}, "split 'train' has a single class"),
        (
            ["cat", "dog"],
            "train",
            {"image_size": 16},
            "holds images of 8 px, but 16 px are asked for",
        ),
        (["cat", "dog"], "test", {}, "no split 'train' here"),
    ],
    ids=["one class", "one image", "one image without class", "too small", "empty split"],
)
def test_a_split_that_cannot_serve_is_refused_in_one_line(
    tmp_path: Path, labels: list[str | None], split: str, changes: dict[str, Any], message: str
) -> None:
    small = write(tmp_path / "store", labels, split=split)
    with pytest.raises(GanvasError) as refused:
        feed_of(small, **changes)
    text = str(refused.value)
    assert text.startswith(str(small.path)) and message in text and "\n" not in text


def test_a_single_class_still_serves_mismatched_images(tmp_path: Path) -> None:
    feed = feed_of(write(tmp_path / "store", ["cat"] * 3), mismatch="image")
    assert all(a != b for a, b in drawn(feed, 10))


MEMORY = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch
from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.store import Store

torch.set_num_threads(1)
store = Store(sys.argv[1])
feed = Feed(store, "train", FeedSettings(batch_size=16, image_size=64))
batches = feed.batches(0, torch.device("cpu"))
for _ in range(20):  # starts the thread, warms allocators up
    next(batches)
used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
limit = used + store.images.nbytes // 2
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
seen = set()
for _ in range(3 * len(feed) // 16):
    seen.update(next(batches).rows.tolist())
print(len(seen))
try:
    np.array(store.images)
except MemoryError:
    print("the whole does not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on private memory are Linux's")
def test_a_store_larger_than_the_memory_allowed_is_fed(tmp_path: Path) -> None:
    """The limit counts what a process allocates, not the file that it maps."""
    with StoreWriter(tmp_path / "store", name="big", size=256, source="a test", licence="CC0-1.0") as writer:
        image = pixels(0, 256)
        for i in range(800):  # 157 MB
            writer.add(Record(id=str(i), split="train", captions=("it",), label=str(i % 2)), image)
        writer.finish()
    script = [sys.executable, "-c", MEMORY, str(tmp_path / "store")]
    limited = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # glibc would reserve 64 MB for each new thread
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=limited)
    assert done.stdout.split("\n")[:2] == ["800", "the whole does not fit"], done.stderr


@settings(deadline=None, max_examples=12)
@given(sizes=st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_a_pyramid_has_the_sizes_asked_for_in_order_and_keeps_the_mean(sizes: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 32, 32, 3), generator=random, dtype=torch.uint8).permute(0, 3, 1, 2)
    images[..., :8, :], images[..., -8:, :], images[..., :8], images[..., -8:] = 0, 0, 0, 0
    levels = pyramid(images, sizes)
    assert [level.shape for level in levels] == [(2, 3, size, size) for size in sizes]
    for level in levels:
        expected = images.float().mean((2, 3)) / 127.5 - 1
        # lines and columns are each rounded to whole levels of 1 / 127.5
        torch.testing.assert_close(level.mean((2, 3)), expected, atol=2 / 127.5, rtol=0)
        assert level.abs().max() <= 1 and level.is_contiguous(memory_format=torch.channels_last)


def test_a_pyramid_leaves_the_stored_size_untouched_and_constants_constant() -> None:
    images = torch.full((1, 3, 16, 16), 51, dtype=torch.uint8)
    whole, half = pyramid(images, [16, 8])
    torch.testing.assert_close(whole, torch.full((1, 3, 16, 16), -0.6))
    torch.testing.assert_close(half, torch.full((1, 3, 8, 8), -0.6))


def test_a_pyramid_is_that_of_pillow_within_one_level() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    small = pyramid(torch.from_numpy(image).permute(2, 0, 1)[None], [32])[0]
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    found = (small[0].permute(1, 2, 0) + 1) * 127.5
    assert (found - torch.from_numpy(expected.copy())).abs().max() <= 1.01


def test_a_batch_holds_its_images_at_smaller_sizes_too(store: Store) -> None:
    feed = feed_of(store, smaller=(4, 2))
    batch = next(feed.batches(0, torch.device("cpu")))
    size = feed.settings.image_size
    assert [tuple(level.shape[2:]) for level in (batch.images, *batch.smaller)] == [
        (size, size),
        (4, 4),
        (2, 2),
    ]
    mean = batch.images.mean((1, 2, 3))
    assert all((level.mean((1, 2, 3)) - mean).abs().max() < 0.1 for level in batch.smaller)
