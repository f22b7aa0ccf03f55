"""Released checkpoints to model folders: what ``ganvas convert`` does.

A release is a few files. Which file is which part is seen from its keys, so their order and names do not
matter. To add a release, write its table and a ``Release`` beside it, and name it in ``RELEASES``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ganvas.errors import GanvasError, did_you_mean
from ganvas.model_folder import save_model
from ganvas.pipeline import load
from ganvas.recipe import Recipe
from ganvas.systems.base import System
from ganvas.text.encoder import TextEncoder

State: TypeAlias = Mapping[str, Tensor]

# name -> module of ganvas.convert with a RELEASE
RELEASES = {
    "attngan": "attngan",
    "damsm": "damsm_release",
    "stackgan": "stackgan",
    "stackgan-v2": "stackgan_v2",
    "xmcgan": "xmcgan",
}
MAX_BYTES = 4_000_000_000
_WRAPPERS = ("netG", "netD", "state_dict", "model")
_VOCABULARY = (".pickle", ".pkl")


@dataclass(frozen=True)
class Part:
    """One file of a release."""

    name: str
    """What it is called in messages: ``generator``."""
    mark: str
    """A regular expression: a key of this part matches it, and none of any other part."""
    needed: bool = True


@dataclass(frozen=True)
class Given:
    """What the user gave, read."""

    states: Mapping[str, State]
    """The tensors of each part that is there."""
    vocabulary: Mapping[str, int] | None
    """Word to number, of a ``captions.pickle``."""
    text_encoder: TextEncoder | None
    """That of another model, for releases that have none."""


@dataclass(frozen=True)
class Converted:
    """A release as ours."""

    system: System
    recipe: Recipe
    warning: str = ""
    """One line for the user about what the release lacks."""


@dataclass(frozen=True)
class Release:
    """One official release."""

    name: str
    parts: Sequence[Part]
    build: Callable[[Given], Converted]
    read: Callable[[Path], Mapping[str, Tensor]] | None = None
    """Reads one of its files; by default they are PyTorch's."""
    vocabulary: bool = False
    """It needs the ``captions.pickle`` that its words were numbered by."""


def find_release(name: str) -> Release:
    """The release called ``name``.

    Raises:
        GanvasError: there is none.
    """
    if name not in RELEASES:
        raise GanvasError(f"no release '{name}'; {did_you_mean(name, RELEASES)}")
    release: Release = import_module(f"ganvas.convert.{RELEASES[name]}").RELEASE
    return release


def convert_files(name: str, files: Sequence[Path], out: Path, text_from: Path | None = None) -> Converted:
    """Turn the files of a release into a model folder.

    Args:
        name: of the release.
        files: its checkpoints, in any order, and ``captions.pickle`` where it needs one.
        out: the folder; it must not exist yet.
        text_from: a run or model whose text encoder reads the captions, for releases that have none.

    Raises:
        GanvasError: no such release, a file that is none of it or cannot be read, or one that is missing; one
        line. Nothing is written then.
    """
    release = find_release(name)
    if out.exists():
        raise GanvasError(f"{out}: exists; choose another folder with --out")
    if release.vocabulary and text_from is not None:
        raise GanvasError(f"{release.name}: has a text encoder of its own; leave --text out")
    given = Given(
        states=_states(release, [path for path in files if path.suffix not in _VOCABULARY]),
        vocabulary=_vocabulary(release, [path for path in files if path.suffix in _VOCABULARY]),
        text_encoder=None if text_from is None else load(text_from, device="cpu").system.text_encoder,
    )
    converted = release.build(given)
    _write(converted, out, {path.name: _digest(path) for path in files})
    return converted


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file. Nothing in it is run.

    Raises:
        GanvasError: it cannot be read, is too large, or holds something else; one line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GanvasError(f"{path}: larger than {MAX_BYTES:,} bytes; it is no checkpoint of a release")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except GanvasError:
        raise
    except FileNotFoundError:
        raise GanvasError(f"{path}: no such file; give the path of a checkpoint") from None
    except Exception as error:  # a damaged file makes the reader trip over anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if "Unpickling" in reason:
            reason = "it is no PyTorch file, or wants more than tensors to be made"
        raise GanvasError(f"{path}: cannot be read as weights ({reason}); download it again") from None
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, also where it is wrapped in another."""
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    raise GanvasError(f"{path}: holds no tensors by name; give a checkpoint of the release")


def _states(release: Release, files: Sequence[Path]) -> dict[str, State]:
    """The tensors of each part, by what the keys say."""
    states: dict[str, State] = {}
    for path in files:
        state = (release.read or read_state)(path)
        part = _part(release, state, path)
        if part in states:
            raise GanvasError(f"{path}: is a second {part}; give each part once")
        states[part] = state
    missing = [part.name for part in release.parts if part.needed and part.name not in states]
    if missing:
        raise GanvasError(f"{release.name}: the {missing[0]} is missing; give its file too")
    return states


def _part(release: Release, state: Iterable[str], path: Path) -> str:
    """Which part a file is."""
    keys = list(state)
    for part in release.parts:
        if any(re.fullmatch(part.mark, key.removeprefix("module.")) for key in keys):
            return part.name
    names = ", ".join(part.name for part in release.parts)
    raise GanvasError(
        f"{path}: is no part of {release.name} (it begins with '{keys[0]}'); its parts are: {names}"
    )


def _vocabulary(release: Release, files: Sequence[Path]) -> Mapping[str, int] | None:
    from ganvas.data.reed import released_vocabulary

    if not release.vocabulary:
        if files:
            raise GanvasError(f"{files[0]}: {release.name} needs no vocabulary; leave it out")
        return None
    if len(files) != 1:
        raise GanvasError(
            f"{release.name}: give the captions.pickle that came with its data, for the vocabulary"
            f" ({len(files)} given)"
        )
    return released_vocabulary(files[0])


def _write(converted: Converted, out: Path, files: Mapping[str, str]) -> None:
    """Write the model aside, open it, and rename it: a folder that exists is whole."""
    part = out.absolute().with_name(f".{out.absolute().name}.partial")
    if not out.absolute().parent.is_dir():
        raise GanvasError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    try:
        shutil.rmtree(part, ignore_errors=True)
        save_model(converted.system, converted.recipe, part, {}, converted_from=files, note=converted.warning)
        load(part, device="cpu")
        part.rename(out)
    except OSError as error:
        raise GanvasError(f"{out}: cannot write here ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
