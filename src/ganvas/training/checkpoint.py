"""Checkpoints: safetensors and JSON in a folder, written aside, synced, then renamed.

A checkpoint that has its name is whole: the folder is renamed only after every byte is on disk, and
``manifest.json`` holds the SHA-256 of each file, so a truncated or edited one is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganvas.errors import GanvasError, RunStopped

Tensors = Mapping[str, Tensor]
_PARTIAL = ".partial"
_NAME = re.compile(r"(\d+)-.+-(\d+)")
_ALWAYS = {"system.safetensors", "average.safetensors", "state.json"}


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write one checkpoint.

    Args:
        folder: where, called ``PHASE_NUMBER-PHASE-STEP``; its parent must exist or be creatable.
        tensors: file name (without ending) to named tensors.
        state: plain values, written as ``state.json``.

    Raises:
        RunStopped: the disk is full, or not writable; nothing is left behind.
    """
    assert _NAME.fullmatch(folder.name), folder.name
    part = folder.with_name(folder.name + _PARTIAL)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        sums = {}
        for name, group in tensors.items():
            sums[f"{name}.safetensors"] = _write(part / f"{name}.safetensors", save(_plain(group)))
        sums["state.json"] = _write(part / "state.json", json.dumps(state).encode())
        _write(part / "manifest.json", json.dumps(sums, indent=2).encode())
        _sync_folder(part)
        if folder.exists():
            _remove(folder)
        part.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunStopped(
            f"{folder}: this checkpoint could not be written ({in_words(error)}); {_still_there(folder)}"
        ) from None


def check_finite(tensors: Mapping[str, Tensors], where: str) -> None:
    """Stop the run if anything that a checkpoint would hold is not finite.

    Raises:
        RunStopped: names the tensor, after ``where``.
    """
    for group, members in tensors.items():
        for name, value in members.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise RunStopped(f"{where}: {group} '{name}' is not finite")


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint: its groups of tensors, and its state.

    Raises:
        GanvasError: a file is missing, truncated or was changed.
    """
    try:
        sums = _read_sums(folder)
        state = json.loads((folder / "state.json").read_bytes())
        groups = {Path(name).stem: load_file(folder / name) for name in sums if name.endswith(".safetensors")}
    except GanvasError:
        raise
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise GanvasError(
            f"{folder}: is no whole checkpoint ({error}); remove it to go on from an older one"
        ) from None
    return groups, state


def _read_sums(folder: Path) -> dict[str, str]:
    """The manifest, once every file that it lists has been found to be as it was saved."""
    sums = json.loads((folder / "manifest.json").read_bytes())
    if not isinstance(sums, dict) or not sums.keys() >= _ALWAYS or any(Path(n).name != n for n in sums):
        raise ValueError("manifest.json does not list its files")
    for name, expected in sums.items():
        if _digest((folder / name).read_bytes()) != expected:
            raise GanvasError(
                f"{folder / name}: truncated or changed since it was saved; remove {folder} to go on"
                " from an older checkpoint"
            )
    return sums


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints under ``folder``, oldest first; leftovers of interrupted writes are not among
    them.
    """
    if not folder.is_dir():
        return []
    found = [(match, p) for p in folder.iterdir() if p.is_dir() and (match := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]


def checkpoint_number(folder: Path) -> int:
    """The phase's number in a checkpoint's name."""
    return int(folder.name.split("-", 1)[0])


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and leftovers of interrupted writes."""
    for old in list_checkpoints(folder)[:-keep]:
        with contextlib.suppress(OSError):  # one too many does no harm
            _remove(old)
    for part in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(part, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: ``"3.exp_avg"`` belongs to its fourth parameter."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what ``optimizer_tensors`` gave, each moment in the memory layout of its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in tensors.items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        if value.dim() > 0:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        elif key != "step" or optimizer.defaults.get("fused"):
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content`` at once: after a crash it holds the old bytes or the new ones."""
    part = path.with_name(path.name + _PARTIAL)
    try:
        _write(part, content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunStopped(f"{path}: could not be written ({in_words(error)})") from None


def in_words(error: OSError) -> str:
    """Why something could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"the disk is full: {error.strerror}" if full else str(error.strerror or error)


def _remove(folder: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that half of it is never taken for a whole one."""
    doomed = folder.with_name(f"{folder.name}.old{_PARTIAL}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _plain(group: Tensors) -> dict[str, Tensor]:
    """What safetensors takes: contiguous, on the CPU, no two names for one memory."""
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in group.items()}


def _write(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return _digest(content)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _still_there(folder: Path) -> str:
    older = [other for other in list_checkpoints(folder.parent) if other != folder]
    if not older:
        return "there is no earlier one"
    return f"the last good one is {older[-1]}"
