"""What a pickle may ask for by name, and the arrays made of it without NumPy's own unpickling."""

from __future__ import annotations

import math
import re
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_SIDE = 1 << 16  # of an array without elements, which costs no memory however long it says it is
_DTYPES = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}")


class Damaged(ValueError):
    """What the file holds makes no sense; the text says why."""


class Name(Enum):
    """What a file may ask for by name."""

    RECONSTRUCT = auto()
    SCALAR = auto()
    FROM_BUFFER = auto()
    ARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    BYTES = auto()


NAMES = {
    **{f"numpy.{core}.multiarray._reconstruct": Name.RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Name.SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Name.FROM_BUFFER for core in ("core", "_core")},
    "numpy.ndarray": Name.ARRAY,
    "numpy.dtype": Name.DTYPE,
    "_codecs.encode": Name.ENCODE,
    "__builtin__.bytes": Name.BYTES,
    "builtins.bytes": Name.BYTES,
}


class Dtype:
    """A plain element type, whose byte order follows in a step of its own."""

    def __init__(self, code: object) -> None:
        if not (isinstance(code, str) and _DTYPES.fullmatch(code)):
            raise Damaged(f"an array of dtype {shown(code)}; only plain numbers, truth values and text")
        self.dtype = np.dtype(code)

    def build(self, state: object) -> None:
        """Set the byte order."""
        if not (isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None, None, None)):
            raise Damaged("an array with fields, a sub-array or metadata in its dtype")
        order, size = state[1], state[5]
        if order not in ("<", ">", "=", "|") or size not in (-1, self.dtype.itemsize):
            raise Damaged("a dtype that contradicts itself")
        # "|" is what has no order; newbyteorder leaves that alone
        self.dtype = self.dtype.newbyteorder(order)


class Pending:
    """An array whose shape and elements follow in a step of its own."""

    def __init__(self) -> None:
        self.array: npt.NDArray[Any] | None = None

    def build(self, state: object) -> None:
        """Fill it."""
        if self.array is not None:
            raise Damaged("an array that is filled twice")
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Damaged("an array with an unknown state")
        _, shape, dtype, fortran, elements = state
        self.array = _array(elements, dtype, shape, "F" if fortran else "C")


def made(name: Name, arguments: tuple[Any, ...]) -> object:
    """What comes of calling one of the names in the table."""
    match name, arguments:
        case Name.RECONSTRUCT, (Name.ARRAY, (0,), "b" | b"b"):
            return Pending()
        case Name.DTYPE, (code, 0 | 1, 0 | 1):
            return Dtype(code)
        case Name.SCALAR, (Dtype() as dtype, elements):
            return _array(elements, dtype, (), "C").item()
        case Name.FROM_BUFFER, (elements, dtype, shape, "C" | "F" as order):
            return _array(elements, dtype, shape, order)
        case Name.ENCODE, (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
        case Name.BYTES, ():
            return b""
    raise Damaged(f"unexpected arguments of {name.name.lower()}")


def _array(elements: object, dtype: object, shape: object, order: str) -> npt.NDArray[Any]:
    """An array of its raw elements, checked: nothing is allocated that the file did not bring."""
    if isinstance(elements, str):
        elements = elements.encode("latin-1")  # as the strings of Python 2 were read
    if not (isinstance(elements, bytes) and isinstance(dtype, Dtype) and isinstance(shape, tuple)):
        raise Damaged("an array with an unknown state")
    longest = max(len(elements), _MAX_SIDE)
    if len(shape) > 32 or not all(type(side) is int and 0 <= side <= longest for side in shape):
        raise Damaged("an array of an impossible shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(elements):
        raise Damaged("an array with too many or too few elements")
    flat = np.frombuffer(elements, dtype.dtype) if elements else np.empty(0, dtype.dtype)
    if dtype.dtype.kind == "b" and flat.view("u1").max(initial=0) > 1:
        raise Damaged("truth values other than 0 and 1")
    if dtype.dtype.kind == "U" and flat.view(dtype.dtype.byteorder + "u4").max(initial=0) > 0x10FFFF:
        raise Damaged("characters that there are not")
    return flat.reshape(shape, order="F" if order == "F" else "C")


def shown(value: object) -> str:
    """A value for an error: one line of printable characters, not too long."""
    if not isinstance(value, str | bytes):
        return f"<{type(value).__name__}>"
    return ascii(value) if len(value) <= 100 else f"{value[:100]!a}..."
