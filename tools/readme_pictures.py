"""Make the pictures that show the model that ships, from fixed captions and seeds; nothing is picked by hand.

python tools/readme_pictures.py                           # docs/images/default-model.png
python tools/readme_pictures.py --data data/emoji-64      # and default-model-range.png, chosen by a score

The range shows captions of the test split whose images an independent dual encoder likes best and least.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.models import DEFAULT
from ganvas.pipeline import Model, load
from ganvas.scores.dual_encoders import DualEncoder, load_retriever
from ganvas.sheets import Tile, sheet, write_whole

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
MAX_BYTES = 400_000
SEEDS = range(8)
CAPTIONS = (
    "a smiling cat with heart eyes",
    "a red apple in the noto style",
    "a woman with red hair",
    "a waving hand with dark skin tone",
    "a blue car in the twemoji style",
    "a sleeping face",
)
"""Written down before any picture was looked at."""
NUM_SHOWN = 8  # best and worst


def of_seeds(model: Model) -> Image.Image:
    """A row a caption, a column a seed."""
    drawn = [model.generate(CAPTIONS, seed=seed) for seed in SEEDS]
    rows = [[Tile(images[number]) for images in drawn] for number in range(len(CAPTIONS))]
    return sheet(
        rows, row_titles=CAPTIONS, column_titles=[f"seed {seed}" for seed in SEEDS], tile_size=96, smooth=True
    )


def of_range(model: Model, store: Store) -> Image.Image:
    """The best and the worst of the test split, each with the real image: one image for each caption."""
    rows = store.rows("test")
    captions = [store.captions[row][0] for row in rows]
    images = [image for batch in model.generate_arrays(captions, same_noise=False) for image in batch]
    encoder, _ = load_retriever(store.info.name)
    order = np.argsort(-likeness(encoder, images, captions), kind="stable").tolist()
    labels = [store.labels[row] for row in rows]

    def part(places: Sequence[int]) -> list[list[Tile]]:
        real = [Tile(store.images.square(rows[place])) for place in places]
        return [real, [Tile(images[place], captions[place]) for place in places]]

    tiles = part(first_of_each(order, labels)) + part(first_of_each(order[::-1], labels))
    titles = ["real", "generated: the best", "real", "generated: the worst"]
    return sheet(tiles, row_titles=titles, tile_size=96, caption_lines=4, smooth=True)


def first_of_each(order: Sequence[int], labels: Sequence[object]) -> list[int]:
    """The first places, one for each class: styles and skin tones of one drawing count as the same."""
    firsts: dict[object, int] = {}
    for place in order:
        firsts.setdefault(labels[place], place)
    return list(firsts.values())[:NUM_SHOWN]


@torch.inference_mode()
def likeness(encoder: DualEncoder, images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """How much better each image fits its own caption than the others do, in cosines."""
    found = []
    for start in range(0, len(images), 64):
        pixels = torch.from_numpy(np.stack(images[start : start + 64])).permute(0, 3, 1, 2).float()
        found.append(encoder.image_features(pixels / 127.5 - 1))
    pictures = torch.nn.functional.normalize(torch.cat(found), dim=1)
    texts = torch.nn.functional.normalize(encoder.caption_features(captions), dim=1)
    cosines = pictures @ texts.t()
    return (cosines.diagonal() - cosines.mean(dim=1)).numpy()


def write(image: Image.Image, path: Path) -> None:
    """Of 256 colours, as so many are not told from more."""
    file = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    if len(file.getvalue()) > MAX_BYTES:
        raise GanvasError(f"{path}: {len(file.getvalue()):,} bytes, more than {MAX_BYTES:,}; show less")
    print(write_whole(path, file.getvalue()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--data", type=Path, help="the prepared emoji set, for the range")
    parser.add_argument("--out", type=Path, default=IMAGES)
    given = parser.parse_args()
    try:
        model = load(given.model, device="cpu")
        write(of_seeds(model), given.out / "default-model.png")
        if given.data:
            write(of_range(model, Store(given.data)), given.out / "default-model-range.png")
    except GanvasError as error:
        sys.exit(f"readme_pictures.py: {error}")


if __name__ == "__main__":
    main()
