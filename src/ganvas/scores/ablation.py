"""``ganvas ablate``: variants of recipes, or whole systems, trained with one budget, scored, in one table."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean
from ganvas.recipe import Recipe, load_recipe
from ganvas.scores.budget import Budget, Part, parts_of
from ganvas.scores.protocols import chosen_protocol
from ganvas.scores.score import Score, differences, read_scores, scores_of
from ganvas.scores.scoring import score
from ganvas.sheets import write_whole
from ganvas.training.feeding import Data
from ganvas.training.log import read_log, seconds_of
from ganvas.training.loop import train
from ganvas.training.run import Run, recipe_store

POINTS = "points.json"
"""In a run: its scores at each point of a budget."""
WHOLE = "whole"
"""The row of a recipe without any of its variants."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    name: str
    recipe: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Of its run, below that of the ablation."""
        return "-".join(self.name.replace("/", " ").split())


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a variant."""

    variant: Variant
    images: int
    """Seen in training, over all phases; with a budget, drawn by the phases that generate."""
    seconds: float
    """That training took, without what stood between its parts; with a budget, of those phases."""
    scores: list[Score] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """How rows are scored."""

    protocol: str
    """Its name."""
    tools: Mapping[str, str]
    """Networks that do not ship."""


def list_variants(recipes: Sequence[str], only: Sequence[str] = (), *, whole: bool = False) -> list[Variant]:
    """The variants that recipes list, each recipe itself first.

    Args:
        recipes: names or paths.
        only: names of variants, to leave the others out.
        whole: the recipes themselves, without any variant.

    Raises:
        GanvasError: no such recipe, or no such variant.
    """
    found: list[Variant] = []
    for source in recipes:
        recipe = load_recipe(source)
        variants = {} if whole else recipe.variants
        head = f"{recipe.name}: " if len(recipes) > 1 else ""
        found.append(Variant(name=f"{head}{WHOLE}" if variants else recipe.name, recipe=source, overrides=()))
        for name, overrides in variants.items():
            load_recipe(source, overrides)  # a mistake is told before anything is trained
            found.append(Variant(name=f"{head}{name}", recipe=source, overrides=tuple(overrides)))
    names = [variant.name for variant in found]
    if len(set(names)) < len(names):
        raise GanvasError(f"{', '.join(recipes)}: two rows of the table would have one name")
    for name in only:
        if name not in names:
            raise GanvasError(f"no variant '{name}'; {did_you_mean(name, names)}")
    return [variant for variant in found if not only or variant.name in only]


def ablate(
    recipes: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    protocol: str | None = None,
    tools: Mapping[str, str] | None = None,
    whole: bool = False,
    budget: Budget | None = None,
) -> Path:
    """Train and score every variant, and write the table; what is done already is not done again.

    Args:
        recipes: whose variants.
        out: the folder for the runs and the table.
        data: the prepared data, the same for all.
        overrides: ``key=value`` for every variant: the budget, for instance.
        only: names of variants.
        protocol: of the scores; by default the one for the data.
        tools: networks that do not ship, as for ``score``.
        whole: the recipes themselves, without their variants.
        budget: the same for all, whatever their recipes have.

    Returns:
        The table, a Markdown file; beside it are ``table.json`` and ``table.csv``.

    Raises:
        GanvasError: recipes, data and folder do not fit together.
        RunStopped: training stopped; the same call goes on.
    """
    rows = []
    variants = list_variants(recipes, only, whole=whole)
    for number, variant in enumerate(variants, 1):
        recipe = load_recipe(variant.recipe, [*variant.overrides, *overrides])
        store = recipe_store(recipe, data)
        asked = Asked(chosen_protocol(protocol, Store(store.path)).name, tools or {})
        print(f"{number} of {len(variants)}: {variant.name}", flush=True)
        folder = out / variant.folder
        if budget is None:
            run = train(recipe, store, folder)
            scores = _scored(run, store, asked)
            images, took = sum(_seen(run.folder).values()), seconds(run.folder)
            rows.append(Row(variant=variant, images=images, seconds=took, scores=scores))
        else:
            for part in parts_of(budget, recipe, store):
                rows.append(_row(variant, part, overrides, store, folder, asked))
                _write(out, rows, variants)
        _write(out, rows, variants)
    return out / "table.md"


def _row(
    variant: Variant,
    part: Part,
    overrides: Sequence[str],
    store: Data,
    folder: Path,
    asked: Asked,
) -> Row:
    """A variant at a point of its run: what was kept of it, or trained and scored now."""
    path = folder / POINTS
    points = json.loads(path.read_bytes()) if path.is_file() else []
    key: dict[str, Any] = {"limits": part.limits, "protocol": asked.protocol}
    point = next((p for p in points if key.items() <= p.items()), None)
    if point is None:
        recipe = load_recipe(variant.recipe, [*variant.overrides, *overrides, *part.overrides])
        _refuse_past(folder, part, recipe)
        run = train(recipe, store, folder)
        scores = _scored(run, store, asked)
        point = key | {
            "images": part.generated(_seen(folder)),
            "seconds": round(seconds(folder, part.captions), 4),
            "scores": [s.to_dict() for s in scores],
        }
        write_whole(path, (json.dumps([*points, point], indent=2, ensure_ascii=False) + "\n").encode())
    return Row(
        variant=variant,
        images=point["images"],
        seconds=point["seconds"],
        scores=scores_of(point["scores"]),
    )


def _refuse_past(folder: Path, part: Part, recipe: Recipe) -> None:
    """A run cannot go back to a point that it was not scored at."""
    seen = _seen(folder) if (folder / "model" / "config.json").is_file() else {}
    for phase in part.captions:
        batch = recipe.training.batch_sizes.get(phase, recipe.training.batch_size)
        images, limit = part.limits["images"][phase], part.limits.get("seconds", {}).get(phase)
        rows = [row for row in read_log(folder) if row["phase"] == phase]
        if limit and (took := seconds_of(rows[:-1])) >= limit:  # a phase ends with the row that reaches it
            past, point = f"has taken {took:.0f} seconds", f"{limit:g}"
        elif seen.get(phase, 0) >= images + batch:
            past, point = f"has seen {seen[phase]:,} images", f"{images:,}"
        else:
            continue
        raise GanvasError(
            f"{folder}: its phase '{phase}' {past}, and was not scored at {point}; give other --points, or"
            " another folder with --out"
        )


def _scored(run: Run, store: Data, asked: Asked) -> list[Score]:
    """The scores of a run as it is now, from its file if that was made of it, and by the same protocol."""
    path = run.folder / "scores.json"
    if path.is_file():
        tree = json.loads(path.read_bytes())
        if tree["about"].get("trained") == _seen(run.folder) and tree["protocol"] == asked.protocol:
            return read_scores(path)
    found = score(str(run.folder), store.path, protocol=asked.protocol, tools=asked.tools)
    write_whole(path, found.to_json().encode())
    return found.scores


def _seen(run: Path) -> dict[str, int]:
    trained: dict[str, int] = json.loads((run / "model" / "config.json").read_bytes())["trained"]
    return trained


def seconds(run: Path, phases: Collection[str] | None = None) -> float:
    """What training took, by the rates in a run's log; of all phases, or of those named."""
    return seconds_of(read_log(run), phases)


def _write(out: Path, rows: Sequence[Row], variants: Sequence[Variant]) -> None:
    """The table so far, in three forms."""
    columns = _columns(rows)
    tree = {
        "variants": len(variants),
        "rows": [
            {
                "name": row.variant.name,
                "recipe": row.variant.recipe,
                "overrides": list(row.variant.overrides),
                "images": row.images,
                "seconds": round(row.seconds, 4),
                "scores": [s.to_dict() for s in row.scores],
            }
            for row in rows
        ],
    }
    write_whole(out / "table.json", (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode())
    lines = [["variant", "images", "seconds", *columns]]
    lines += [
        [row.variant.name, str(row.images), f"{row.seconds:.0f}", *(_cell(row, name) for name in columns)]
        for row in rows
    ]
    text = "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines) + "\n"
    write_whole(out / "table.csv", text.encode())
    write_whole(out / "table.md", _markdown(rows, columns, lines).encode())


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(score.name for row in rows for score in row.scores))


def _of(row: Row, name: str) -> Score | None:
    return next((score for score in row.scores if score.name == name), None)


def _cell(row: Row, name: str) -> str:
    found = _of(row, name)
    return "" if found is None else str(found)


def _markdown(rows: Sequence[Row], columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    best = {name: _best(rows, name) for name in columns}
    table = [f"| {' | '.join(lines[0])} |", f"|---|{'---:|' * (len(lines[0]) - 1)}"]
    for row, line in zip(rows, lines[1:], strict=True):
        marked = [
            f"**{cell}**" if best[name] is row else cell for name, cell in zip(columns, line[3:], strict=True)
        ]
        table.append(f"| {' | '.join([*line[:3], *marked])} |")
    notes = [f"- {_direction(rows, name)}" for name in columns]
    return "\n".join([*table, "", *notes]) + "\n"


def _best(rows: Sequence[Row], name: str) -> Row | None:
    """The best row; None where protocols differ, or there is nothing to compare."""
    scored = [(row, found) for row in rows if (found := _of(row, name))]
    if len(scored) < 2 or any(differences(scored[0][1], other) for _, other in scored[1:]):
        return None
    sign = 1 if scored[0][1].better == "higher" else -1
    return max(scored, key=lambda pair: sign * pair[1].value)[0]


def _direction(rows: Sequence[Row], name: str) -> str:
    first = next(found for row in rows if (found := _of(row, name)))
    images = first.protocol.get("num_images")
    made = f", {images:,} images of split {first.protocol.get('split')}" if isinstance(images, int) else ""
    return f"{name}: {first.better} is better{made}"


def describe(recipe: Recipe) -> str:
    """The variants of a recipe, a line each."""
    return "\n".join(f"{name}: {' '.join(overrides)}" for name, overrides in recipe.variants.items())
