"""What a phase took so far, and when its seconds are over."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric

from ganvas.training.device import mean_over_ranks


class Clock:
    """Counts the seconds of training from one row of the log to the next.

    Args:
        limit: seconds that the phase may take; 0 is no limit.
        spent: what earlier calls took.
        fabric: whose first rank's clock counts.
    """

    def __init__(self, limit: float, spent: float, fabric: Fabric) -> None:
        self.limit, self.spent = limit, spent
        self._fabric = fabric
        self._last, self._images = 0.0, 0

    def start(self, images: int) -> None:
        """Training begins here, with so many images seen."""
        self._last, self._images = time.perf_counter(), images

    def lap(self, images: int) -> float:
        """So many are seen now; images a second since the last time, rounded as the log has it, from which
        ``spent`` is read again.
        """
        now = time.perf_counter()
        took, seen = now - self._last, images - self._images
        self._last, self._images = now, images
        rate = float(f"{seen / took:.6g}")
        self.spent += seen / rate
        return rate

    def is_over(self) -> bool:
        """Whether the phase's seconds are spent; to be asked of all ranks in the same step."""
        if not self.limit:
            return False
        over = self.spent >= self.limit
        if self._fabric.world_size == 1:
            return over
        first = torch.tensor(float(over and self._fabric.global_rank == 0), device=self._fabric.device)
        return bool(mean_over_ranks(self._fabric, first) > 0)
