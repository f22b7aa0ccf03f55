"""Where data sets of the ``datasets`` library lie: saved folders, Parquet files, the hub."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ganvas.data.listing import kinds, printable, walk
from ganvas.data.source import LeftOut, listing_digest
from ganvas.data.splits import SPLIT_NAMES
from ganvas.data.store import SPLITS
from ganvas.errors import GanvasError

if TYPE_CHECKING:
    from datasets import Dataset

_OLDEST = 4  # the first major version that runs no code of a data set
_PATIENCE = 10.0  # seconds for the hub's first answer
_MOST_STATE_BYTES = 10_000_000
_HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class Opened:
    """A data set that lies on this disk, memory-mapped."""

    splits: Mapping[str, Dataset]
    about: str
    licence: str
    inside: tuple[Path, ...]
    """The folders that files named in its rows may lie in; relative names begin at the first."""
    left_out: tuple[LeftOut, ...] = ()


def library() -> Any:
    """The ``datasets`` library.

    Raises:
        GanvasError: it is missing, or older than the versions that run no code of a data set.
    """
    try:
        import datasets
    except ImportError:
        raise GanvasError(
            "data set 'huggingface': needs the datasets library: pip install 'ganvas[huggingface]'"
        ) from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        raise GanvasError(
            f"data set 'huggingface': the datasets library is {datasets.__version__}, which may run code of a"
            " data set; pip install --upgrade 'ganvas[huggingface]'"
        )
    return datasets


def open_place(place: str, config: str, revision: str) -> Opened:
    """Open what lies at ``place``, a path or a name on the hub.

    Raises:
        GanvasError: nothing there that can be read.
    """
    library()
    path = Path(place).expanduser()
    if not path.exists():
        return _open_hub(place, config, revision)
    for option, value in (("config", config), ("revision", revision)):
        if value:
            raise GanvasError(
                f"{place}: option {option}={value} is for data sets on the hub; give the very folder instead"
            )
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise GanvasError(
                f"{place}: is no .parquet file; data set 'huggingface' reads those, or a folder"
            )
        return _open_parquet(path.parent, [path.name], ())
    for name in ("dataset_dict.json", "state.json"):
        if (path / name).is_file():
            return _open_saved(path, name)
    listing = walk(path)
    tables = sorted(name for name in listing.files if name.lower().endswith(".parquet"))
    left_out = [each for each in listing.left_out if each.id.lower().endswith(".parquet")]
    if not tables:
        links = f" and {len(left_out):,} links that lead elsewhere" if left_out else ""
        raise GanvasError(
            f"{place}: looked for dataset_dict.json or state.json (as save_to_disk writes them) and for"
            f" *.parquet; found {kinds(listing.files) or 'nothing'}{links}; images with captions beside them"
            " are data set 'folder', tar files 'webdataset'"
        )
    return _open_parquet(path, tables, tuple(left_out))


def _open_saved(root: Path, name: str) -> Opened:
    """A folder that ``save_to_disk`` wrote."""
    folders = {"train": root}
    if name == "dataset_dict.json":
        splits = _read_state(root / name).get("splits")
        if not isinstance(splits, list) or not splits:
            raise GanvasError(f"{root / name}: names no splits; save the data set again")
        folders = {str(split): root / _plain(split, root, root / name) for split in splits}
    states = [folder / "state.json" for folder in folders.values()]
    files = [file for state in states for file in _data_files(state, root)]
    splits = {
        split: _attempt(partial(library().load_from_disk, str(folder), keep_in_memory=False), folder)
        for split, folder in folders.items()
    }
    about = f"saved by the datasets library; listing {listing_digest(root, files, states)}"
    return Opened(splits, about, _licence(splits), (root.resolve(),))


def _data_files(state: Path, root: Path) -> list[str]:
    """The files that a saved data set consists of, relative to ``root``."""
    files = _read_state(state).get("_data_files")
    if not isinstance(files, list) or not files:
        raise GanvasError(f"{state}: names no files; save the data set again")
    names = [file.get("filename") if isinstance(file, dict) else None for file in files]
    return [str((state.parent / _plain(name, root, state)).relative_to(root)) for name in names]


def _read_state(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_STATE_BYTES))
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror}); save the data set again") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise GanvasError(f"{path}: is no JSON object; save the data set again")
    return content


def _plain(name: object, root: Path, said_by: Path) -> str:
    """A name of one file or folder, which lies below ``root`` even where it is a link.

    Raises:
        GanvasError: it leads elsewhere.
    """
    if isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0"):
        path = said_by.parent / name
        if path.resolve().is_relative_to(root.resolve()):
            return name
    shown = printable(name) if isinstance(name, str) else type(name).__name__
    raise GanvasError(
        f"{said_by}: names a file outside of its folder ('{shown}'); do not trust this data set"
    )


def _open_parquet(root: Path, tables: list[str], left_out: tuple[LeftOut, ...]) -> Opened:
    """Parquet files with their split in the name of the file or of a folder; the library converts them."""
    found: dict[str, list[str]] = {}
    for table in tables:
        words = re.split(r"[^a-z]+", table.lower())
        named = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
        found.setdefault(named, []).append(table)
    if len(found) > 1:
        reason = "its name says no split, and those of other files do"
        left_out += tuple(LeftOut(table, reason) for table in found.pop("", ()))
    files = {
        split: [glob.escape(str((root / table).resolve())) for table in found[name]]
        for name, split in [("", "train"), *((split, split) for split in SPLITS)]
        if name in found
    }
    load = partial(library().load_dataset, "parquet", data_files=files, keep_in_memory=False)
    splits = _attempt(load, root)
    about = f"Parquet files; listing {listing_digest(root, tables)}"
    return Opened(splits, about, _licence(splits), (root.resolve(),), left_out)


def _open_hub(place: str, config: str, revision: str) -> Opened:
    """A data set on the hub, downloaded into the library's cache."""
    if not _HUB_NAME.fullmatch(place) or ".." in place:
        raise GanvasError(f"{place}: no such folder, and no name of a data set on the hub (USER/NAME)")
    import huggingface_hub
    from huggingface_hub import constants

    problem = "is no folder here, and cannot be had from the hub; check the name and the network"
    at = revision or None
    if not constants.HF_HUB_OFFLINE:  # else what was downloaded before is used
        # the library would ask again and again before it gives up; this asks once
        ask = partial(huggingface_hub.HfApi().dataset_info, place, revision=at, timeout=_PATIENCE)
        _attempt(ask, place, problem)
    load = partial(library().load_dataset, place, config or None, revision=at, keep_in_memory=False)
    splits = _attempt(load, place, problem)
    # the library's fingerprints come from name, configuration and revision
    digest = hashlib.sha256("".join(rows._fingerprint for rows in splits.values()).encode())
    return Opened(
        splits,
        f"{place} from the Hugging Face hub; {digest.hexdigest()[:12]}",
        _licence(splits),
        (Path(library().config.HF_DATASETS_CACHE).resolve(), Path(constants.HF_HUB_CACHE).resolve()),
    )


def _licence(splits: Mapping[str, Dataset]) -> str:
    return next(iter(splits.values())).info.license or "see the data set's card"


_T = TypeVar("_T")


def _attempt(action: Callable[[], _T], place: object, problem: str = "cannot be read") -> _T:
    """What ``action`` gives.

    Raises:
        GanvasError: it failed. What these libraries raise changes from version to version.
    """
    try:
        return action()
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise GanvasError(f"{place}: {problem} ({reason[:300]})") from None
