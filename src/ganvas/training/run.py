"""A run folder: where everything of one training run lies."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ganvas import __version__
from ganvas.data.store import Store
from ganvas.data.stream_index import ShardStream
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe, resolve
from ganvas.strict_yaml import read_yaml
from ganvas.training.checkpoint import in_words, list_checkpoints, write_atomically
from ganvas.training.device import choose_device, machine_of
from ganvas.training.feeding import Data, open_stream, training_captions


@dataclass(frozen=True)
class Run:
    """The paths of a run."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where sample sheets lie."""
        return self.folder / "samples"

    @property
    def model(self) -> Path:
        """The folder that users keep."""
        return self.folder / "model"

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None


def open_run(folder: Path, recipe: Recipe, store: Data) -> Run:
    """Make a run folder, or open it again if it belongs to the same recipe and data.

    Raises:
        GanvasError: the folder belongs to something else, or cannot be written.
    """
    run = Run(folder)
    if (folder / "run.json").is_file():
        _refuse_other(run, recipe, store)
        return run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GanvasError(f"{folder}: exists and is no run; choose another folder with --out")
    about = {
        "ganvas": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine_of(choose_device(recipe.training.device), recipe.training.num_devices),
        "seed": recipe.training.seed,
        "data": {"name": store.info.name, "size": store.info.size, "fingerprint": store.info.fingerprint},
    }
    _make(run, recipe.to_yaml(), json.dumps(about, indent=2) + "\n")
    return run


def _make(run: Run, recipe: str, about: str) -> None:
    """Make the folder aside and rename it, so that a run folder that exists is whole."""
    part = run.folder.absolute().with_name(f".{run.folder.absolute().name}.partial")
    try:
        shutil.rmtree(part, ignore_errors=True)
        for inner in (run.samples, run.checkpoints):
            (part / inner.name).mkdir(parents=True)
        write_atomically(part / "recipe.yaml", recipe)
        write_atomically(part / "run.json", about)
        if run.folder.exists():
            run.folder.rmdir()  # empty: not every system renames over it
        part.rename(run.folder)
    except OSError as error:
        raise GanvasError(f"{run.folder}: cannot write here ({in_words(error)})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run.

    Raises:
        GanvasError: there is none, or it is no longer valid.
    """
    try:
        tree = read_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GanvasError(f"{folder}: recipe.yaml cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise GanvasError(f"{folder}: recipe.yaml holds no recipe; it was changed since the run began")
    return resolve(tree)


EMBEDDED = "emoji"
"""The data set that needs no files of the user."""

# What may change between a run and its continuation without making it another run.
_FREE = {
    "device",
    "num_devices",
    "compile",
    "log_every",
    "sample_every",
    "samples",
    "save_every",
    "keep",
    "images",
    "seconds",
}


def _refuse_other(run: Run, recipe: Recipe, store: Data) -> None:
    """A run goes on only with its own recipe and data; longer budgets and logging are free."""
    old, new = _plain(read_recipe(run.folder)), _plain(recipe)
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise GanvasError(
                f"{run.folder}: this run has {key}={old.get(key)!r}, now asked for {new.get(key)!r};"
                " choose another folder with --out, or the run's own recipe"
            )
    if _fingerprint(run.folder / "run.json") != store.info.fingerprint:
        raise GanvasError(
            f"{run.folder}: this run was trained on other data than {store.path} holds; choose another folder"
            " with --out"
        )


def _fingerprint(facts: Path) -> str:
    """That of the data that a run was begun with."""
    try:
        return str(json.loads(facts.read_bytes())["data"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GanvasError(
            f"{facts}: was changed or damaged since the run began ({type(error).__name__}: {error})"
        ) from None


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dotted keys, without those that may change."""
    flat: dict[str, Any] = {}

    def walk(tree: dict[str, Any], head: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                walk(value, f"{head}{key}.")
            else:
                flat[head + key] = list(value) if isinstance(value, tuple) else value

    tree = recipe.to_dict()
    tree["training"] = {k: v for k, v in tree["training"].items() if k not in _FREE}
    del tree["name"], tree["about"], tree["variants"]
    walk(tree, "")
    return flat


def text_material(recipe: Recipe, store: Data) -> dict[str, Any]:
    """What a fresh text encoder is made from: captions, or the files of a vocabulary that came with the data.

    Raises:
        GanvasError: the recipe asks for such a vocabulary, and the data have none.
    """
    if recipe.text is None:
        return {}
    wanted = getattr(recipe.text, "vocabulary", "train")
    if wanted == "imported":
        from ganvas.text.bilstm import imported_vocabulary

        if isinstance(store, ShardStream) or store.vocabulary is None:
            raise GanvasError(
                f"{store.path}: came without the vocabulary that text.vocabulary=imported asks for; prepare"
                " it from a folder with captions.pickle, or choose text.vocabulary=all"
            )
        return {"files": imported_vocabulary(recipe.text, store.vocabulary)}
    if wanted == "train" or isinstance(store, ShardStream):
        return {"captions": training_captions(store)}
    return {"captions": [caption for row in store.captions for caption in row]}


def recipe_store(recipe: Recipe, folder: Path | None) -> Data:
    """The prepared data that a recipe asks for.

    Args:
        recipe: names the set, its size and options.
        folder: where it was prepared, or its shards indexed; without it, it is prepared under ``data/``.

    Raises:
        GanvasError: there is no prepared set, or it is another one.
    """
    from ganvas.data.prepare import prepare
    from ganvas.data.source import find_source

    data = recipe.data
    size = data.stored_size or data.image_size
    how = f"--size {data.image_size} --like {data.like}" if data.like else f"--size {size}"
    if folder is None:
        find_source(data.set)
        if data.set != EMBEDDED:
            raise GanvasError(
                f"recipe {recipe.name}: say with --data where its images are prepared; prepare them with"
                f" 'ganvas data prepare {data.set} SOURCE --out DIR {how}'"
            )
        folder = Path("data") / "-".join([data.set, str(size), *data.options.values()])
        prepare(data.set, folder, size=size, options=data.options)
    if stream := open_stream(data, folder):
        if stream.info.size < size:
            raise GanvasError(
                f"{folder}: streams images of {stream.info.size} px, but the recipe asks for {size} px;"
                f" index the shards with size {size}"
            )
        return stream
    store = Store(folder)
    like = store.info.options.get("like")
    if data.like not in (None, like):
        prepared = f"prepared like {like}" if like else "not prepared like a paper"
        raise GanvasError(
            f"{folder}: is {prepared}, but the recipe has data.like={data.like}; prepare it with {how}"
        )
    if store.info.size < size:
        raise GanvasError(
            f"{folder}: holds images of {store.info.size} px, but the recipe asks for {size} px;"
            f" prepare it with {how}"
        )
    return store
