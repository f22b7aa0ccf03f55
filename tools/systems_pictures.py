"""Make the pictures that docs show of several systems, from trained runs; nothing is picked by hand.

python tools/systems_pictures.py runs/systems/*/ --data data/emoji-64    # docs/images/systems.png
python tools/systems_pictures.py runs/systems/attngan-emoji runs/systems/sd-gan-emoji \
    --data data/emoji-64 --described                                    # docs/images/descriptions.png

Captions are of pictures at even distances in the test split, the noise is that of seed 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from readme_pictures import IMAGES, write

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.sheets import Tile, sheet

NUM_CAPTIONS = 10
NUM_DESCRIBED = 2
NUM_WAYS = 5


def evenly(rows: Sequence[int], number: int) -> list[int]:
    """So many rows at even distances, from the middle of each part."""
    return [rows[(2 * i + 1) * len(rows) // (2 * number)] for i in range(number)]


def of_systems(models: Sequence[Model], store: Store) -> Image.Image:
    """A row a caption; the real picture, and an image by each system."""
    rows = evenly(store.rows("test").tolist(), NUM_CAPTIONS)
    captions = [store.captions[row][0] for row in rows]
    drawn = [model.generate(captions, seed=0) for model in models]
    tiles = [
        [Tile(store.images.square(row)), *(Tile(images[n]) for images in drawn)] for n, row in enumerate(rows)
    ]
    titles = ["real", *(model.recipe.system for model in models)]
    return sheet(tiles, row_titles=captions, column_titles=titles, tile_size=96, smooth=True)


def of_descriptions(models: Sequence[Model], store: Store) -> Image.Image:
    """Pictures described in five ways: a row a description, for each picture; a column a system."""
    several = [row for row in store.rows("test").tolist() if len(set(store.captions[row])) >= NUM_WAYS]
    tiles, titles = [], []
    for row in evenly(several, NUM_DESCRIBED):
        captions = list(dict.fromkeys(store.captions[row]))[:NUM_WAYS]
        drawn = [model.generate(captions, seed=0) for model in models]
        real = Tile(store.images.square(row))
        tiles += [[real, *(Tile(images[n]) for images in drawn)] for n in range(NUM_WAYS)]
        titles += captions
    columns = ["real", *(model.recipe.system for model in models)]
    return sheet(tiles, row_titles=titles, column_titles=columns, tile_size=96, smooth=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the prepared set")
    parser.add_argument("--described", action="store_true", help="pictures described in five ways")
    parser.add_argument("--out", type=Path, help="the PNG file")
    given = parser.parse_args()
    try:
        store = Store(given.data)
        models = [load(run, device="cpu") for run in given.runs if (run / "model").is_dir()]
        make, name = (of_descriptions, "descriptions") if given.described else (of_systems, "systems")
        write(make(models, store), given.out or IMAGES / f"{name}.png")
    except GanvasError as error:
        sys.exit(f"systems_pictures.py: {error}")


if __name__ == "__main__":
    main()
