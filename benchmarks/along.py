"""Systems of one budget, scored along their runs: does training make them better, and which is best?

    python benchmarks/along.py gan-int-cls-emoji stackgan-emoji stackgan-v2-emoji attngan-emoji \
        --data data/emoji-64 --images 60000 --encoders runs/gan-int-cls-emoji --encoders runs/damsm-emoji

The budget is how many images are generated in training, the same number for all; a system whose stages are
trained one after the other gets it for each, as its paper does, and one that draws an image for each of
several captions of a picture sees fewer pictures. Text encoders are trained before, and may be shared: a
recipe takes the first of ``--encoders`` whose text encoder has its settings. At every point the run stops, is
scored and goes on, which changes nothing of it. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import machine, run_script, write_result

from ganvas.building import build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.recipe import Recipe, load_recipe
from ganvas.scores.ablation import seconds
from ganvas.scores.scoring import score
from ganvas.systems.base import System
from ganvas.training.loop import train
from ganvas.training.run import text_material

SCORES = ("r-precision", "distances", "emoji attributes")


def open_recipe(name: str, overrides: Sequence[str], encoders: Sequence[Path]) -> Recipe:
    """The recipe, with the encoders that fit it."""
    recipe = load_recipe(name, overrides)
    for folder in encoders:
        if load(folder, device="cpu").recipe.text == recipe.text:
            return load_recipe(name, [*overrides, f"training.encoders={json.dumps(str(folder))}"])
    return recipe


def generating_phases(recipe: Recipe, store: Store) -> dict[str, int]:
    """The phases that train what generates, and how many images each draws for a picture."""
    with torch.device("meta"):
        system: System = build_system(recipe, **text_material(recipe, store))
    return {p.name: p.captions for p in system.phases() if p.generates and recipe.training.images.get(p.name)}


def budgets(phases: Mapping[str, int], images: int, points: int) -> list[dict[str, int]]:
    """How many pictures each phase has seen at every point; each gets them all, one after the other."""
    found = []
    for point in range(1, points + 1):
        drawn = images * len(phases) * point // points
        done = {p: min(images, max(0, drawn - i * images)) for i, p in enumerate(phases)}
        found.append({p: number // phases[p] for p, number in done.items()})
    return found


def along(name: str, recipe: Recipe, store: Store, out: Path, images: int, points: int) -> dict[str, Any]:
    """Train one recipe, and score it at every point."""
    phases = generating_phases(recipe, store)
    others = {p: n for p, n in recipe.training.images.items() if p not in phases}
    folder, path = out / recipe.name, out / f"{recipe.name}.json"
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"points": []}
    for number, budget in enumerate(budgets(phases, images, points)):
        if number < len(done["points"]) and done["points"][number]["images"] == budget:
            continue
        wanted = {**{p: n for p, n in others.items() if n and p != "style"}, **budget}
        wanted |= {p: 0 for p in recipe.training.images if p not in wanted}
        own = [f"training.images={json.dumps(wanted)}", *overrides_of(recipe)]
        run = train(load_recipe(name, own), store, folder)
        result = score(str(run.folder), store.path, only=SCORES)
        point = {
            "images": budget,
            "generated": sum(number * phases[p] for p, number in budget.items()),
            "seconds": round(seconds(run.folder, list(phases)), 1),
            "scores": [made.to_dict() for made in result.scores],
        }
        done["points"] = [*done["points"][:number], point]
        done |= {"recipe": recipe.name, "system": recipe.system, "parameters": parameters(run.folder)}
        path.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
        shown = "  ".join(str(made) for made in result.scores)
        print(f"{recipe.name}  {point['generated']:,} images  {point['seconds']:.0f} s  {shown}", flush=True)
    return done


def overrides_of(recipe: Recipe) -> list[str]:
    """The encoders, and nothing that would cost time."""
    own = ["training.save_every=1000000000", "training.sample_every=1000000000"]
    return [*own, f"training.encoders={json.dumps(recipe.training.encoders)}"]


def parameters(run: Path) -> int:
    """Of what generates, without the text encoder."""
    system = load(run, device="cpu").system
    names = ("text_encoder.", *(f"{name}." for name in system.training_only), "style_encoder.")
    return sum(p.numel() for name, p in system.named_parameters() if not name.startswith(names))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The scores at every point, as Markdown."""
    names = [made["name"] for made in rows[0]["points"][0]["scores"]]
    lines = [f"| recipe | parameters | images | seconds | {' | '.join(names)} |"]
    lines.append(f"|---|{'---:|' * (3 + len(names))}")
    for row in rows:
        for point in row["points"]:
            cells = [_shown(made) for made in point["scores"]]
            drawn, millions = point["generated"], row["parameters"] / 1e6
            head = f"| `{row['recipe']}` | {millions:.1f} M | {drawn:,} | {point['seconds']:.0f} |"
            lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(made: Mapping[str, Any]) -> str:
    value, spread = made["value"], made["spread"]
    if made["name"].startswith(("r-precision", "emoji", "precision", "recall")):
        return f"{value:.1%}" + (f" ± {spread * 100:.1f}" if spread is not None else "")
    return f"{value:.1f}" if value > 10 else f"{value:.3f}"


def main() -> None:
    """Train and score them all, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data set")
    parser.add_argument("--images", type=int, default=60_000, help="budget of what generates (60,000)")
    parser.add_argument("--points", type=int, default=4, help="times each run is scored (4)")
    parser.add_argument("--encoders", type=Path, action="append", default=[], help="a run with text encoder")
    parser.add_argument("--runs", type=Path, default=Path("runs/along"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    if options.points < 1 or options.images < options.points:
        raise GanvasError("--images, --points: at least one image a point")
    store = Store(options.data)
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.recipes:
        recipe = open_recipe(name, [], options.encoders)
        rows.append(along(name, recipe, store, options.runs, options.images, options.points))
    print(table(rows))
    if options.out:
        data = {"name": store.info.name, "size": store.info.size, "fingerprint": store.info.fingerprint}
        counted = "generated in training, by each stage"
        budget = {"images": options.images, "counted": counted, "points": options.points}
        result = {"budget": budget, "data": data, "rows": rows, "machine": machine(torch.device("cpu"))}
        write_result(options.out, result)


if __name__ == "__main__":
    run_script(main)
