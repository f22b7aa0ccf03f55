"""Streaming: a batch depends on seed, step, rank and ranks alone; it is fair, whole and in bounds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_sets import img2dataset, picture, served, write_shard

from ganvas.data import indexing, shards
from ganvas.data.indexing import index_shards
from ganvas.data.pixels import Fit
from ganvas.data.stream import Plan, StreamBatch, StreamFeed, StreamSettings
from ganvas.data.stream_index import Reading, ShardStream, StreamInfo, reading_of
from ganvas.errors import GanvasError

CPU = torch.device("cpu")
COUNTS = (7, 12, 3, 9, 1, 14, 8, 5, 11, 6)
READING = Reading(size=16, lanes=2, buffer=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return img2dataset(tmp_path_factory.mktemp("stream") / "shards", COUNTS)


@pytest.fixture(scope="module")
def stream(folder: Path) -> ShardStream:
    return indexed(folder, folder.parent / "index")


def indexed(place: object, out: Path, **changes: Any) -> ShardStream:
    index_shards(str(place), out, replace(READING, **changes))
    return ShardStream(out)


def feed_of(stream: ShardStream, **changes: Any) -> StreamFeed:
    return StreamFeed(stream, StreamSettings(**{"batch_size": 3, "image_size": 16, **changes}))


def first_batches(feed: StreamFeed, count: int, first: int = 0) -> list[StreamBatch]:
    with closing(feed.batches(first, CPU)) as batches:
        return list(islice(batches, count))


def same(one: StreamBatch, other: StreamBatch) -> bool:
    a, b = vars(one), vars(other)
    return all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name]
        for name in a
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 5, 44])
def test_batches_from_a_step_are_those_of_a_feed_that_began_earlier(
    stream: ShardStream, ranks: int, first: int
) -> None:
    for rank in range(ranks):
        changes = {"rank": rank, "num_ranks": ranks, "seed": 4}
        whole = first_batches(feed_of(stream, **changes), first + 5)
        again = first_batches(feed_of(stream, **changes, num_threads=1, ahead=0), 5, first)
        assert all(map(same, whole[first:], again))


@pytest.mark.parametrize("buffer", [1, 3, 6, 30, 1000])
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_threads_give_what_each_step_gives_by_itself(
    folder: Path, tmp_path: Path, lanes: int, buffer: int
) -> None:
    feed = feed_of(indexed(folder, tmp_path / "index", lanes=lanes, buffer=buffer))
    for step, batch in enumerate(first_batches(feed, 12)):
        assert same(batch, feed.batch(step))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_sample_comes_once_an_epoch_on_one_rank_alone(stream: ShardStream, ranks: int) -> None:
    seen: Counter[str] = Counter()
    for rank in range(ranks):
        feed = feed_of(stream, rank=rank, num_ranks=ranks, batch_size=2)
        for lane in range(feed.plan.lanes):
            count = int(stream.counts[feed.plan.dealt(0, lane)].sum())
            with closing(feed._sequence(lane, 0)) as sequence:
                seen.update(name for name, _ in islice(sequence, count))
    assert seen == {f"{i}.tar/{k}": 1 for i, k in keys_of(COUNTS)}


def keys_of(counts: Sequence[int]) -> list[tuple[str, str]]:
    ends = np.cumsum(counts)
    return [(f"{np.searchsorted(ends, i, side='right'):05d}", f"{i:09d}") for i in range(ends[-1])]


def test_blocks_are_shuffled_and_repeat_nothing_before_the_epoch_is_over(
    folder: Path, tmp_path: Path
) -> None:
    feed = feed_of(indexed(folder, tmp_path / "index", lanes=1, buffer=28), batch_size=4)
    names = [name for batch in first_batches(feed, 2 * 7) for name in batch.names]
    with closing(feed._sequence(0, 0)) as sequence:
        read = [name for name, _ in islice(sequence, 2 * 28)]
    assert len(set(names)) == 56
    for block in (slice(0, 28), slice(28, 56)):
        assert set(names[block]) == set(read[block]) and names[block] != read[block]


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    ranks=st.integers(1, 3),
    lanes=st.integers(1, 4),
    position=st.integers(0, 200),
)
@settings(max_examples=150, deadline=None)
def test_a_position_is_found_where_walking_there_ends(
    counts: list[int], ranks: int, lanes: int, position: int
) -> None:
    numbers = np.array(counts, np.int64)
    if np.count_nonzero(numbers) < ranks:
        with pytest.raises(GanvasError, match=f"for {ranks} ranks"):
            Plan(numbers, seed=1, rank=0, num_ranks=ranks, lanes=lanes)
        return
    for rank in range(ranks):
        plan = Plan(numbers, seed=1, rank=rank, num_ranks=ranks, lanes=lanes)
        for lane in range(plan.lanes):
            epoch, place, first = plan.locate(lane, position)
            before = sum(int(numbers[plan.dealt(e, lane)].sum()) for e in range(epoch))
            dealt = plan.dealt(epoch, lane)
            assert before + int(numbers[dealt[:place]].sum()) + first == position
            assert 0 <= first < numbers[dealt[place]]
    dealt = np.concatenate(
        [
            plan.dealt(7, lane)
            for rank in range(ranks)
            for plan in [Plan(numbers, seed=1, rank=rank, num_ranks=ranks, lanes=lanes)]
            for lane in range(plan.lanes)
        ]
    )
    assert sorted(dealt.tolist()) == np.flatnonzero(numbers).tolist()


def test_a_batch_is_what_networks_take_and_its_captions_belong_to_its_images(stream: ShardStream) -> None:
    batch = feed_of(stream, wrong_images=True, flip=0.0).batch(3)
    assert batch.images.shape == (3, 3, 16, 16) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    numbers = [int(name.rpartition("/")[2]) for name in batch.names]
    assert batch.texts == [f"caption {number}" for number in numbers]
    reds = (batch.images[:, 0].mean((1, 2)) + 1) * 127.5
    assert reds.tolist() == pytest.approx([number * 5 % 256 for number in numbers], abs=3)
    assert batch.wrong_texts == [*batch.texts[1:], batch.texts[0]]
    assert batch.wrong_images is not None and torch.equal(batch.wrong_images[0], batch.images[1])


def test_labels_are_unique_over_steps_and_ranks(stream: ShardStream) -> None:
    found = [
        label
        for rank in range(2)
        for step in range(4)
        for label in feed_of(stream, rank=rank, num_ranks=2).batch(step).labels.tolist()
    ]
    assert sorted(found) == list(range(24))


def test_larger_images_are_cropped_and_half_of_them_flipped(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 1, 3))
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "PNG")
    write_shard(
        tmp_path / "shards" / "a.tar",
        [(str(i), {"png": out.getvalue(), "txt": b"a ramp"}) for i in range(40)],
    )
    batch = feed_of(indexed(tmp_path / "shards", tmp_path / "index", size=32), batch_size=40).batch(0)
    rows = (batch.images[:, 0, 0] + 1) * 127.5 / 8  # (B, 16), columns of the original
    steps = (rows[:, 1:] - rows[:, :-1]).mean(1).round().tolist()
    assert 8 < steps.count(-1.0) < 32 and steps.count(1.0) + steps.count(-1.0) == 40
    assert len({round(row.min().item()) for row in rows}) > 5


def test_another_seed_another_order(stream: ShardStream) -> None:
    orders = {
        tuple(name for step in range(4) for name in feed_of(stream, seed=s).batch(step).names)
        for s in range(4)
    }
    assert len(orders) == 4


def test_a_sample_that_cannot_be_used_is_replaced_by_its_neighbour_every_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = {2: {"jpg": picture(2)[:200]}, 5: {"txt": b"\xff"}, 9: {"txt": b" \n"}, 10: {"jpg": b"no image"}}
    content = [
        (f"{i:02d}", {"jpg": picture(i), "txt": f"caption {i}".encode(), **bad.get(i, {})}) for i in range(16)
    ]
    write_shard(tmp_path / "shards" / "a.tar", content)
    stream = indexed(tmp_path / "shards", tmp_path / "index", buffer=16)
    batches = first_batches(feed_of(stream, batch_size=4), 8)
    names = Counter(name.rpartition("/")[2] for batch in batches for name in batch.names)
    assert names.total() == 32 and set(names) == {f"{i:02d}" for i in range(16)} - {"02", "05", "09", "10"}
    assert capfd.readouterr().err.count("such samples are replaced by their neighbours") == 1
    assert all(map(same, batches[3:], first_batches(feed_of(stream, batch_size=4), 5, 3)))


def test_where_no_sample_of_a_block_can_be_used_one_line_says_so(tmp_path: Path) -> None:
    fine = [(f"{i}", {"jpg": picture(i), "txt": b"words"}) for i in range(8)]
    write_shard(tmp_path / "shards" / "a.tar", fine)
    stream = indexed(tmp_path / "shards", tmp_path / "index")
    write_shard(tmp_path / "shards" / "a.tar", [(key, {**parts, "jpg": b"no image"}) for key, parts in fine])
    with pytest.raises(GanvasError, match=r"a\.tar/\d: none of the 6 samples around it can be used"):
        first_batches(feed_of(stream), 1)


def lanes_alive() -> int:
    return sum(thread.name.startswith(("lane-", "decode")) for thread in threading.enumerate())


def test_what_goes_wrong_in_a_thread_is_raised_where_batches_are_taken_and_threads_end(
    tmp_path: Path,
) -> None:
    stream = indexed(img2dataset(tmp_path / "shards", (9,) * 4), tmp_path / "index")
    with closing(feed_of(stream).batches(0, CPU)) as batches:
        next(batches)
        assert lanes_alive() > 0
    assert lanes_alive() == 0
    (tmp_path / "shards" / "00002.tar").unlink()
    with pytest.raises(GanvasError, match=r"00002\.tar: cannot be read"):
        first_batches(feed_of(stream), 40)
    assert lanes_alive() == 0


def test_a_shard_that_has_lost_samples_since_is_one_line(tmp_path: Path) -> None:
    stream = indexed(img2dataset(tmp_path / "shards", (9,) * 4), tmp_path / "index")
    write_shard(tmp_path / "shards" / "00003.tar", [("1", {"jpg": picture(1), "txt": b"words"})])
    with pytest.raises(
        GanvasError, match=r"00003\.tar: holds 1 samples, but .* when it held 9; index it again"
    ):
        first_batches(feed_of(stream), 40)


def test_an_attack_in_a_shard_stops_the_stream_with_its_name(tmp_path: Path) -> None:
    stream = indexed(img2dataset(tmp_path / "shards", (9,)), tmp_path / "index")
    with tarfile.open(tmp_path / "shards" / "00000.tar", "w") as tar:
        info = tarfile.TarInfo("../evil.jpg")
        tar.addfile(info)
    with pytest.raises(GanvasError, match=r"00000\.tar: member \.\./evil\.jpg has '\.\.'"):
        first_batches(feed_of(stream), 1)


def test_lanes_give_way_where_shards_are_few_and_ranks_do_not(
    stream: ShardStream, folder: Path, tmp_path: Path
) -> None:
    many = indexed(folder, tmp_path / "index", lanes=50)
    assert feed_of(many).plan.lanes == 10
    assert feed_of(many, num_ranks=3).plan.lanes == 3
    with pytest.raises(GanvasError, match="10 shards with samples for 11 ranks"):
        feed_of(stream, num_ranks=11)


def test_large_samples_make_the_shuffled_blocks_smaller(folder: Path, tmp_path: Path) -> None:
    stream = indexed(folder, tmp_path / "index", buffer=100_000, megabytes=1, lanes=1)
    largest = max(size / count for _, count, size in stream.info.shards)
    feed = feed_of(stream)
    assert feed.buffer == int((1 << 19) / largest) // 3 * 3 < 100
    assert feed_of(indexed(folder, tmp_path / "two", lanes=1), batch_size=4).buffer == 4


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image_size": 32}, "streams images of 16 px, but 32 px are asked for"),
        ({"batch_size": 1}, "2 images or more"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line(
    stream: ShardStream, changes: dict[str, int], why: str
) -> None:
    with pytest.raises(GanvasError, match=why):
        feed_of(stream, **changes)


def test_counts_come_from_img2dataset_where_it_left_them_and_else_from_a_pass(tmp_path: Path) -> None:
    img2dataset(tmp_path / "shards", (5, 6))
    (tmp_path / "shards" / "00000_stats.json").write_text('{"successes": 4}')
    (tmp_path / "shards" / "00001_stats.json").write_text('{"successes": ')
    assert indexed(tmp_path / "shards", tmp_path / "index").counts.tolist() == [4, 6]


def test_only_samples_with_an_image_and_a_caption_are_counted(tmp_path: Path) -> None:
    content = [
        ("0", {"txt": b"words"}),
        ("1", {"jpg": picture(1), "json": b'{"caption": "one"}'}),
        ("2", {"jpg": picture(2)}),
        ("3", {"jpg": picture(3), "txt": b"three"}),
    ]
    write_shard(tmp_path / "shards" / "a.tar", content)
    stream = indexed(tmp_path / "shards", tmp_path / "index")
    assert stream.counts.tolist() == [2]
    assert [name for name, _ in stream.read(0)] == ["a.tar/1", "a.tar/3"]
    assert indexed(tmp_path / "shards", tmp_path / "json", text="caption").counts.tolist() == [1]


def test_the_folder_holds_captions_and_a_few_images(stream: ShardStream) -> None:
    assert len(stream) == sum(COUNTS) and sorted(stream.captions) == sorted(f"caption {i}" for i in range(76))
    assert stream.preview.info.size == 16 and len(stream.preview) == sum(min(7, count) for count in COUNTS)


def test_the_same_data_in_another_place_are_the_same_stream(folder: Path, tmp_path: Path) -> None:
    copy = img2dataset(tmp_path / "shards", COUNTS)
    here, there = indexed(folder, tmp_path / "a"), indexed(copy, tmp_path / "b")
    assert here.info.fingerprint == there.info.fingerprint
    assert indexed(copy, tmp_path / "c", lanes=3).info.fingerprint != here.info.fingerprint


def test_indexing_goes_on_after_an_interruption_and_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    img2dataset(tmp_path / "shards", (3,) * 6, stats=False)
    real, calls = indexing._count_one, list[str]()

    def count(root: str, name: str, text: str) -> tuple[int, int]:
        calls.append(name)
        if name == "00004.tar" and len(calls) < 7:
            raise KeyboardInterrupt
        return real(root, name, text)

    monkeypatch.setattr(indexing, "_count_one", count)
    monkeypatch.setattr(indexing, "_AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt):
        indexed(tmp_path / "shards", tmp_path / "index")
    with (tmp_path / "index" / "counted.jsonl").open("a") as file:
        file.write('["0000')  # killed in the middle of a line
    calls.clear()
    calls += ["x"] * 7
    stream = indexed(tmp_path / "shards", tmp_path / "index")
    assert "00000.tar" not in calls and stream.counts.tolist() == [3] * 6
    calls.clear()
    assert indexed(tmp_path / "shards", tmp_path / "index").info == stream.info and calls == []
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == [
        "captions.txt",
        "preview",
        "stream.json",
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tree: tree["shards"].append(["../evil.tar", 1, 1]), "leads out of its folder"),
        (lambda tree: tree["shards"].append(["/etc/evil.tar", 1, 1]), "leads out of its folder"),
        (lambda tree: tree["shards"].append(["a.tar", -1, 1]), "negative counts"),
        (lambda tree: tree.update(format=2), "format 2"),
        (lambda tree: tree.update(root="ftp://host"), "this kind of address is not read"),
        (lambda tree: tree.update(shards="all"), "index the shards again"),
        (lambda tree: tree["reading"].update(lanes=0), "lanes 0"),
    ],
)
def test_an_index_that_was_tampered_with_is_refused(
    stream: ShardStream, tmp_path: Path, change: Any, why: str
) -> None:
    tree = json.loads((stream.path / "stream.json").read_text())
    change(tree)
    (tmp_path / "stream.json").write_text(json.dumps(tree))
    with pytest.raises(GanvasError, match=why):
        ShardStream(tmp_path)


def test_what_cannot_be_indexed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    img2dataset(tmp_path / "shards", (1,))
    for place, out, reading, why in [
        ("nowhere", "out", READING, "nowhere: no such file or folder"),
        (tmp_path / "shards", tmp_path / "full", READING, "is not empty and holds no stream"),
        (tmp_path / "shards", "out", replace(READING, fit=Fit(resize="whole")), "needs square images"),
        (tmp_path / "shards", "out", replace(READING, size=4), "between 16 and 1024"),
    ]:
        with pytest.raises(GanvasError, match=why):
            index_shards(str(place), tmp_path / out, reading)
    write_shard(tmp_path / "none" / "a.tar", [("1", {"txt": b"words"})])
    with pytest.raises(GanvasError, match="no sample has an image and a caption"):
        index_shards(str(tmp_path / "none"), tmp_path / "out", READING)


def test_the_options_of_the_command_say_how_shards_are_read() -> None:
    given = {"stream": "yes", "lanes": "8", "text": "alt"}
    assert reading_of(given, size=32) == Reading(size=32, lanes=8, text="alt")
    for options, why in [
        ({"lanes": "0"}, "lanes 0: is not between 1 and 256"),
        ({"buffer": "-1"}, "buffer=-1"),
        ({"lane": "2"}, "'lanes'"),
    ]:
        with pytest.raises(GanvasError, match=why):
            reading_of(options, size=32)


def test_a_stream_over_the_network_is_the_stream_on_disk(
    stream: ShardStream, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fsspec.filesystem("memory").put(str(folder), "/stream/shards", recursive=True)
    with served(folder) as address:
        for number, place in enumerate([address + "/{00000..00009}.tar", "memory://stream/shards"]):
            remote = indexed(place, tmp_path / str(number))
            assert remote.counts.tolist() == list(COUNTS)
            ours, theirs = first_batches(feed_of(stream), 9, 20), first_batches(feed_of(remote), 9, 20)
            assert all(map(same, ours, theirs))


def test_a_server_that_stays_away_ends_training_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FIRST_WAIT", 0.001)
    with served(folder) as address:
        remote = indexed(address + "/{00000..00009}.tar", tmp_path / "index")
    with pytest.raises(GanvasError, match=r"\.tar: cannot be read after 5 attempts"):
        first_batches(feed_of(remote), 1)


MEMORY = """
import resource, sys, threading, torch
from contextlib import closing
from pathlib import Path
from ganvas.data.stream import StreamFeed, StreamSettings
from ganvas.data.stream_index import ShardStream

torch.set_num_threads(1)
feed = StreamFeed(ShardStream(sys.argv[1]), StreamSettings(batch_size=8, image_size=32, num_threads=1))

def data_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData"))

feed.batch(0)  # what is allocated once
threading.stack_size(1 << 18)
limit = (data_kib() << 10) + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with closing(feed.batches(0, torch.device("cpu"))) as batches:
    for _ in range(int(sys.argv[3])):
        next(batches)
print("fed")
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_DATA counts what a process allocates on Linux alone"
)
def test_a_shard_set_larger_than_memory_streams_within_its_buffer(tmp_path: Path) -> None:
    filler = os.urandom(100_000)  # behind the image's end, where decoders do not look
    content = [(f"{i:04d}", {"jpg": picture(i) + filler, "txt": b"words"}) for i in range(160)]
    for shard in range(4):
        write_shard(tmp_path / "shards" / f"{shard}.tar", content)
    index_shards(str(tmp_path / "shards"), tmp_path / "index", Reading(size=32, megabytes=8, lanes=2))
    stream = ShardStream(tmp_path / "index")
    limit = 16 << 20
    assert stream.bytes.sum() > 3 * limit  # the buffer is half of it
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "index"), str(limit), "80"],
        capture_output=True, text=True, check=False, env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.stdout == "fed\n", done.stderr[-2000:]


def test_an_object_store_with_buckets_is_streamed(folder: Path, stream: ShardStream, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import fsspec

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(
        AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_ENDPOINT_URL=f"http://{host}:{port}"
    )
    try:
        files = fsspec.filesystem("s3")
        files.mkdir("pairs")
        files.put(str(folder), "pairs/shards", recursive=True)
        remote = indexed("s3://pairs/shards", tmp_path / "index")
        assert isinstance(remote.info, StreamInfo) and remote.info.root == "s3://pairs/shards"
        assert all(map(same, first_batches(feed_of(stream), 9, 20), first_batches(feed_of(remote), 9, 20)))
    finally:
        server.stop()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            del os.environ[name]
