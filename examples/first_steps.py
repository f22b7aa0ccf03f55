"""Prepare, train and generate from Python: what the commands of the README do.

Run it in an empty folder: ``python first_steps.py``. It takes a minute or two; the images are blobs.
"""

from pathlib import Path

import ganvas
from ganvas.data.prepare import prepare
from ganvas.data.store import Store
from ganvas.recipe import load_recipe
from ganvas.training.loop import train


def main() -> None:
    """Three steps."""
    prepare("emoji", "data/emoji-64", size=64)
    recipe = load_recipe("gan-int-cls-emoji-demo", ["training.images.text=6400", "training.images.gan=8000"])
    run = train(recipe, Store("data/emoji-64"), Path("runs/first-steps"))
    model = ganvas.load(run.folder)
    captions = [
        "a red apple in the noto style",
        "a woman firefighter with dark skin, drawn in the twemoji style",
    ]
    for number, image in enumerate(model.generate(captions, n=2, seed=0)):
        image.save(f"image-{number}.png")


if __name__ == "__main__":
    main()
