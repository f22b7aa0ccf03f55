"""``ganvas score``: a model, a folder of images or the real images, by a named protocol, to one JSON file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ganvas import __version__
from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean
from ganvas.models import place_of
from ganvas.scores.pictures import Pictures, from_folder, generated, real
from ganvas.scores.protocols import NamedProtocol, Wanted, chosen_protocol
from ganvas.scores.score import Score, compared, differences, read_scores
from ganvas.sheets import write_whole

FORMAT = 1
TOOLS = ("features", "weights", "classifier", "retriever", "damsm", "detector", "captions", "style")
"""What ``--use`` knows, see docs/scores.md."""


class Missing(Exception):
    """A score cannot be made with what is there; the text says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is scored."""

    name: str
    """Of the model, for tables."""
    pictures: Pictures
    model: Any = None
    """The opened ``Model``; None for real images and folders."""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One score to make."""

    target: Target
    store: Store
    settings: Mapping[str, Any]
    """Of the score's protocol."""
    tools: Mapping[str, str]
    """What the user gave with ``--use``: paths of networks that do not ship, and choices."""
    protocol: NamedProtocol


Maker = Callable[[Job], Sequence[Score]]


@dataclass(kw_only=True)
class Result:
    """What ``ganvas score`` found."""

    name: str
    """Of the model."""
    protocol: str
    images: str
    """``generated``, ``real``, ``real, shuffled`` or ``folder``."""
    scores: list[Score] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Scores of the protocol that could not be made, and what they need."""
    about: dict[str, Any] = field(default_factory=dict)
    """Model, data, versions, machine, date."""

    def to_json(self) -> str:
        """The file's text."""
        tree = {
            "format": FORMAT,
            "model": self.name,
            "protocol": self.protocol,
            "images": self.images,
            "scores": [score.to_dict() for score in self.scores],
            "missing": self.missing,
            "about": self.about,
        }
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def score(
    target: str,
    data: Path,
    *,
    protocol: str | None = None,
    num: int | None = None,
    seed: int = 0,
    tools: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    device: str = "auto",
) -> Result:
    """Score a model, a folder of images, or the real images of the data.

    Args:
        target: a run or model folder, a model that ships, a folder of images with captions, ``real`` or
            ``shuffled``.
        data: the prepared data set.
        protocol: a name of ``ganvas.scores.protocols``; by default the one for this data set.
        num: images, where they are to be fewer or more than the protocol has: the scores then say so.
        seed: of noise and choices.
        tools: networks that do not ship, such as ``{"retriever": "runs/retriever-coco"}``.
        only: names of scores, to make no others; the protocol need not have them.
        device: where a model generates: auto, cpu, cuda or mps.

    Raises:
        GanvasError: nothing there can be scored so.
    """
    check_tools(tools or {})
    store = Store(data)
    named = chosen_protocol(protocol, store)
    wanted = _wanted(named, only)
    chosen = _target(target, store, named, num, seed, device)
    result = Result(name=chosen.name, protocol=named.name, images=chosen.pictures.kind)
    began = time.perf_counter()
    for want in wanted:
        job = Job(target=chosen, store=store, settings=want.settings, tools=tools or {}, protocol=named)
        try:
            result.scores += _makers()[want.score](job)
        except Missing as reason:
            result.missing[want.score] = str(reason)
    result.about = _about(chosen, store, time.perf_counter() - began)
    return result


def _wanted(named: NamedProtocol, only: Sequence[str]) -> list[Wanted]:
    """The scores of a protocol, or those asked for: as it has them, others by their defaults."""
    known = {want.score: want for want in named.scores}
    for name in only:
        if name not in _makers():
            raise GanvasError(f"no score '{name}'; {did_you_mean(name, _makers())}")
    return [known.get(name, Wanted(score=name)) for name in only] if only else list(named.scores)


def _target(
    target: str, store: Store, named: NamedProtocol, num: int | None, seed: int, device: str
) -> Target:
    num = num or named.num_images
    if target in ("real", "shuffled"):
        shown = real(store, split=named.split, num=num, seed=seed, shuffled=target == "shuffled")
        return Target(name=shown.kind, pictures=shown)
    path = place_of(target)
    if not path.exists():
        raise GanvasError(
            f"{path}: no such folder; give a run, a model, one that ships, a folder of images, or 'real'"
        )
    if any((folder / "config.json").is_file() for folder in (path / "model", path)):
        from ganvas.pipeline import load

        model = load(path, device=device)
        shown = generated(model, store, split=named.split, num=num, seed=seed)
        return Target(name=path.name or str(path), pictures=shown, model=model, path=path)
    if (path / "run.json").is_file():
        raise GanvasError(f"{path}: this run has not saved a model yet; train it further")
    return Target(name=path.name, pictures=from_folder(path, store, split=named.split), path=path)


def _about(target: Target, store: Store, seconds: float) -> dict[str, Any]:
    import torch

    from ganvas.training.device import machine_of

    facts: dict[str, Any] = {
        "ganvas": __version__,
        "torch": torch.__version__,
        "machine": machine_of(target.model.device if target.model else torch.device("cpu")),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 1),
        "data": {"name": store.info.name, "size": store.info.size, "fingerprint": store.info.fingerprint},
    }
    if target.model is not None:
        facts["trained"] = dict(target.model.trained)
        facts["recipe"] = target.model.recipe.name
        facts["system"] = target.model.recipe.system
    return facts


def against(result: Result, earlier: Path) -> list[tuple[Score, Score, float]]:
    """The scores beside those of an earlier result: ours, theirs, and by how much ours are better.

    Raises:
        GanvasError: a score is in both, and the protocols differ; or none is.
    """
    others = {other.name: other for other in read_scores(earlier)}
    rows = []
    for own in result.scores:
        if own.name not in others:
            continue
        other = others[own.name]
        if found := differences(own, other):
            raise GanvasError(f"{earlier}: {own.name} was made by another protocol; {'; '.join(found)}")
        rows.append((own, other, compared(own, other)))
    if not rows:
        raise GanvasError(f"{earlier}: has none of these scores ({', '.join(s.name for s in result.scores)})")
    return rows


def _makers() -> dict[str, Maker]:
    from ganvas.scores.makers import MAKERS

    return MAKERS


def check_tools(tools: Mapping[str, str]) -> None:
    """Refuse what ``--use`` does not know.

    Raises:
        GanvasError: an unknown key.
    """
    for key in tools:
        if key not in TOOLS:
            raise GanvasError(f"--use {key}: {did_you_mean(key, TOOLS)}")


def report(result: Result, target: str, out: Path | None, earlier: Path | None) -> None:
    """Print a result, write it, and put it beside an earlier one.

    Args:
        result: what was found.
        target: of ``score``.
        out: the JSON file; by default ``scores.json`` in a run or model folder, none for other targets.
        earlier: the file of an earlier result.

    Raises:
        GanvasError: a file cannot be written, or the earlier result has another protocol.
    """
    rows = {score.name: score for score in against_of(result, earlier)} if earlier else {}
    width = max([len(score.name) for score in result.scores], default=0)
    for found in result.scores:
        beside = f"  (there: {rows[found.name]})" if found.name in rows else ""
        print(f"{found.name:<{width}}  {found}  {found.better} is better{beside}")
    for name, reason in result.missing.items():
        print(f"{name}: not made; {reason}", file=sys.stderr)
    path = out or (
        Path(target) / "scores.json" if Path(target).is_dir() and result.images == "generated" else None
    )
    if path:
        print(write_whole(path, result.to_json().encode()))


def against_of(result: Result, earlier: Path) -> list[Score]:
    """Their scores that ours are compared with."""
    return [other for _, other, _ in against(result, earlier)]
