"""Sample sheets: the same captions and noise each time, the real images beside them."""

from __future__ import annotations

from pathlib import Path

import torch

from ganvas.data.store import Store
from ganvas.pipeline import Model
from ganvas.recipe import Recipe
from ganvas.sheets import Tile, save_png, sheet
from ganvas.systems.base import System

_IMAGES_A_CAPTION = 6


def write_samples(system: System, recipe: Recipe, store: Store, path: Path) -> None:
    """Draw one sheet.

    Args:
        system: with the weights to show; it stays in the mode it is in.
        recipe: how many captions, which seed.
        store: captions come from its first split of val, test, train that has images.
        path: of the PNG.
    """
    split = next(name for name in ("val", "test", "train") if store.info.splits.get(name))
    rows = store.rows(split)
    chosen = rows[torch.linspace(0, len(rows) - 1, min(recipe.training.samples, len(rows))).long().numpy()]
    captions = [store.captions[row][0] for row in chosen]
    model = Model(system, recipe, {}, next(system.parameters()).device)
    images = model.generate(captions, n=_IMAGES_A_CAPTION, seed=recipe.training.seed)
    lines = []
    for number, row in enumerate(chosen):
        generated = images[number * _IMAGES_A_CAPTION : (number + 1) * _IMAGES_A_CAPTION]
        lines.append([Tile(store.images[row]), *(Tile(image) for image in generated)])
    seen = f"{int(path.stem.rsplit('-', 1)[1]):,} images seen"
    picture = sheet(
        lines,
        title=f"{recipe.name}: {seen}, {split} captions",
        column_titles=["real", "generated"],
        row_titles=captions,
        lead_columns=1,
    )
    save_png(picture, path)
