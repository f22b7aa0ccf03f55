"""Preparing a data set: the driver, with small sources and with the emoji set."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ganvas.data import prepare as module
from ganvas.data.prepare import prepare
from ganvas.data.source import SOURCES, Rejected, Request, Source, chosen_options, open_source
from ganvas.data.store import Record, Store
from ganvas.errors import GanvasError, RunStopped


class Numbers(Source):
    """100 grey images; those that ``bad`` divides cannot be used."""

    name = "numbers"
    about = "a test"
    licence = "CC0-1.0"
    sizes = (4, 16)

    def __init__(self, request: Request) -> None:
        self.options = chosen_options(self.name, request.options, {"bad": "1000"})

    def records(self) -> Iterator[Record]:
        for number in range(1, 101):
            yield Record(id=str(number), split="train", captions=(f"the number {number}",))

    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        if int(record.id) % int(self.options["bad"]) == 0:
            raise Rejected("it is bad")
        return np.full((size, size, 3), int(record.id), np.uint8)


class Deadly(Numbers):
    """Ends the process that loads it."""

    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        import os

        os._exit(3)


@pytest.fixture(autouse=True)
def _numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "numbers", Numbers)
    monkeypatch.setitem(SOURCES, "deadly", Deadly)


@pytest.mark.parametrize("name", ["emoji", "numbers"])
def test_every_source_says_what_it_is_and_refuses_unknown_options(name: str) -> None:
    source = open_source(name, Request())
    assert source.name == name
    assert source.about and source.licence
    assert 0 < source.sizes[0] <= source.sizes[1]
    with pytest.raises(GanvasError, match="no option 'nonsense'"):
        open_source(name, Request(options={"nonsense": "1"}))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same_store(tmp_path: Path, workers: int) -> None:
    info = prepare("numbers", tmp_path / "store", size=4, workers=workers, progress=False)
    assert info == prepare("numbers", tmp_path / "one", size=4, workers=1, progress=False)
    store = Store(tmp_path / "store")
    assert store.ids == [str(number) for number in range(1, 101)]
    assert (np.asarray(store.images)[:, 0, 0, 0] == np.arange(1, 101)).all()
    assert info.options == {"bad": "1000"}


@pytest.mark.parametrize("workers", [1, 2])
def test_preparing_goes_on_when_an_image_fails(tmp_path: Path, workers: int) -> None:
    info = prepare(
        "numbers", tmp_path / "store", size=4, workers=workers, options={"bad": "10"}, progress=False
    )
    assert sum(info.splits.values()) == 90
    with (tmp_path / "store" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [[str(number), "it is bad"] for number in range(10, 101, 10)]


def test_a_data_set_that_is_mostly_unusable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="100 of 100 images cannot be used, most often because: it is bad"):
        prepare("numbers", tmp_path / "store", size=4, workers=1, options={"bad": "1"}, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_data_set_is_not_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    monkeypatch.delattr(Numbers, "records")
    assert prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False) == first


def test_force_prepares_again(tmp_path: Path) -> None:
    prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    before = (tmp_path / "store" / "images.npy").stat().st_ino
    prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False, force=True)
    assert (tmp_path / "store" / "images.npy").stat().st_ino != before


@pytest.mark.parametrize(
    "other", [{"size": 8}, {"size": 4, "options": {"bad": "7"}}], ids=["another size", "another option"]
)
def test_another_data_set_is_replaced_only_with_force(tmp_path: Path, other: dict[str, object]) -> None:
    first = prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    with pytest.raises(GanvasError, match=r"holds another data set .* --force") as error:
        prepare("numbers", tmp_path / "store", workers=1, progress=False, **other)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert Store(tmp_path / "store").info == first
    forced = prepare("numbers", tmp_path / "store", workers=1, progress=False, force=True, **other)  # type: ignore[arg-type]
    assert Store(tmp_path / "store").info == forced != first


def test_a_new_version_of_the_source_counts_as_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    monkeypatch.setattr(Numbers, "about", "a test, second edition")
    with pytest.raises(GanvasError, match="holds another data set"):
        prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)


def test_a_damaged_store_is_prepared_again(tmp_path: Path) -> None:
    first = prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    (tmp_path / "store" / "images.npy").write_bytes(b"")
    assert prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False) == first
    assert Store(tmp_path / "store").info == first


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("emojis", {}, "no data set 'emojis'; did you mean 'emoji'?"),
        ("numbers", {"size": 3}, "size 3 is not between 4 and 16 pixels"),
        ("numbers", {"size": 17}, "size 17 is not between 4 and 16 pixels"),
        ("emoji", {"size": 512}, "size 512 is not between 32 and 256 pixels"),
        ("numbers", {"size": 4, "workers": 0}, "give 1 or more"),
        ("numbers", {"size": 4, "options": {"bda": "1"}}, "did you mean 'bad'?"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_written(
    tmp_path: Path, name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(GanvasError) as error:
        prepare(name, tmp_path / "store", progress=False, **settings)  # type: ignore[arg-type]
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_stops_the_work_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="workers=1"):
        prepare("deadly", tmp_path / "store", size=4, workers=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_the_work_in_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.StoreWriter, "add", full)
    with pytest.raises(RunStopped, match="No space left on device"):
        prepare("numbers", tmp_path / "store", size=4, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_one_line_is_said_at_the_end_where_no_terminal_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("numbers", tmp_path / "s", size=4, workers=1, options={"bad": "50"})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.replace("\n", "").endswith(
        "numbers at 4 px, train 98, 2 left out (2 it is bad; see rejected.csv)"
    )


def test_a_slice_of_the_emoji_set_is_prepared_as_it_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganvas.data.emoji import EmojiSource

    source = EmojiSource(Request())
    some = source.records()[::200]
    monkeypatch.setattr(EmojiSource, "records", lambda self: some)
    info = prepare("emoji", tmp_path / "store", size=32, workers=1, progress=False)
    store = Store(tmp_path / "store")
    assert (info.name, info.size, info.options, len(store)) == ("emoji", 32, {"language": "en"}, len(some))
    assert store.ids == [record.id for record in some]
    assert [tuple(row) for row in store.captions] == [record.captions for record in some]
    assert store.attributes == [record.attributes for record in some]
    assert (store.images[7] == source.load(some[7], 32)).all()
    for licence in ("Apache-2.0", "CC-BY-4.0", "MIT"):
        assert licence in info.licence
