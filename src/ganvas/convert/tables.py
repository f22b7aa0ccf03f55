"""The machinery under every conversion: a table of key patterns, applied and checked key by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError

_COUNTER = "num_batches_tracked"  # missing from the files of PyTorch 0.3


@dataclass(frozen=True)
class Rule:
    """What becomes of the keys of one kind."""

    source: str
    """A regular expression that a whole key of the release matches."""
    target: str | None
    """Our key, with ``\\1`` for groups of ``source``; None leaves the tensor out."""
    transform: Callable[[Tensor], Tensor] | None = None
    """What is done to the tensor, such as a transposition or taking one part."""


@dataclass(frozen=True)
class Table:
    """One official release.

    A key that several rules match goes to all of their targets: that is how one tensor is split into several.
    """

    name: str
    """How errors call the release."""
    rules: tuple[Rule, ...]
    prefix: str = "module."
    """Dropped from keys, where it is there: what wrapping a module for several devices left behind."""


def convert(table: Table, state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official release under our keys.

    Args:
        table: the release.
        state: its tensors by their keys.
        ours: ``state_dict`` of the module that will take them: the keys and shapes that must come out. Meta
            tensors will do.

    Raises:
        GanvasError: a key that the release does not have, one that is missing, or a wrong shape; one line
            that names the first such key.
    """
    converted: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for key, tensor in state.items():
        for target, value in _apply(table, key, tensor):
            if target not in ours:
                raise _error(table, f"'{key}' has no place in a model of these settings")
            if target in converted:
                raise _error(table, f"'{sources[target]}' and '{key}' both give '{target}'")
            if value.shape != ours[target].shape:
                needed = _shape(ours[target])
                raise _error(table, f"'{key}' has the shape {_shape(tensor)}; '{target}' needs {needed}")
            converted[target], sources[target] = value.contiguous(), key
    for target, tensor in ours.items():
        if target not in converted and target.endswith(_COUNTER):
            converted[target] = torch.zeros_like(tensor, device="cpu")
    missing = [target for target in ours if target not in converted]
    if missing:
        raise _error(table, f"'{missing[0]}' is missing{_and_more(missing)}")
    return converted


def load(table: Table, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Convert ``state`` and load it into ``module``; errors as for ``convert``."""
    module.load_state_dict(convert(table, state, module.state_dict()))


def shape_of(table: Table, state: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of one tensor of the release, from which a conversion reads the model's widths.

    Raises:
        GanvasError: the key is missing, or has not so many dimensions.
    """
    tensor = state.get(key, state.get(table.prefix + key))
    if tensor is None:
        raise _error(table, f"'{key}' is missing")
    if tensor.ndim != dimensions:
        raise _error(table, f"'{key}' has the shape {_shape(tensor)}, it needs {dimensions} dimensions")
    return tuple(tensor.shape)


def _apply(table: Table, key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Every target of one tensor, with its value."""
    if not isinstance(tensor, Tensor):
        raise _error(table, f"'{key}' holds a {type(tensor).__name__}, not a tensor")
    name, known, results = key.removeprefix(table.prefix), False, []
    for rule in table.rules:
        match = re.fullmatch(rule.source, name)
        if match is None:
            continue
        known = True
        if rule.target is not None:
            try:
                value = tensor if rule.transform is None else rule.transform(tensor)
            except (IndexError, RuntimeError):
                problem = f"'{key}' has the shape {_shape(tensor)}, which is none of its"
                raise _error(table, problem) from None
            results.append((match.expand(rule.target), value))
    if not known:
        raise _error(table, f"'{key}' is no key of this release")
    return results


def _error(table: Table, problem: str) -> GanvasError:
    return GanvasError(f"{table.name}: {problem}; check that file and settings belong to this release")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
