"""Parity pairs: what official implementations compute, and the rule that makes their weights and inputs."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class PairError(Exception):
    """A pair that cannot be read or run; one line."""


def seeded(name: str, shape: Sequence[int]) -> np.ndarray:
    """Normal float32 numbers that depend on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """The weight called ``key``; with slashes it is one of Flax."""
    if "/" in key:
        return flax_weight(key, shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    x = seeded(key, shape)
    if leaf == "running_var":
        return np.exp(np.float32(0.1) * x)
    if leaf == "running_mean" or leaf.startswith("bias"):
        return np.float32(0.1) * x
    if len(shape) <= 1:
        return 1 + np.float32(0.1) * x
    return x * np.float32(np.sqrt(1 / np.prod(shape[1:])))


def flax_weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """The weight called ``key`` of a Flax model; kernels end in the side of the outputs."""
    leaf, x = key.rsplit("/", 1)[-1], seeded(key, shape)
    if leaf == "var":
        return np.exp(np.float32(0.1) * x)
    if leaf in ("mean", "bias"):
        return np.float32(0.1) * x
    if leaf == "u0":
        return x
    return x * np.float32(np.sqrt(1 / np.prod(shape[:-1])))


_INPUT = re.compile(r"(?:(tanh|sigmoid) of the |([\d.]+) x )?rule (?:at )?\[([\d, ]+)\]")
_SQUASH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def tensor(name: str, how: Any) -> Tensor:
    """The input called ``name``; ``how`` is its shape, or a remark such as ``0.3 x rule [5,256]``."""
    if not isinstance(how, str):
        return torch.from_numpy(seeded(f"input:{name}", how))
    match = _INPUT.fullmatch(how)
    if match is None:
        raise PairError(f"input '{name}': cannot read the remark '{how}'")
    squash, scale, shape = match.groups()
    x = seeded(f"input:{name}", [int(side) for side in shape.split(",")])
    if scale:
        x = x * np.float32(scale)
    return torch.from_numpy(_SQUASH[squash](x) if squash else x)


@dataclass(frozen=True)
class Pair:
    """One pair, read."""

    about: Mapping[str, Any]
    """The JSON."""
    stored: Mapping[str, np.ndarray]
    """The official outputs."""

    @classmethod
    def read(cls, path: Path) -> Pair:
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                return cls(about, dict(arrays))
        except (OSError, ValueError) as error:
            raise PairError(f"cannot be read ({error})") from None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.about.get("config", {})

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self.about["inputs"]

    def weights(self, module: str | None = None) -> dict[str, Tensor]:
        """The official weights, of one ``module`` where a pair has several."""
        keys = self.about["keys"] if module is None else self.about["keys"][module]
        return {key: torch.from_numpy(np.asarray(weight(key, shape))) for key, shape in keys.items()}

    def input(self, name: str) -> Tensor:
        """An input that the rule makes."""
        return tensor(name, self.inputs[name])

    def errors(self, outputs: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
        """Every official output and how far ours is from it; infinite where ours is missing or misshapen."""
        for name, form in self.about.get("outputs", {}).items():
            yield name, _error(outputs.get(name), self.stored[name], form)
        for name, value in (self.about.get("expected") or {}).items():
            yield name, _error(outputs.get(name), np.asarray(value), {"shape": [], "stride": 1})


def _error(ours: Tensor | None, official: np.ndarray, form: Mapping[str, Any]) -> float:
    if ours is None or list(ours.shape) != form["shape"]:
        return np.inf
    values = ours.detach().double().numpy()
    stride = form["stride"]
    if stride > 1:
        channels_last = official.shape[-1] == values.shape[-1]
        values = values[:, ::stride, ::stride] if channels_last else values[..., ::stride, ::stride]
    if values.shape != official.shape:
        return np.inf
    error = np.abs(values - official).max() / max(float(np.abs(official).max()), 1e-12)
    return float(error) if np.isfinite(error) else np.inf


Run = Callable[[Pair], Mapping[str, Tensor]]
SYSTEMS: dict[str, Run] = {}


def system(begins: str) -> Callable[[Run], Run]:
    """Register how pairs are run whose ``system`` begins with ``begins``."""

    def register(run: Run) -> Run:
        SYSTEMS[begins] = run
        return run

    return register
