"""For systems whose stages are trained one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StagesTrained(nn.Module):
    """How many stages a model draws with; saved with its weights."""

    count: Tensor

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(stages))

    def set(self, stages: int) -> None:
        """From now on so many."""
        self.count.fill_(stages)
