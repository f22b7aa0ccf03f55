"""Recipes: a system, its data and its settings, read from YAML and checked.

A recipe that ships is named (``gan-int-cls-emoji``); any other is a path to a YAML file. ``base: NAME``
starts from another recipe. Overrides on the command line are ``dotted.key=value``. A recipe resolves to one
frozen ``Recipe``, which is saved with the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from ganvas.errors import GanvasError, did_you_mean
from ganvas.strict_yaml import read_yaml

if TYPE_CHECKING:
    from ganvas.systems.base import System


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which prepared data, and how batches are drawn from them."""

    set: str = "emoji"
    """Name of the data set, as ``ganvas data prepare`` knows it."""
    image_size: int = 64
    """Side of the images that the system sees and generates, pixels: 16 to 256, a power of two."""
    like: str | None = None
    """Pre-processing of a paper, as in ``ganvas data prepare --like``: what the recipe does not say about
    stored size, captions, mismatched pairs and words is then what the paper does."""
    stored_size: int | None = None
    """Side of the prepared images, where larger: a random crop is taken (76 for 64 in the papers). Of images
    that were prepared larger still, a crop in this proportion is taken and scaled."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of ``ganvas data prepare``, such as ``language``."""
    flip: float = 0.5
    """Probability of a horizontal flip, 0 to 1."""
    captions: int = 1
    """Captions of an image whose sentence vectors are averaged (GAN-INT-CLS: 4 for CUB, 3 for COCO)."""
    replacement: bool = False
    """Those captions may repeat."""
    balanced: bool = False
    """Draw the class first, then an image within it."""
    mismatch: Literal["class", "image"] = "class"
    """Mismatched pairs come from another class, or from any other image."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long, how fast, and what is written meanwhile."""

    images: dict[str, int]
    """Budget of each phase in images seen, by the phase's name; 0 leaves the phase out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Phases that end after so much training even if their images are not all seen, by name; they end where a
    row of the log is due."""
    batch_size: int = 64
    """Images a step, over all ranks."""
    batch_sizes: dict[str, int] = field(default_factory=dict)
    """The same for single phases, by name, where it differs."""
    encoders: str | None = None
    """A run or model folder whose encoders are taken over as they are: text encoder and vocabulary, and that
    of images where both have DAMSM. Phases that train the text encoder are then left out."""
    seed: int = 0
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""
    num_devices: int = 1
    """Processes, one device each."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 where the device computes with it faster."""
    channels_last: bool = True
    """Memory layout of images and convolutions."""
    compile: bool = False
    """``torch.compile`` the networks; worth a try on a GPU, slower on a CPU."""
    ema_half_life: int = 10_000
    """Half-life of the generator's moving average, images; 0 turns averaging off."""
    log_every: int = 20
    """Steps between rows of the log."""
    sample_every: int = 20_000
    """Images between sample sheets, the first three at an eighth, a quarter and half of it; 0 is none."""
    samples: int = 8
    """Captions on a sample sheet."""
    save_every: int = 20_000
    """Images between checkpoints; one is always written at the end of a phase."""
    keep: int = 2
    """Checkpoints kept; older ones are removed."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run is made from."""

    name: str
    about: str
    """One sentence for people."""
    system: str
    data: DataSettings
    text: Any
    """Settings of a text encoder: one of those that ``ganvas.text`` knows. None for a system that reads no
    captions."""
    settings: Any
    """Settings of the system."""
    training: TrainingSettings
    variants: dict[str, list[str]] = field(default_factory=dict)
    """What ``ganvas ablate`` trains beside the recipe itself: a name and overrides for each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML file."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The whole resolved recipe as YAML."""
        plain = json.loads(json.dumps(self.to_dict()))
        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        return text


def list_recipes() -> dict[str, str]:
    """The recipes that ship: name to one sentence about it."""
    return {name: _read_shipped(name).get("about", "") for name in _shipped()}


@cache
def _shipped() -> tuple[str, ...]:
    names = (entry.name for entry in files("ganvas.recipes").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _read_shipped(name: str) -> dict[str, Any]:
    return _parse((files("ganvas.recipes") / f"{name}.yaml").read_text(encoding="utf-8"), name)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        source: the name of a recipe that ships, or a path to a YAML file.
        overrides: ``dotted.key=value`` each; values are YAML.

    Raises:
        GanvasError: no such recipe, an unknown key, a wrong type, an impossible combination; one line that
        names
            the key, the value, and the nearest right spelling.
    """
    tree = _read(source, seen=())
    for override in overrides:
        _apply(tree, override)
    return resolve(tree)


def _read(source: str | Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """The tree of a recipe with its bases merged in."""
    name = str(source)
    if name in seen:
        raise GanvasError(f"recipe {name}: its bases go round in a circle ({' -> '.join([*seen, name])})")
    tree = {"name": name, **_read_shipped(name)} if name in _shipped() else _read_file(Path(source))
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise GanvasError(f"recipe {name}: base: {base!r} is not the name of a recipe")
    if base not in _shipped():
        beside = Path(source).parent / base
        if not _is_file(beside):
            near = did_you_mean(base, _shipped())
            raise GanvasError(
                f"recipe {name}: base: '{base}' is neither a file nor a recipe that ships; {near}"
            )
        base = str(beside)
    return _merge(_read(base, (*seen, name)), tree)


def _read_file(path: Path) -> dict[str, Any]:
    if not _is_file(path):
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise GanvasError(f"recipe {path}: no such file")
        raise GanvasError(f"no recipe '{path}'; {did_you_mean(str(path), _shipped())}")
    if path.stat().st_size > 1_000_000:
        raise GanvasError(f"recipe {path}: larger than 1 MB, so it is no recipe")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GanvasError(f"recipe {path}: cannot be read ({error})") from None
    return {"name": path.stem, **_parse(text, str(path))}


def _is_file(path: Path) -> bool:
    """False too for what is no possible name of a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise GanvasError(f"recipe {name}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise GanvasError(f"recipe {name}: must be a mapping with the keys {', '.join(_keys(Recipe))}")
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping) and _same_encoder(below, value)
        merged[key] = _merge(cast(Mapping[str, Any], below), value) if nested else value
    return merged


def _same_encoder(below: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """False where ``over`` chooses another text encoder, to which the settings below do not belong."""
    return bool(over.get("encoder", below.get("encoder")) == below.get("encoder"))


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in ``tree``."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise GanvasError(f"'{override}' is no override; write key=value, such as training.batch_size=32")
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        raise GanvasError(f"{dotted}: {_short(text)} is no YAML value; quote it") from None
    *path, last = dotted.split(".")
    place: Any = tree
    if dotted == "text.encoder" and isinstance(tree.get("text"), dict) and tree["text"].get(last) != value:
        tree["text"] = {}  # the other encoder's settings would not fit
    for key in path:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise GanvasError(f"{dotted}: '{key}' holds a value, not further keys")
    place[last] = value


def resolve(tree: Mapping[str, Any]) -> Recipe:
    """Check a whole tree of plain values and make the ``Recipe``."""
    from ganvas.systems import find

    name = tree.get("name", "recipe")
    _refuse_unknown(tree, _keys(Recipe), "")
    tree = _with_preset(tree)
    system = tree.get("system")
    if not isinstance(system, str):
        raise GanvasError(f"recipe {name}: system: is missing; name one, such as gan-int-cls")
    entry = find(system)
    recipe = Recipe(
        name=_check(str, name, "name"),
        about=_check(str, tree.get("about", ""), "about"),
        system=system,
        data=_check(DataSettings, tree.get("data", {}), "data"),
        text=_text(tree, entry.system, system),
        settings=_check(entry.settings, tree.get("settings") or {}, "settings"),
        training=_check(TrainingSettings, tree.get("training", {}), "training"),
        variants=_check(dict[str, list[str]], tree.get("variants", {}), "variants"),
    )
    _check_ranges(recipe)
    return recipe


def _text(tree: Mapping[str, Any], system: type[System], name: str) -> Any:
    from ganvas.text import text_settings

    if system.text_optional and "text" in tree and tree["text"] is None:
        return None
    if system.reads_text:
        return _check(text_settings(_mapping(tree, "text").get("encoder")), tree["text"], "text")
    if tree.get("text") is not None:
        raise GanvasError(f"text: system {name} reads no captions; leave {_short(tree['text'])} out")
    return None


def _with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with what the paper of ``data.like`` does, wherever the tree says nothing."""
    from ganvas.data.presets import find_preset

    data, text = tree.get("data"), tree.get("text")
    if not isinstance(data, Mapping) or data.get("like") is None:
        return dict(tree)
    like = _check(str, data["like"], "data.like")
    preset = find_preset(like)
    data_set = _check(str, data.get("set", DataSettings.set), "data.set")
    image_size = _check(int, data.get("image_size", DataSettings.image_size), "data.image_size")
    filled = {**tree, "data": {**preset.recipe_data(data_set, image_size), **data}}
    if isinstance(text, Mapping):
        filled["text"] = {**preset.recipe_text(data_set, str(text.get("encoder"))), **text}
    return filled


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    if not isinstance(value, Mapping):
        raise GanvasError(f"{key}: {'is missing' if value is None else f'{_short(value)} is no mapping'}")
    return value


def _keys(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]


def _refuse_unknown(tree: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key, value in tree.items():
        if key not in known:
            raise GanvasError(
                f"unknown key '{where}{key}' (value {_short(value)});"
                f" {did_you_mean(f'{where}{key}', [where + name for name in known])}"
            )


def _check(kind: Any, value: Any, where: str) -> Any:
    """``value`` as an instance of ``kind``: unknown keys first, then types."""
    if is_dataclass(kind):
        _walk(cast(type[Any], kind), value, where)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            raise first["ctx"]["error"] from None
        key = ".".join([where, *(str(part) for part in first["loc"])])
        given = "" if first["type"] == "missing" else f", not {_short(first['input'])}"
        raise GanvasError(f"{key}: {_in_words(first)}{given}") from None
    except (TypeError, ValueError):
        raise GanvasError(f"{where}: {_short(value)} is no plain value") from None


def _short(value: Any) -> str:
    """A value as an error line shows it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _in_words(problem: Any) -> str:
    text: str = problem["msg"]
    if problem["type"] == "missing":
        return "is missing"
    return text.removeprefix("Input ")[0].lower() + text.removeprefix("Input ")[1:]


def _walk(kind: type[Any], tree: Any, where: str) -> None:
    """Refuse keys that a tree of dataclasses does not have."""
    if not isinstance(tree, Mapping):
        raise GanvasError(f"{where}: {_short(tree)} is no mapping; known keys: {', '.join(_keys(kind))}")
    _refuse_unknown(tree, _keys(kind), f"{where}.")
    hints = get_type_hints(kind)
    for key, value in tree.items():
        for inner in (hints[key], *(get_args(hints[key]) if get_origin(hints[key]) is not dict else ())):
            if isinstance(inner, type) and is_dataclass(inner):
                _walk(inner, value, f"{where}.{key}")


_IMAGE_SIZES = (16, 32, 64, 128, 256)
_RANGES: dict[str, tuple[float, float]] = {
    "data.flip": (0, 1),
    "data.captions": (1, 100),
    "training.batch_size": (2, 65_536),
    "training.num_devices": (1, 1024),
    "training.ema_half_life": (0, float("inf")),
    "training.seed": (0, 2**63 - 1),
    "training.log_every": (1, float("inf")),
    "training.sample_every": (0, float("inf")),
    "training.samples": (1, 100),
    "training.save_every": (1, float("inf")),
    "training.keep": (1, float("inf")),
}


def _check_ranges(recipe: Recipe) -> None:
    """What types cannot say."""
    data, training = recipe.data, recipe.training
    for key, (low, high) in _RANGES.items():
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        most = "" if high == float("inf") else f" and at most {high:,}"
        _demand(low <= value <= high, key, value, f"at least {low}{most}")
    _demand(data.image_size in _IMAGE_SIZES, "data.image_size", data.image_size, f"one of {_IMAGE_SIZES}")
    stored = data.stored_size
    fits = stored is None or stored >= data.image_size
    _demand(fits, "data.stored_size", stored, f"at least data.image_size ({data.image_size})")
    ranks = training.num_devices
    for phase, size in {"": training.batch_size, **training.batch_sizes}.items():
        key = f"training.batch_sizes.{phase}" if phase else "training.batch_size"
        _demand(size >= 2 * ranks, key, size, f"at least 2 for each of {ranks} devices")
        _demand(size % ranks == 0, key, size, f"a multiple of training.num_devices ({ranks})")
    _demand_no_negative(asdict(recipe.settings), "settings")


def _demand(holds: bool, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise GanvasError(f"{key}: should be {rule}, not {_short(value)}")


def _demand_no_negative(tree: Mapping[str, Any], where: str) -> None:
    """No system has a count or rate below zero, nor a width of zero."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _demand_no_negative(value, f"{where}.{key}")
        elif isinstance(value, int | float):
            least = 1 if key.endswith(("width", "dim", "projection")) else 0
            _demand(value >= least, f"{where}.{key}", value, f"at least {least}")
