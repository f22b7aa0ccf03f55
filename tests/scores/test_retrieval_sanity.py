"""R-precision of real images is best, falls with blur and noise, and is chance with captions shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from ganvas.data.emoji import EmojiSource
from ganvas.data.prepare import prepare
from ganvas.data.source import Request
from ganvas.data.store import Store
from ganvas.data.store_writer import StoreWriter
from ganvas.recipe import load_recipe
from ganvas.scores.pictures import Pictures, real
from ganvas.scores.retrieval import RetrievalProtocol, r_precision
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")

COCO_MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"
Images = npt.NDArray[np.uint8]


def blurred(images: Images, radius: float) -> Images:
    return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(radius))) for i in images])


def noisy(images: Images, deviation: float) -> Images:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


SPOILERS: dict[str, Callable[[Images, float], Images]] = {"blur": blurred, "noise": noisy}


def spoiled(pictures: Pictures, spoiler: str, amount: float) -> Pictures:
    spoil = SPOILERS[spoiler]
    return replace(pictures, batches=lambda: (spoil(batch, amount) for batch in pictures.batches()))


def check_order(
    store: Store, split: str, protocol: RetrievalProtocol, spoiler: str, amounts: Sequence[float]
) -> None:
    """Real images are best, more of the spoiler is worse, and shuffled captions are worst."""
    shown = real(store, split=split)
    shuffled = real(store, split=split, shuffled=True)
    every = [shown, *(spoiled(shown, spoiler, amount) for amount in amounts), shuffled]
    values = [r_precision(pictures, store, protocol).value for pictures in every]
    assert values == sorted(set(values), reverse=True), values
    assert values[-1] < 3 / protocol.candidates


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Some drawings of the test split, which the dual encoder that ships has never seen."""
    source = EmojiSource(Request())
    records = [record for record in source.records() if record.split == "test"][::4]
    path = tmp_path_factory.mktemp("emoji") / "data"
    with StoreWriter(path, name="emoji", size=64, source=source.about, licence=source.licence) as writer:
        for record in records:
            writer.add(record, source.load(record, 64))
        writer.finish()
    return Store(path)


@pytest.mark.parametrize(("spoiler", "amounts"), [("blur", (1.5, 3, 6)), ("noise", (40, 80, 160))])
def test_of_emoji_the_real_images_are_best_and_those_of_other_captions_chance(
    emoji: Store, spoiler: str, amounts: tuple[float, ...]
) -> None:
    check_order(emoji, "test", RetrievalProtocol(), spoiler, amounts)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Eighty photos, and a dual encoder that knows them by heart: so few teach it nothing about others."""
    if not COCO_MINI.is_dir():
        pytest.skip("the photos of coco_mini are not here")
    folder = tmp_path_factory.mktemp("photos")
    prepare("coco", folder / "data", place=COCO_MINI, size=32, allow_rejects=True, progress=False)
    store = Store(folder / "data")
    small = [
        "data.set=coco", "data.image_size=32", "data.flip=0.0", "settings.joint_embedding.image_width=16",
        "text.dropout=0.0", "text.features=64", "text.embedding=64", "training.batch_size=80",
        "training.images.text=8000", "training.device=cpu", "training.precision=float32",
        "training.ema_half_life=500",
    ]  # fmt: skip
    run = train(load_recipe("retriever", small), store, folder / "run")
    return store, str(run.folder)


@pytest.mark.parametrize(("spoiler", "amounts"), [("blur", (2, 4, 8)), ("noise", (40, 80, 160))])
def test_of_photos_the_real_images_are_best_and_those_of_other_captions_chance(
    photos: tuple[Store, str], spoiler: str, amounts: tuple[float, ...]
) -> None:
    store, retriever = photos
    check_order(store, "train", RetrievalProtocol(candidates=50, retriever=retriever), spoiler, amounts)
