"""A full disk: one line, the last good checkpoint stays whole, and the run goes on when there is room."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Called, outcome, tiny_recipe, tiny_tree

from ganvas.data.store import Store
from ganvas.errors import RunStopped
from ganvas.training import checkpoint
from ganvas.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")


def full_from(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its ``number``-th sync on, the disk is full."""
    real, count = os.fsync, iter(range(1_000_000))

    def fsync(handle: int) -> None:
        if next(count) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)


@pytest.mark.parametrize("number", [0, 2, 3, 5, 9, 13, 14, 20, 27, 31, 38, 45])
def test_a_full_disk_stops_the_run_in_one_line_and_room_lets_it_go_on(
    store: Store, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        full_from(number, patch)
        with pytest.raises(RunStopped, match="No space left on device") as stop:
            train(tiny_recipe(), store, run)
    said = str(stop.value)
    assert "\n" not in said and stop.value.exit_status == 1
    assert not list(tmp_path.rglob("*.partial")), "something half-written was left behind"
    good = list_checkpoints(run / "checkpoints")
    for each in good:
        load_checkpoint(each)
    assert not good or str(good[-1]) in said
    train(tiny_recipe(), store, run)
    assert outcome(run) == outcome(undisturbed)


def test_every_write_of_a_checkpoint_may_fail_and_the_earlier_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "0-gan-00000001", {"system": {}, "average": {}}, {"step": 1})
    for number in range(5):
        with monkeypatch.context() as patch, pytest.raises(RunStopped, match="0-gan-00000001"):
            full_from(number, patch)
            save_checkpoint(tmp_path / "0-gan-00000002", {"system": {}, "average": {}}, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["0-gan-00000001"]
    assert load_checkpoint(tmp_path / "0-gan-00000001")[1] == {"step": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_the_systems_own_limit_on_file_sizes_stops_the_run_in_one_line(store: Store, tmp_path: Path) -> None:
    from forks import train_in_child

    run = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    assert os.waitstatus_to_exitcode(train_in_child(tiny_recipe(), store, run, limit)) == 1
    said = run.with_suffix(".err").read_text().strip().splitlines()[-1]
    assert "the disk is full: File too large" in said and "there is no earlier one" in said
    assert list((run / "checkpoints").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 30 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs rights that this user does not have")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_fills_up_and_more_room_lets_the_run_go_on(
    store: Store, undisturbed: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    with pytest.raises(RunStopped, match=r"the disk is full.*checkpoints/\d-\w+-\d{8}"):
        train(tiny_recipe(keep=50), store, run)
    assert list_checkpoints(run / "checkpoints") and not list(run.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    train(tiny_recipe(keep=2), store, run)
    assert outcome(run) == outcome(undisturbed)


BLOCKED = {
    "log.csv": lambda run: (run / "log.csv").mkdir(),
    "tensorboard": lambda run: (run / "tensorboard").write_text("a file"),
    "samples": lambda run: ((run / "samples").rmdir(), (run / "samples").write_text("a file")),
    "cache": lambda run: (run / "cache").write_text("a file"),
    "model": lambda run: (run / "model").write_text("a file"),
    "checkpoints": lambda run: ((run / "checkpoints").rmdir(), (run / "checkpoints").write_text("a file")),
}


@pytest.mark.parametrize("what", sorted(BLOCKED))
def test_whatever_of_a_run_cannot_be_written_is_one_line(
    ganvas: Callable[..., Called], store: Store, tmp_path: Path, what: str
) -> None:
    import yaml

    from ganvas.training.run import open_run

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_tree(sample_every=8)))
    run = tmp_path / "run"
    block: Callable[[Path], Any] = BLOCKED[what]
    block(open_run(run, tiny_recipe(sample_every=8), store).folder)
    called = ganvas("train", recipe, "--data", store.path, "--out", run)
    lines = [line for line in called.err.splitlines() if line.startswith("ganvas: ")]
    assert called.status in (1, 2) and len(lines) == 1 and called.err.endswith(lines[0] + "\n")
    assert f"{run / what}" in lines[0] and "Traceback" not in called.err


def test_a_run_folder_that_cannot_be_made_is_one_line(
    ganvas: Callable[..., Called], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    called = ganvas(
        "train", "gan-int-cls-emoji-demo", "--data", store.path, "--out", tmp_path / "file" / "run"
    )
    assert called.is_one_line(), called
