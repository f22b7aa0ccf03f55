"""A machine in words, as runs and scores name it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_recipe

from ganvas.data.store import Store
from ganvas.training.device import machine_of
from ganvas.training.run import open_run


@pytest.mark.parametrize(
    ("threads", "num", "words"), [(1, 1, "1 thread"), (3, 1, "3 threads"), (1, 2, "2 x 1 thread")]
)
def test_a_cpu_by_its_threads(threads: int, num: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert machine_of(torch.device("cpu"), num).split(", ")[1] == words


@pytest.mark.parametrize(("num", "words"), [(1, "NVIDIA H200"), (4, "4 x NVIDIA H200")])
def test_a_gpu_by_its_name(num: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert machine_of(torch.device("cuda"), num).split(", ")[1] == words


def test_a_run_says_how_many_processes_it_had(store: Store, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", tiny_recipe(num_devices=2, device="cpu"), store)
    about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert about["machine"] == machine_of(torch.device("cpu"), 2)
    assert ", 2 x " in about["machine"]
