"""Checkpoints: what is read is what was written, and whatever was changed is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import outcome, tiny_recipe

from ganvas.data.store import Store
from ganvas.errors import GanvasError, RunStopped
from ganvas.training.checkpoint import (
    check_finite,
    list_checkpoints,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
    write_atomically,
)
from ganvas.training.loop import train

TENSORS = {"system": {"w": torch.randn(3, 4), "n": torch.tensor(7)}, "average": {"w": torch.zeros(2)}}
STATE = {
    "phase": "gan",
    "step": 5,
    "trained": {"gan": 20},
    "pending": {"names": [], "steps": [], "values": []},
}


def saved(folder: Path, step: int = 5) -> Path:
    save_checkpoint(folder / f"1-gan-{step:08d}", TENSORS, STATE)
    return folder / f"1-gan-{step:08d}"


class Payload:
    """What a pickle of it does on being read: make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def plant(path: Path, how: str, mark: Path) -> None:
    """Put a pickle, or what ``torch.save`` makes of one, in place of a file."""
    if how == "pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"system": Payload(mark)}, path)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    groups, state = load_checkpoint(saved(tmp_path))
    assert state == STATE and set(groups) == {"system", "average"}
    for name, tensors in TENSORS.items():
        assert all(torch.equal(groups[name][key], value) for key, value in tensors.items())


def test_memory_layout_and_shared_memory_do_not_matter(tmp_path: Path) -> None:
    odd = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "0-a-1", {"system": {"x": odd, "y": odd, "z": odd[:, ::2]}, "average": {}}, {})
    groups, _ = load_checkpoint(tmp_path / "0-a-1")
    assert torch.equal(groups["system"]["x"], odd) and torch.equal(groups["system"]["z"], odd[:, ::2])


FILES = ["manifest.json", "state.json", "system.safetensors", "average.safetensors"]
DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "one bit changed": lambda p: p.write_bytes(p.read_bytes()[:-2] + bytes([p.read_bytes()[-2] ^ 1]) + b"}"),
    "not text": lambda p: p.write_bytes(b"\x80\xff\x00"),
    "too deep": lambda p: p.write_bytes(b"[" * 100_000),
    "a list": lambda p: p.write_bytes(b"[]"),
    "another object": lambda p: p.write_bytes(b'{"../../etc/passwd": ""}'),
    "empty object": lambda p: p.write_bytes(b"{}"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_in_one_line_that_names_the_checkpoint(
    tmp_path: Path, name: str, damage: str
) -> None:
    folder = saved(tmp_path)
    DAMAGE[damage](folder / name)
    with pytest.raises(GanvasError) as refused:
        load_checkpoint(folder)
    said = str(refused.value)
    assert str(folder) in said and "remove" in said and len(said) < 600


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(tmp_path: Path, name: str, how: str) -> None:
    folder = saved(tmp_path)
    plant(folder / name, how, tmp_path / "mark")
    with pytest.raises(GanvasError, match=str(folder)):
        load_checkpoint(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_that_the_manifest_vouches_for_is_not_run_either(tmp_path: Path, how: str) -> None:
    import hashlib

    folder = saved(tmp_path)
    plant(folder / "system.safetensors", how, tmp_path / "mark")
    sums = json.loads((folder / "manifest.json").read_text())
    sums["system.safetensors"] = hashlib.sha256((folder / "system.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(sums))
    with pytest.raises(GanvasError, match="no whole checkpoint"):
        load_checkpoint(folder)
    assert not (tmp_path / "mark").exists()


def test_checkpoints_are_listed_by_phase_and_step_and_nothing_else_is_listed(tmp_path: Path) -> None:
    for name in ("1-gan-00000009", "0-text-00000300", "1-gan-100000000", "10-x-00000001", "2-y-00000001"):
        (tmp_path / name).mkdir()
    for name in ("best", "1-gan-00000010.partial", "0-text-00000300.old.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "3-z-00000001").write_text("a file")
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "0-text-00000300",
        "1-gan-00000009",
        "1-gan-100000000",
        "2-y-00000001",
        "10-x-00000001",
    ]
    assert list_checkpoints(tmp_path / "missing") == []


def test_pruning_keeps_the_newest_and_removes_leftovers(tmp_path: Path) -> None:
    for step in range(1, 5):
        saved(tmp_path, step)
    (tmp_path / "1-gan-00000009.partial").mkdir()
    (tmp_path / "mine").mkdir()
    prune_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-gan-00000003", "1-gan-00000004", "mine"]


def test_saving_over_a_checkpoint_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path)
    save_checkpoint(tmp_path / "1-gan-00000005", TENSORS, {"step": 6})
    assert load_checkpoint(tmp_path / "1-gan-00000005")[1] == {"step": 6}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(value: float) -> None:
    check_finite(TENSORS, "step 3")
    with pytest.raises(RunStopped, match="step 3: average 'w' is not finite"):
        check_finite({**TENSORS, "average": {"w": torch.tensor([0.0, value])}}, "step 3")


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_exactly(tmp_path: Path, fused: bool) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Adam]:
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return net, torch.optim.Adam(net.parameters(), lr=0.1, fused=fused)

    def step(net: torch.nn.Module, optimizer: torch.optim.Adam, seed: int) -> None:
        torch.manual_seed(seed)
        net(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    net, optimizer = make()
    step(net, optimizer, 1)
    tensors = {"system": net.state_dict(), "average": optimizer_tensors(optimizer)}
    save_checkpoint(tmp_path / "0-a-1", tensors, {})
    step(net, optimizer, 2)
    groups, _ = load_checkpoint(tmp_path / "0-a-1")
    other, its_optimizer = make()
    other.load_state_dict(groups["system"])
    load_optimizer(its_optimizer, groups["average"])
    step(other, its_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_an_atomic_write_leaves_the_old_bytes_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunStopped, match="file: could not be written \\(the disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("single_threaded")
def test_a_run_whose_newest_checkpoint_is_damaged_says_so_and_goes_on_from_the_older_one(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    newest = list_checkpoints(run / "checkpoints")[-1]
    (newest / "system.safetensors").write_bytes(b"")
    with pytest.raises(GanvasError, match=f"remove {newest} to go on from an older checkpoint"):
        train(tiny_recipe(), store, run)
    shutil.rmtree(newest)
    train(tiny_recipe(), store, run)
    assert outcome(run) == outcome(undisturbed)


@pytest.mark.usefixtures("single_threaded")
def test_a_damaged_cache_of_sentences_is_refused_in_one_line(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (cached,) = (run / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    with pytest.raises(GanvasError, match=f"{cached}: truncated or changed.*remove it"):
        train(tiny_recipe(images={"text": 12, "gan": 24, "style": 16}), store, run)


@pytest.mark.usefixtures("single_threaded")
def test_a_checkpoint_of_other_networks_is_refused_in_one_line(
    store: Store, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    newest = list_checkpoints(run / "checkpoints")[-1]
    groups, state = load_checkpoint(newest)
    del groups["system"]["generator.project.0.weight"]
    save_checkpoint(newest, groups, state)
    with pytest.raises(GanvasError, match=r"does not fit this recipe \(") as refused:
        train(tiny_recipe(), store, run)
    assert "\n" not in str(refused.value)
