"""Sample sheets: the same captions and noise each time, the real images beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ganvas.data.store import Store
from ganvas.pipeline import Model
from ganvas.recipe import Recipe
from ganvas.sheets import Tile, save_png, sheet
from ganvas.systems.base import System


def write_samples(system: System, recipe: Recipe, store: Store, path: Path) -> None:
    """Draw the sheet of a run in training.

    Args:
        system: with the weights to show; it stays in the mode it is in.
        recipe: how many captions, which seed.
        store: captions come from its first split of val, test, train that has images.
        path: of the PNG; its name ends in the number of images seen.
    """
    split = next(name for name in ("val", "test", "train") if store.info.splits.get(name))
    seen = f"{int(path.stem.rsplit('-', 1)[1]):,} images seen"
    model = Model(system, recipe, {}, next(system.parameters()).device)
    save_png(
        sample_sheet(
            model,
            store,
            split,
            count=recipe.training.samples,
            seed=recipe.training.seed,
            title=f"{recipe.name}: {seen}, {split} captions",
        ),
        path,
    )


def sample_sheet(
    model: Model,
    store: Store,
    split: str,
    *,
    count: int,
    columns: int = 6,
    seed: int = 0,
    title: str | None = None,
) -> Image.Image:
    """Captions at even distances in a split, so that nothing is picked by hand; the real image first.

    Args:
        model: what generates.
        store: whose captions and real images.
        split: of the store.
        count: captions, at most.
        columns: generated images for each.
        seed: of the noise.
        title: above the sheet.
    """
    rows = store.rows(split)
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    captions = [store.captions[row][0] for row in rows]
    told_apart = model.recipe.text is not None  # else by their noise alone
    batches = model.generate_arrays(captions, columns, seed, same_noise=told_apart)
    images = [Image.fromarray(image) for batch in batches for image in batch]
    lines = [
        [Tile(store.images.square(row)), *(Tile(image) for image in images[i * columns : (i + 1) * columns])]
        for i, row in enumerate(rows)
    ]
    titles = ["real", "generated"]
    return sheet(lines, title=title, column_titles=titles, row_titles=captions, lead_columns=1)
