"""One table of systems that were trained with one budget, from the runs of ``ganvas ablate --whole``.

    python benchmarks/systems.py runs/systems/*/ runs/seconds/*/ --note "..."

Reads the points that the runs were scored at, prints the tables of docs/results.md, and writes
``results/systems-emoji.json``. Trains and scores nothing: the commands that do are in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from common import RESULTS, machine, run_script, write_result

from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import Recipe, list_recipes, load_recipe
from ganvas.scores.ablation import POINTS
from ganvas.scores.model_size import num_parameters
from ganvas.training.run import read_recipe

_NOT_DRAWING = ("total", "text_encoder", "style_encoder", "refinement")
_SHOWN = ("r-precision", "frechet lite0", "emoji attributes")
_KEPT = (*_SHOWN, "kid lite0", "precision lite0", "recall lite0")
_COLUMNS = "R-precision | Frechet distance, `lite0` | emoji attributes"


def row_of(run: Path) -> dict[str, Any]:
    """A run: its recipe, what it has beyond that, its generator's parameters, and its scored points."""
    path = run / POINTS
    if not path.is_file():
        raise GanvasError(
            f"{run}: has no {POINTS}; make it by 'ganvas ablate --whole' with --images or --seconds"
        )
    recipe = read_recipe(run)
    parts = num_parameters(load(run, device="cpu"))
    points = json.loads(path.read_bytes())
    for point in points:
        point["scores"] = [score for score in point["scores"] if score["name"] in _KEPT]
    return {
        "recipe": recipe.name,
        "changed": list(_changed(recipe)),
        "encoders": "taken over" if recipe.training.encoders else "own",
        "generator_parameters": sum(count for name, count in parts.items() if name not in _NOT_DRAWING),
        "points": points,
    }


def _changed(recipe: Recipe) -> Iterator[str]:
    """What a run has that its recipe has not, without its training: ``text.encoder=bilstm``."""
    if recipe.name not in list_recipes():
        return
    shipped = load_recipe(recipe.name).to_dict()
    for section in ("data", "text", "settings"):
        ours, theirs = recipe.to_dict()[section] or {}, shipped[section] or {}
        for key, value in ours.items():
            if theirs.get(key) != value:
                yield f"{section}.{key}={json.dumps(value)}"


def lines(rows: Sequence[Mapping[str, Any]], *, seconds: bool) -> Iterator[str]:
    """A Markdown table of the points of one kind of budget."""
    yield f"| recipe | generator | images | seconds | {_COLUMNS} |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    chosen = [
        (row, point) for row in rows for point in row["points"] if ("seconds" in point["limits"]) == seconds
    ]
    before = None
    for row, point in chosen:
        scores = {score["name"]: score for score in point["scores"]}
        name = f"`{row['recipe']}`" + (f" with {', '.join(row['changed'])}" if row["changed"] else "")
        head = f"{name} | {row['generator_parameters'] / 1e6:.1f} M" if row is not before else " |"
        before = row
        second = point["limits"]["images"].get("stage2") and not seconds
        note = f" ({point['limits']['images']['stage2']:,} of them Stage-II)" if second else ""
        cells = [_cell(scores[name]) if name in scores else "" for name in _SHOWN]
        yield f"| {head} | {point['images']:,}{note} | {point['seconds']:,.0f} | {' | '.join(cells)} |"


def against_first(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How often and how far each row is ahead of the first in the folds of R-precision, at the last point of
    a budget of images.
    """
    found = {row["recipe"]: folds for row in rows if (folds := _last_folds(row))}
    if not found:
        return
    first, *others = found
    for name in others:
        ahead = [ours - theirs for ours, theirs in zip(found[name], found[first], strict=True)]
        error = stdev(ahead) / len(ahead) ** 0.5
        yield (
            f"{name}: ahead of {first} in {sum(a > 0 for a in ahead)} of {len(ahead)} folds of R-precision,"
            f" by {100 * fmean(ahead):.1f} points in the mean (standard error {100 * error:.1f})"
        )


def _last_folds(row: Mapping[str, Any]) -> Sequence[float]:
    """R-precision of each fold at the last point of a budget of images."""
    points = [point for point in row["points"] if "seconds" not in point["limits"]]
    scores = [score for score in points[-1]["scores"] if score["name"] == "r-precision"] if points else []
    folds: Sequence[float] = scores[0].get("facts", {}).get("folds", ()) if scores else ()
    return folds


def _cell(score: Mapping[str, Any]) -> str:
    if score["name"] == "frechet lite0":
        return f"{score['value']:.1f}"
    spread = f" ± {100 * score['spread']:.1f}" if score["spread"] else ""
    return f"{100 * score['value']:.1f} %{spread}"


def main() -> None:
    """Collect, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with points")
    parser.add_argument("--note", default="", help="what else should be known, such as what ran beside them")
    parser.add_argument("--out", type=Path, default=RESULTS / "systems-emoji.json")
    options = parser.parse_args()
    rows = [row_of(run) for run in options.runs]
    for seconds in (False, True):
        print("\n".join(lines(rows, seconds=seconds)), end="\n\n")
    print("\n".join(against_first(rows)))
    about = {**machine(torch.device("cpu")), "note": options.note}
    write_result(options.out, {"rows": rows, "machine": about})


if __name__ == "__main__":
    run_script(main)
