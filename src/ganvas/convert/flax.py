"""Flax checkpoints read without Flax: MessagePack with arrays as its extension types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganvas.errors import GanvasError

_ARRAY, _SCALAR = 1, 3  # extension types of flax.serialization; 2 is a complex number
_KINDS = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_DEEPEST = 32  # mappings within each other


def read_flax(path: Path, most: int) -> dict[str, Tensor]:
    """The arrays of a checkpoint, by their names joined with ``/``.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        GanvasError: it cannot be read, is too large, or holds something else; one line.
    """
    try:
        import msgpack
    except ImportError:
        raise GanvasError(
            "reading a Flax checkpoint needs the msgpack package; pip install 'ganvas[flax]'"
        ) from None
    try:
        if path.stat().st_size > most:
            raise GanvasError(f"{path}: larger than {most:,} bytes; it is no checkpoint of a release")
        content = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False)
        tensors = dict(_flattened(content, ()))
    except GanvasError:
        raise
    except FileNotFoundError:
        raise GanvasError(f"{path}: no such file; give the path of a checkpoint") from None
    except Exception as error:  # a damaged file makes the reader trip over anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise GanvasError(f"{path}: cannot be read as a Flax checkpoint ({reason})") from None
    if not tensors:
        raise GanvasError(f"{path}: holds no arrays by name; give a checkpoint of the release")
    return tensors


def _array(code: int, data: bytes) -> Any:
    """One array, or nothing for what is none."""
    import msgpack

    if code not in (_ARRAY, _SCALAR):
        return None
    shape, kind, content = msgpack.unpackb(data, raw=False)
    if kind not in _KINDS:
        return None
    dtype = _KINDS[kind]
    if len(content) != prod(shape) * dtype.itemsize:
        raise ValueError(f"an array {tuple(shape)} of {kind} has {len(content)} bytes")
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).view(shape)


def _flattened(tree: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Names and arrays of a tree; what is neither mapping nor array is left out."""
    if isinstance(tree, Tensor) and above:
        yield "/".join(above), tree
    elif isinstance(tree, Mapping) and len(above) < _DEEPEST:
        for name, below in tree.items():
            yield from _flattened(below, (*above, str(name)))
