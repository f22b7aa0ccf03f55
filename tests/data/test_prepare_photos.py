"""Preparing image files: broken input, clean captions, resuming, images that keep their longer side."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganvas.data import prepare as module
from ganvas.data.feed import Feed, FeedSettings, on_device
from ganvas.data.pixels import Fit
from ganvas.data.prepare import prepare, read_options, read_resize
from ganvas.data.presets import PRESETS
from ganvas.data.source import SOURCES, LeftOut, PhotoSource, Request, chosen_options
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError


def encoded(number: int, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    image = Image.fromarray(np.full((size[1], size[0], 3), number % 256, np.uint8))
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


class Photos(PhotoSource):
    """Images 0 to ``count``, each in a file of its own."""

    name = "photos"
    about = "a test"
    licence = "CC0-1.0"
    others: tuple[Record | LeftOut, ...] = ()

    def __init__(self, request: Request) -> None:
        assert request.place is not None
        self.root = Path(request.place)
        self.fit = request.fit or Fit()
        self.options = chosen_options(self.name, request.options, {"count": "100"})

    def records(self) -> Iterator[Record | LeftOut]:
        for number in range(int(self.options["count"])):
            captions = (f"the number {number}", "a grey square")
            yield Record(id=str(number), split="train", captions=captions, image=f"{number}.jpg", label="x")
        yield from self.others


@pytest.fixture(autouse=True)
def _photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "photos", Photos)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number}.jpg").write_bytes(encoded(number))
    return folder


def make(out: Path, place: Path, **settings: Any) -> Any:
    return prepare("photos", out, **{"place": place, "size": 16, "workers": 2, "progress": False, **settings})


def rejected(store: Path) -> dict[str, str]:
    with (store / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return dict(list(csv.reader(file))[1:])


def test_any_number_of_workers_makes_the_same_store(tmp_path: Path, place: Path) -> None:
    (place / "7.jpg").write_bytes(b"no image")
    (place / "70.jpg").unlink()
    made = [make(tmp_path / str(workers), place, workers=workers) for workers in (1, 2, 5)]
    assert made[0] == made[1] == made[2]
    store = Store(tmp_path / "2")
    assert store.ids == [str(number) for number in range(100) if number not in (7, 70)]
    assert all(abs(int(store.images[row][0, 0, 0]) - int(store.ids[row])) <= 1 for row in range(98))
    assert len({(tmp_path / str(w) / "rejected.csv").read_text() for w in (1, 2, 5)}) == 1
    assert rejected(tmp_path / "2")["70"] == "no image file (70.jpg)"


def test_preparing_leaves_the_number_of_threads_as_it_was(tmp_path: Path, place: Path) -> None:
    before = torch.get_num_threads()
    make(tmp_path / "store", place)
    assert torch.get_num_threads() == before


BROKEN: Mapping[str, tuple[bytes, str]] = {
    "truncated": (encoded(1, (400, 400))[:400], "is damaged"),
    "text": (b"hello", "is no image that can be read"),
    "empty": (b"", "is no image that can be read"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_file_is_left_out_with_the_reason(tmp_path: Path, place: Path, kind: str) -> None:
    (place / "5.jpg").write_bytes(BROKEN[kind][0])
    info = make(tmp_path / "store", place)
    assert sum(info.splits.values()) == 99
    found = rejected(tmp_path / "store")
    assert list(found) == ["5"] and found["5"].startswith(BROKEN[kind][1])


def test_what_is_wrong_with_records_is_reported_and_the_rest_goes_on(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(identity: str, *captions: Any) -> Record:
        return Record(id=identity, split="train", captions=captions, image="1.jpg")

    others = (
        record("3", "a second one"),
        record("none"),
        record("control", "a\x07bell", "a quiet\n  one\t"),
        record("only control", "\x00\x01"),
        record("blank", " \u200b "),
        record("odd", 5),
        record("surrogate", "half \ud800"),
        record("long", "x" * 10_001, "short"),
        LeftOut("nowhere", "nobody knows it"),
    )
    monkeypatch.setattr(Photos, "others", others)
    make(tmp_path / "store", place)
    store = Store(tmp_path / "store")
    captions = dict(zip(store.ids, store.captions, strict=True))
    assert len(store) == 102
    assert captions["control"] == ["a quiet one"] and captions["long"] == ["short"]
    assert rejected(tmp_path / "store") == {
        "3": "a second image with this id",
        "none": "no caption",
        "control": "caption 1 has control characters ('a\\x07bell')",
        "only control": "no usable caption; caption 1 has control characters ('\\x00\\x01')",
        "blank": "no usable caption; caption 1 is empty",
        "odd": "no usable caption; caption 1 is no text but int",
        "surrogate": "no usable caption; caption 1 is no valid Unicode ('half \\ud800')",
        "long": "caption 1 has 10,001 characters, more than the 10,000 allowed",
        "nowhere": "nobody knows it",
    }


def test_the_closing_line_counts_what_was_left_out(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        (place / f"{number}.jpg").write_bytes(b"no image")
    make(tmp_path / "store", place, progress=True)
    said = capsys.readouterr().err
    assert "photos at 16 px, train 98, 2 left out (2 is no image that can be read" in said
    assert said.count("\n") == 1


def test_a_source_of_which_most_is_rejected_stops_unless_allowed(tmp_path: Path, place: Path) -> None:
    for number in range(51):
        (place / f"{number}.jpg").unlink()
    with pytest.raises(GanvasError, match=r"51 of 100 images cannot be used.*no image file.*--allow-rejects"):
        make(tmp_path / "store", place)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert sum(make(tmp_path / "store", place, allow_rejects=True).splits.values()) == 49


# --- interrupted


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    add = StoreWriter.add

    def stopping(writer: StoreWriter, record: Record, image: Any) -> None:
        if int(record.id) >= number:
            raise KeyboardInterrupt
        add(writer, record, image)

    monkeypatch.setattr(StoreWriter, "add", stopping)


@pytest.mark.parametrize("fit", [Fit(), Fit(resize="whole")], ids=["squares", "whole"])
def test_interrupted_work_goes_on_and_makes_the_same_store(tmp_path: Path, place: Path, fit: Fit) -> None:
    (place / "3.jpg").write_bytes(b"no image")
    (place / "90.jpg").write_bytes(b"no image")
    whole = make(tmp_path / "whole", place, fit=fit)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 60)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "store", place, fit=fit)
    assert not (tmp_path / "store").exists()
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        load = Photos.load
        patch.setattr(
            Photos, "load", lambda self, record, size: (loaded.append(record.id), load(self, record, size))[1]
        )
        assert make(tmp_path / "store", place, fit=fit) == whole
    assert loaded and min(map(int, loaded)) == 60
    for name in ("images.npy", "rejected.csv"):
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "store", "whole"]


@pytest.mark.parametrize("damage", ["short pixels", "wrong pixels", "half a line", "no plan", "another plan"])
def test_what_is_left_is_used_only_where_it_is_sound(tmp_path: Path, place: Path, damage: str) -> None:
    whole = make(tmp_path / "whole", place)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 60)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "store", place)
    part = tmp_path / ".store.partial"
    if damage == "short pixels":
        with (part / "images.npy").open("r+b") as file:
            file.truncate(10_000)
    elif damage == "wrong pixels":
        with (part / "images.npy").open("r+b") as file:
            file.seek(20_000)
            file.write(b"\xff\x00" * 50)
    elif damage == "half a line":
        text = (part / "done.jsonl").read_text()
        (part / "done.jsonl").write_text(text[:-20])
    elif damage == "no plan":
        (part / "plan.json").unlink()
    else:
        plan = json.loads((part / "plan.json").read_text())
        (part / "plan.json").write_text(json.dumps({**plan, "source": "another"}))
    assert make(tmp_path / "store", place) == whole


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[3])
from test_prepare_photos import Photos, make
from ganvas.data.source import SOURCES
from pathlib import Path
SOURCES["photos"] = Photos
load = Photos.load
def slow(self, record, size):
    time.sleep(0.01)
    return load(self, record, size)
Photos.load = slow
make(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_work_goes_on(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    out = tmp_path / "store"
    arguments = [sys.executable, "-c", KILLED, str(out), str(place), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    journal = tmp_path / ".store.partial" / "done.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size > 1000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    info = make(out, place)
    assert info == make(tmp_path / "again", place)
    assert not (tmp_path / ".store.partial").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_store_that_another_process_writes_is_waited_for(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"name": "photos", "size": 16, "source": "a test", "licence": "CC0-1.0"}
    other = StoreWriter(tmp_path / "store", **about)
    waited = []

    def finish(_: float) -> None:
        waited.append(True)
        if len(waited) == 3:
            other.__exit__(None, None, None)

    monkeypatch.setattr(module.time, "sleep", finish)
    assert sum(make(tmp_path / "store", place, workers=1).splits.values()) == 100
    assert len(waited) == 3


# --- whole images


@pytest.fixture
def whole(tmp_path: Path) -> Store:
    """Images whose red says in which column, whose green in which line a pixel lies."""
    folder = tmp_path / "ramps"
    folder.mkdir()
    for number, (width, height) in enumerate([(40, 20), (20, 60), (20, 20), (30, 20)]):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x, y, np.full_like(x, number)], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", "PNG")
    make(tmp_path / "whole", folder, size=20, fit=Fit(resize="whole"), options={"count": "4"})
    return Store(tmp_path / "whole")


def test_whole_images_keep_their_longer_side(whole: Store) -> None:
    assert whole.info.whole and whole.info.options["resize"] == "whole"
    assert whole.images.shapes.tolist() == [[20, 40], [60, 20], [20, 20], [20, 30]]
    assert [image.shape for image in map(whole.images.square, range(4))] == [(20, 20, 3)] * 4
    assert whole.images.square(0)[0, :, 0].tolist() == list(range(10, 30))
    assert whole.images.squares(np.array([1, 0])).shape == (2, 20, 20, 3)


def test_crops_are_taken_anywhere_in_a_whole_image(whole: Store) -> None:
    feed = Feed(
        whole, "train", FeedSettings(batch_size=4, image_size=16, mismatch="image", flip=0, wrong_images=True)
    )
    seen: dict[int, set[tuple[int, int]]] = {row: set() for row in range(4)}
    for step in range(400):
        batch = feed.batch(step)
        for images, rows in ((batch.images, batch.rows), (batch.wrong_images, batch.wrong_rows)):
            assert images is not None
            for image, row in zip(images.numpy(), rows.tolist(), strict=True):
                assert (image[:, :, 2] == row).all()
                left, top = int(image[0, 0, 0]), int(image[0, 0, 1])
                assert (image[0, :, 0] == np.arange(left, left + 16)).all()
                assert (image[:, 0, 1] == np.arange(top, top + 16)).all()
                seen[row].add((top, left))
    for row, (height, width) in enumerate(whole.images.shapes.tolist()):
        tops, lefts = {top for top, _ in seen[row]}, {left for _, left in seen[row]}
        assert tops == set(range(height - 15)) and lefts == set(range(width - 15))


def test_a_crop_may_be_larger_than_the_image_that_is_fed(whole: Store) -> None:
    feed = Feed(whole, "train", FeedSettings(batch_size=2, image_size=8, crop=16, mismatch="image", flip=0))
    batch = next(feed.batches(0, torch.device("cpu")))
    assert batch.images.shape == (2, 3, 8, 8)
    host = feed.batch(0)
    full = on_device(host, torch.device("cpu"), 16).images
    scaled = torch.nn.functional.interpolate(full, size=8, mode="bilinear", antialias=True)
    assert (batch.images - scaled).abs().max() < 1 / 127.5
    with pytest.raises(GanvasError, match="holds images of 20 px, but 32 px are asked for"):
        Feed(whole, "train", FeedSettings(batch_size=2, image_size=8, crop=32))


UNMAPPED = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch
from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.store import Store

torch.set_num_threads(1)
small, large = Store(sys.argv[1]), sys.argv[2]
settings = FeedSettings(batch_size=16, image_size=64)
feed = Feed(small, "train", settings)
batches = feed.batches(0, torch.device("cpu"))
for _ in range(20):  # starts the thread, warms allocators up
    next(batches)
batches.close()
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
limit = used + Path(large, "images.npy").stat().st_size // 2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
store = Store(large)
feed = Feed(store, "train", settings)
seen, sums = set(), 0
batches = feed.batches(0, torch.device("cpu"))
for _ in range(len(feed) // 16):
    batch = next(batches)
    seen.update(batch.rows.tolist())
    sums += int(((batch.images + 1) * 127.5).round().sum())
print(len(seen), sums == 16 * (len(feed) // 16) * 64 * 64 * 3 * 7)
try:
    np.memmap(Path(large, "images.npy"), np.uint8, mode="r")
except OSError:
    print("the whole cannot be mapped")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on address space are Linux's")
def test_a_store_twice_as_large_as_the_address_space_is_fed(tmp_path: Path) -> None:
    for name, count in (("small", 40), ("large", 4000)):  # 79 KB each, 315 MB in all
        with StoreWriter(tmp_path / name, name="big", size=162, source="a test", licence="CC0-1.0") as writer:
            image = np.full((162, 162, 3), 7, np.uint8)
            for i in range(count):
                writer.add(Record(id=str(i), split="train", captions=("it",), label=str(i % 2)), image)
            writer.finish()
    script = [sys.executable, "-c", UNMAPPED, str(tmp_path / "small"), str(tmp_path / "large")]
    limited = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # glibc would reserve 64 MB for each new thread
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=limited)
    assert done.stdout.split("\n")[:2] == ["4000 True", "the whole cannot be mapped"], done.stderr


# --- presets and options


def test_like_a_paper_stores_its_margin_and_says_so(tmp_path: Path, place: Path) -> None:
    info = make(tmp_path / "store", place, like="attngan", size=32)
    assert (info.size, info.whole, info.options["like"]) == (38, True, "attngan")  # 32 * 76 / 64
    assert Store(tmp_path / "store").images.shapes.tolist()[0] == [38, 57]
    with pytest.raises(GanvasError, match="leave --resize out"):
        make(tmp_path / "other", place, like="attngan", fit=Fit())
    with pytest.raises(GanvasError, match="did you mean 'attngan'"):
        make(tmp_path / "other", place, like="atngan")


@pytest.mark.parametrize(
    ("like", "stored"), [("reed", 76), ("stackgan", 304), ("attngan", 304), ("xmcgan", 256)]
)
def test_stored_sizes_are_those_of_the_papers(like: str, stored: int) -> None:
    assert PRESETS[like].stored_size(64 if like == "reed" else 256) == stored


def test_a_paper_keeps_as_many_captions_as_it_uses(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAPTIONS", {"photos": 1})
    assert make(tmp_path / "store", place, like="reed").num_captions == 100
    assert make(tmp_path / "all", place).num_captions == 200


def test_options_and_ways_to_resize_are_read(tmp_path: Path) -> None:
    assert read_options(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    with pytest.raises(GanvasError, match="write key=value"):
        read_options(["nonsense"])
    assert read_resize(None) is None and read_resize("bbox") == Fit(box=True)
    with pytest.raises(GanvasError, match="did you mean 'square'"):
        read_resize("sqare")
