"""The pixels of a prepared store: on disk until they are asked for."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


class StoredImages:
    """Images in one file: all squares of one size, or each with a shape of its own.

    The file is memory-mapped. Where the process may not map so much (a limit on its address space), each
    image is read when it is asked for; what comes back is the same.

    Attributes:
        shape: ``(N, S, S, 3)``; where images have shapes of their own, ``(N,)``.
        shapes: ``(N, 2)``, height and width of each.

    Args:
        path: a ``.npy`` file, uint8: ``(N, S, S, 3)``, or all pixels of all images in a row.
        shapes: where each image has its own, ``(N, 2)``.

    Raises:
        OSError, ValueError: the file is missing, damaged, or does not hold as much as ``shapes`` says.
    """

    def __init__(self, path: Path, shapes: Rows | None = None) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{path.name}: has a header of version {version}")
            stored, _, dtype = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
        if dtype != np.uint8:
            raise ValueError(f"{path.name}: holds {dtype}, not uint8")
        size = int(np.prod(stored, dtype=np.int64))
        if path.stat().st_size != begin + size:
            raise ValueError(f"{path.name}: has {path.stat().st_size:,} bytes instead of {begin + size:,}")
        if shapes is None:
            if len(stored) != 4 or stored[3] != 3:
                raise ValueError(f"{path.name}: holds an array {stored}, not (N, S, S, 3)")
            self.shape: tuple[int, ...] = stored
            self.shapes: Rows = np.tile(np.array(stored[1:3], np.int64), (stored[0], 1))
        else:
            if stored != (3 * int(shapes.prod(axis=1).sum()),):
                raise ValueError(f"{path.name}: holds an array {stored}, which is not what the sizes make")
            self.shape, self.shapes = (len(shapes),), shapes
        self.nbytes = size
        self._squares = shapes is None
        self._begins = np.concatenate([[0], np.cumsum(3 * self.shapes.prod(axis=1))]) + begin
        self._path, self._file = path, -1
        self._map = self._mapped()

    def _mapped(self) -> Pixels | None:
        """Every byte of the file, mapped; None where the process may not."""
        if not hasattr(os, "preadv"):  # no other way there
            return np.asarray(np.memmap(self._path, np.uint8, mode="r"))
        try:
            return np.asarray(np.memmap(self._path, np.uint8, mode="r"))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
        self._file = os.open(self._path, os.O_RDONLY)
        return None

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("open the store anew in each process")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int | np.integer[Any] | slice | Rows) -> Pixels:
        """One image ``(H, W, 3)``, or several squares ``(n, S, S, 3)``."""
        if isinstance(index, int | np.integer):
            height, width = self.shapes[index].tolist()
            row = int(index) % len(self)
            return self._bytes(int(self._begins[row]), 3 * height * width).reshape(height, width, 3)
        if not self._squares:
            raise TypeError("images of different shapes come one by one")
        rows = np.arange(len(self))[index]
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        self.take(rows, found)
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Pixels:
        """All squares at once, in memory."""
        return self[:]

    def _bytes(self, begin: int, num: int) -> Pixels:
        """Some bytes of the file: mapped, or read."""
        if self._map is not None:
            return self._map[begin : begin + num]
        found = np.empty(num, np.uint8)
        self._read(begin, found.data)
        return found

    def _read(self, begin: int, into: memoryview) -> None:
        """Fill ``into``, which is flat, from the file."""
        done = 0
        while done < len(into):
            num = os.preadv(self._file, [into[done:]], begin + done)
            if not num:
                raise OSError(errno.EIO, "the file was cut off while it was in use", str(self._path))
            done += num

    def take(self, rows: Rows, out: Pixels) -> None:
        """Copy the squares of ``rows`` into ``out``, ``(n, S, S, 3)``."""
        assert self._squares
        if self._map is not None:
            images = self._map[self._begins[0] :].reshape(self.shape)
            np.take(images, rows, axis=0, out=out, mode="clip")
            return
        for place, row in enumerate(rows.tolist()):
            self._read(int(self._begins[row]), out[place].reshape(-1).data)

    def take_crops(self, rows: Rows, corners: Rows, out: Pixels) -> None:
        """Copy a square crop of each of ``rows`` into ``out``.

        Args:
            rows: ``(n,)``.
            corners: ``(n, 2)``, top and left.
            out: ``(n, side, side, 3)``.
        """
        side = out.shape[1]
        for place, (row, (top, left)) in enumerate(zip(rows.tolist(), corners.tolist(), strict=True)):
            width = int(self.shapes[row, 1])
            lines = self._bytes(int(self._begins[row]) + 3 * width * top, 3 * width * side)
            out[place] = lines.reshape(side, width, 3)[:, left : left + side]

    def square(self, row: int) -> Pixels:
        """The middle square of one image."""
        image = self[int(row)]
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        return image[top : top + side, left : left + side]

    def squares(self, rows: Rows) -> Pixels:
        """The middle squares of several images, ``(n, S, S, 3)``."""
        return self[rows] if self._squares else np.stack([self.square(row) for row in rows.tolist()])
