"""Fixtures of many tests: a tiny data set, a whole tiny run, the command line called in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Called, one_thread, tiny_recipe, write_store

from ganvas.data.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture(scope="session")
def undisturbed(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all three phases from beginning to end. Look, do not touch."""
    from ganvas.training.loop import train

    with one_thread():
        return train(tiny_recipe(), store, tmp_path_factory.mktemp("undisturbed") / "run").folder


@pytest.fixture
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def ganvas(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Called]:
    """Call the command line in this process, in a folder of its own."""
    from ganvas.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Called:
        words: Sequence[str] = ["ganvas", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", list(words))
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        said = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return Called(stop.value.code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: pages cannot be looked at")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    arguments = [*flags.split(), "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()
