"""Memory for batches that is used again, once nobody holds what was in it.

A batch of float images at 256 px has tens of megabytes. Asked for anew each time, they cost more in page
faults than all that is done to the pixels.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_KEPT = 64
_probe = [np.empty(1)]
_ALONE = sys.getrefcount(_probe[0])  # of an array that nothing but a list holds, as this Python counts


class Buffers:
    """CPU tensors whose memory comes back when the last of them, and of all that share it, is gone.

    A tensor made of a NumPy array holds a reference to it, whoever holds the tensor (a graph of autograd
    too): an array without other references is free. Threads may share one instance.
    """

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int], dtype: type[np.generic]) -> Tensor:
        """A contiguous tensor with anything in it."""
        wanted = tuple(shape)
        with self._lock:
            for place in range(len(self._arrays)):
                free = sys.getrefcount(self._arrays[place]) == _ALONE
                if free and self._arrays[place].shape == wanted and self._arrays[place].dtype == dtype:
                    return torch.from_numpy(self._arrays[place])
            if len(self._arrays) >= _KEPT:
                self._arrays = [a for a in self._arrays if sys.getrefcount(a) > _ALONE + 1]
            array = np.empty(wanted, dtype)
            if len(self._arrays) < _KEPT:
                self._arrays.append(array)
        return torch.from_numpy(array)
