"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from ganvas.memory import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
images = torch.ones(16, 3, 256, 256)
network = torch.nn.Sequential(*(torch.nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(3)))
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        network(images)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[2:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_a_network_uses_the_pages_of_its_last_maps_again() -> None:
    def faults(how: str) -> tuple[bool, int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        kept, number = done.stdout.split()
        return kept == "True", int(number)

    kept, number = faults("kept")
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert number < 5_000 < 30_000 < faults("given back")[1]  # its maps are 64 MiB, 16,384 pages, each


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ganvas.memory import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
