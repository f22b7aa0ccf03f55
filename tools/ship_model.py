"""Make a model that ships from a run: float16 weights of what generates, its scores, and an honest card.

python tools/ship_model.py runs/emoji-default --scores runs/emoji-default/scores.json --real scores-real.json

The folder is made aside and renamed, and refused where it is larger than may ship. Afterwards what shows the
model is made anew: ``python tools/readme_pictures.py``, and ``python tests/golden/thumbnails.py --update``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pack_model import halved
from safetensors.torch import load_file, save

from ganvas import models
from ganvas.data.emoji import EmojiSource
from ganvas.errors import GanvasError
from ganvas.model_folder import find_model
from ganvas.pipeline import Model, load
from ganvas.scores.ablation import seconds
from ganvas.scores.score import Score, differences, read_scores

LICENCE = "Apache-2.0"
"""Of the weights."""
CAPTIONS = ("a smiling cat with heart eyes", "a red apple in the noto style", "a flag", "a sleeping face")
"""Drawn with both precisions, to see what half of the bits cost."""
_SHARES = ("r-precision", "emoji attributes", "precision", "recall")


@dataclass(frozen=True)
class Facts:
    """What the card says beside the recipe."""

    run: str
    machine: str
    seconds: float | None
    data: str
    data_licence: str
    rounding: float
    note: str


def ship(run: Path, out: Path, scores: Path | None, real: Path | None, note: str) -> Path:
    """Make the folder ``out``.

    Args:
        run: a run, or its model folder.
        out: the folder to make or replace.
        scores: what ``ganvas score`` wrote of the run.
        real: what it wrote of the real images.
        note: a line for the card.

    Raises:
        GanvasError: it is too large, its weights do not fit into float16, or a file cannot be read.
    """
    folder = find_model(run)
    exact = load(folder, device="cpu")
    if not exact.system.generates:
        raise GanvasError(f"{run}: a model of system {exact.recipe.system} generates nothing")
    tables = [_table(scores, real)] if scores else []
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name in ("config.json", *exact.system.text_encoder.files()):
            shutil.copy(folder / name, part / name)
        _write_weights(folder, exact, part)
        facts = _facts(run, exact, load(part, device="cpu"), note)
        _write_config(part, facts)
        card = _card(out.name, exact, facts, "".join(tables))
        (part / "README.md").write_text(card, encoding="utf-8")
        for given, name in ((scores, "scores.json"), (real, "scores-real.json")):
            if given:
                shutil.copy(given, part / name)
        size = sum(path.stat().st_size for path in part.iterdir())
        if size > models.MAX_BYTES:
            raise GanvasError(
                f"{run}: {size / 1e6:.1f} MB in float16, more than the {models.MAX_BYTES / 1e6:.0f} MB that"
                " may ship; train it with fewer features"
            )
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _write_weights(folder: Path, model: Model, out: Path) -> None:
    wanted = load_file(folder / "model.safetensors")
    kept = {name: v for name, v in wanted.items() if name.split(".", 1)[0] not in model.system.training_only}
    halves = halved(kept)
    for name, value in halves.items():
        if not value.isfinite().all():
            raise GanvasError(f"{folder / 'model.safetensors'}: '{name}' does not fit into float16")
    (out / "model.safetensors").write_bytes(save(halves))


def _facts(run: Path, exact: Model, half: Model, note: str) -> Facts:
    """What is known of the run, and how far images of the two precisions are apart."""
    pictures = [
        np.asarray(model.generate(CAPTIONS, n=4, seed=0), dtype=np.float32) for model in (exact, half)
    ]
    home = run.parent if run.name == "model" and (run.parent / "run.json").is_file() else run
    about: dict[str, Any] = {}
    if (home / "run.json").is_file():
        about = json.loads((home / "run.json").read_text(encoding="utf-8"))
    logged = (home / "log.csv").is_file()
    return Facts(
        run=home.resolve().name,
        machine=about.get("machine", "not known"),
        seconds=seconds(home) if logged else None,
        data=exact.recipe.data.set,
        data_licence=_licence_of(exact.recipe.data.set),
        rounding=float(np.abs(pictures[0] - pictures[1]).mean()),
        note=note,
    )


def _licence_of(data: str) -> str:
    return EmojiSource.licence if data == EmojiSource.name else "under the licence of its images"


def _write_config(folder: Path, facts: Facts) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["shipped"] = {
        "licence": LICENCE,
        "data_licence": facts.data_licence,
        "run": facts.run,
        "note": facts.note,
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(scores: Path, real: Path | None) -> str:
    """The scores as Markdown, beside those of the real images where their protocols are the same."""
    beside: Sequence[Score] = read_scores(real) if real else ()
    lines = [
        "\n## Scores\n",
        "| score | this model | real images | better | protocol |",
        "|---|---|---|---|---|",
    ]
    for made in read_scores(scores):
        other = next((o for o in beside if o.name == made.name and not differences(o, made)), None)
        lines.append(
            f"| {made.name} | {_shown(made)} | {_shown(other) if other else '–'} | {made.better} |"
            f" {_protocol(made)} |"
        )
    return "\n".join(lines) + "\n"


def _shown(score: Score) -> str:
    if score.name.startswith(_SHARES) and 0 <= score.value <= 1:
        spread = "" if score.spread is None else f" ± {100 * score.spread:.1f}"
        return f"{100 * score.value:.1f} %{spread}"
    return f"{score.value:,.0f}" if score.value >= 100_000 else str(score)


def _protocol(score: Score) -> str:
    """The values of the protocol that a reader wants; all of them are in ``scores.json``."""
    keys = ("split", "num_images", "candidates", "features", "retriever", "classifier")
    found = (f"{key.replace('_', ' ')} {score.protocol[key]}" for key in keys if key in score.protocol)
    return ", ".join(found)


def _card(name: str, model: Model, facts: Facts, scores: str) -> str:
    recipe, size = model.recipe, model.image_size
    seen = ", ".join(f"{images:,} in phase {phase}" for phase, images in model.trained.items())
    time = "not known" if facts.seconds is None else f"{facts.seconds:,.0f}"
    lines = [
        f"System: `{recipe.system}`, images of {size} x {size} pixels, recipe `{recipe.name}`",
        f"Text encoder: `{recipe.text.encoder}`" if recipe.text else "Text encoder: none",
        f"Images seen in training: {seen}; seconds: {time}; machine: {facts.machine}",
        f"Weights: averaged over training, float16, under {LICENCE}; an image differs from the one of the"
        f" float32 weights by {facts.rounding:.2f} of 255 levels in the mean",
        f"Data: `{facts.data}` ({facts.data_licence}); whose drawings and names it is made of is in NOTICE",
        *model.system.facts(),
    ]
    if recipe.training.encoders:
        lines.append(f"Encoders: taken over from the model `{Path(recipe.training.encoders).name}`")
    note = f"\n{facts.note[0].upper()}{facts.note[1:]}\n" if facts.note else ""
    listed = "\n".join(f"- {line}" for line in lines)
    return f"""---
library_name: ganvas
license: {LICENCE.lower()}
tags: [text-to-image, gan, {recipe.system}]
---

# {name}

{recipe.about}
{note}
{listed}
{scores or _NO_SCORES}{_LIMITS}"""


_NO_SCORES = """
Not scored yet.
"""

_LIMITS = """
## What it cannot do

It knows the words of the captions that it was trained on and no others; `Model.unknown_words` names those. It
draws what emoji show, as emoji show it, and combinations far from those of training come out wrong. Good
pictures and failures, chosen by a score and not by eye, are on the page about this model in the documentation
(docs/default-model.md).

```python
import ganvas

model = ganvas.load()
model.generate(["a smiling cat with heart eyes"], n=4, seed=0)[0].save("image.png")
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="a run, or its model folder")
    parser.add_argument("--name", default=models.DEFAULT, help=f"what it is called ({models.DEFAULT})")
    parser.add_argument(
        "--scores", type=Path, help="what 'ganvas score' wrote (RUN/scores.json if it is there)"
    )
    parser.add_argument("--real", type=Path, help="what 'ganvas score real' wrote")
    parser.add_argument("--note", default="", help="a line for the card")
    parser.add_argument("--out", type=Path, help="the folder that holds it (that of the package)")
    given = parser.parse_args()
    scores = given.scores or next((p for p in [given.run / "scores.json"] if p.is_file()), None)
    home = given.out or Path(models.__file__).parent
    try:
        out = ship(given.run, home / given.name, scores, given.real, given.note)
    except GanvasError as error:
        sys.exit(f"ship_model.py: {error}")
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
