"""Lists of whole numbers out of MATLAB files of version 5, within bounds.

Only what such lists need is read: numeric matrices at the top of the file, compressed or not. SciPy reads
much more, but a damaged file may crash the process there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ganvas.errors import GanvasError

MAX_BYTES = 1 << 18
"""A larger file is refused; a list of 8,189 numbers takes less than a tenth of it."""

_MAX_UNPACKED_BYTES = 1 << 20
_HEADER_BYTES = 128
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)
_LARGEST = 1e9


def read_whole_numbers(path: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """The variables called ``names``, each a list, by columns where it is a matrix.

    Raises:
        GanvasError: it is no such file, damaged, or lacks one of them.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    order = _ORDERS.get(content[_HEADER_BYTES - 4 : _HEADER_BYTES])
    if len(content) > MAX_BYTES or order is None:
        raise GanvasError(f"{path}: is no MATLAB file of version 5 with at most {MAX_BYTES:,} bytes")
    try:
        found = {
            name: numbers for name, numbers in _variables(content[_HEADER_BYTES:], order) if name in names
        }
    except (ValueError, struct.error, zlib.error):
        raise GanvasError(f"{path}: is damaged; download it again") from None
    for name in names:
        if not found.get(name):
            raise GanvasError(f"{path}: has no list of whole numbers '{name}'; download it again")
    return {name: found[name] for name in names}


def _variables(content: bytes, order: str) -> Iterator[tuple[str, list[int]]]:
    """Name and numbers of each variable; no numbers where it is something else."""
    for kind, data in _elements(content, order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, _MAX_UNPACKED_BYTES)
            if not unpacker.eof:
                raise ValueError("too long, or cut short")
            kind, data = next(_elements(data, order), (0, b""))
        if kind == _MATRIX:
            yield _matrix(data, order)


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The elements of which everything is made: a kind and its bytes."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if kind >> 16:  # of at most four bytes, within the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
        else:
            at = start + size
            if kind != _COMPRESSED:
                at += -size % 8
        if start + size > len(content):
            raise ValueError("cut short")
        yield kind, content[start : start + size]


def _matrix(content: bytes, order: str) -> tuple[str, list[int]]:
    (_, flags), _, (_, name), *parts = _elements(content, order)
    flag = struct.unpack_from(f"{order}I", flags)[0]
    kind, data = parts[0] if len(parts) == 1 else (0, b"")  # complex numbers have two
    if flag & 0xFF not in _NUMERIC_CLASSES or kind not in _NUMBERS:
        return name.decode("latin-1"), []
    with np.errstate(invalid="ignore"):
        numbers = np.frombuffer(data, np.dtype(order + _NUMBERS[kind])).astype(np.float64)
        whole = (np.abs(numbers) <= _LARGEST).all() and (numbers == np.round(numbers)).all()
    return name.decode("latin-1"), [int(number) for number in numbers] if whole else []
