"""The demo: from nothing to images of unseen captions in minutes, at last beside the model that ships."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganvas.data.prepare import prepare
from ganvas.data.store import Store
from ganvas.gallery import Entry, ShownScore, write_gallery
from ganvas.pipeline import Model, load
from ganvas.recipe import Recipe, load_recipe
from ganvas.scores.pictures import generated, real
from ganvas.scores.retrieval import RetrievalProtocol, r_precision
from ganvas.scores.score import Score
from ganvas.sheets import Tile, save_png, sheet
from ganvas.training.checkpoint import write_atomically
from ganvas.training.loop import train

RECIPE = "gan-int-cls-emoji-demo"
_SPLIT = "test"
_SHOWN = 20
_IMAGES_A_CAPTION = 4
_BESIDE = 8
_SEEDS_BESIDE = 3


def run_demo(out: Path, overrides: Sequence[str] = ()) -> None:
    """Prepare, train, generate, score; print where the gallery is and what the scores are.

    Args:
        out: folder for everything.
        overrides: ``key=value`` for the recipe.
    """
    recipe = load_recipe(RECIPE, overrides)
    data = out / "data"
    prepare(recipe.data.set, data, size=recipe.data.stored_size or recipe.data.image_size)
    store = Store(data)
    began = time.monotonic()
    run = train(recipe, store, out / "run")
    minutes = (time.monotonic() - began) / 60
    model = load(run.folder)
    protocol = RetrievalProtocol()
    shown = [generated(model, store, split=_SPLIT), real(store, split=_SPLIT)]
    scores = [r_precision(pictures, store, protocol) for pictures in shown]
    text = json.dumps({"scores": [score.to_dict() for score in scores]}, indent=2) + "\n"
    write_atomically(out / "scores.json", text)
    page, picture = _write_gallery(out, model, store, recipe, scores, minutes)
    beside = _write_beside(out, model, store)
    generated_share, real_share = map(_percent, scores)
    print(
        f"R-precision of generated test images: {generated_share} (real images: {real_share}, chance: 1.0 %)"
    )
    print(f"scores:  {out / 'scores.json'}\nmodel:   {run.model}\ngallery: {picture}\n         {page}")
    print(f"beside the model that ships: {beside}")


def _write_gallery(
    out: Path, model: Model, store: Store, recipe: Recipe, scores: Sequence[Score], minutes: float
) -> tuple[Path, Path]:
    rows = _spread(store, _SHOWN)
    captions = [store.captions[row][0] for row in rows]
    images = model.generate(captions, n=_IMAGES_A_CAPTION, seed=0)
    entries = [
        Entry(caption, store.images.square(row), images[i * _IMAGES_A_CAPTION : (i + 1) * _IMAGES_A_CAPTION])
        for i, (row, caption) in enumerate(zip(rows, captions, strict=True))
    ]
    size = recipe.data.image_size
    return write_gallery(
        out,
        entries,
        title="Captions never seen, images never drawn",
        lead=(
            "A GAN-INT-CLS trained on this machine a moment ago. The captions are of the test split: each is"
            " a combination that training never showed, of words that it did. The first image of a row is the"
            " real drawing, the others are generated from the caption alone."
        ),
        about={
            "system": "GAN-INT-CLS (Reed et al., 2016)",
            "data": f"emoji, {store.info.splits['train']:,} training images of {size} x {size} px",
            "budget": f"{sum(model.trained.values()):,} images seen, {minutes:.1f} minutes in this call",
        },
        scores={
            "R-precision": ShownScore(_percent(scores[0]), _in_words(scores[0])),
            "R-precision of the real drawings": ShownScore(
                _percent(scores[1]), "The same, for the real images."
            ),
            "chance": ShownScore("1.0 %", "One caption in a hundred."),
        },
    )


def _write_beside(out: Path, model: Model, store: Store) -> Path:
    """The same captions and seeds by the model that was just trained and by the one that ships."""
    rows, shipped = _spread(store, _BESIDE), load()
    captions = [store.captions[row][0] for row in rows]
    sides = [one.generate(captions, n=_SEEDS_BESIDE) for one in (model, shipped)]
    tiles = [
        [
            Tile(store.images.square(row)),
            *(Tile(image) for side in sides for image in side[i * _SEEDS_BESIDE : (i + 1) * _SEEDS_BESIDE]),
        ]
        for i, row in enumerate(rows)
    ]
    rest = [""] * (_SEEDS_BESIDE - 1)
    titles = ["real", "trained now", *rest, f"shipped ({shipped.recipe.system})", *rest]
    picture = sheet(tiles, row_titles=captions, column_titles=titles, lead_columns=1)
    return save_png(picture, out / "beside.png")


def _spread(store: Store, count: int) -> npt.NDArray[np.int64]:
    """Rows of the split at even distances."""
    rows = store.rows(_SPLIT)
    places = (np.arange(count) + 0.5) * len(rows) / count
    chosen: npt.NDArray[np.int64] = rows[places.astype(int)]
    return chosen


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} % ± {100 * (score.spread or 0):.1f}"


def _in_words(score: Score) -> str:
    protocol = score.protocol
    return (
        "How often an independent dual encoder ranks the image's own caption first among"
        f" {protocol['candidates']} captions: {protocol['num_images']:,} images, one for the first caption of"
        f" every image of the {protocol['split']} split; mean and deviation over {protocol['folds']} folds,"
        f" seed {protocol['seed']}."
    )
