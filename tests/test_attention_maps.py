"""Which word drew which region: for models that attend to words, in Python and on a sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SIZE

from ganvas.building import build_system
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.recipe import load_recipe
from ganvas.training.loop import train
from ganvas.word_sheets import attention_file, lit

CAPTION = "a red ball and one green hat"


@pytest.fixture(scope="module")
def model(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Model:
    small = [
        f"data.image_size={SIZE}",
        "text.features=8",
        "text.embedding=4",
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.damsm.width=4",
        "training.images={damsm: 8, gan: 8}",
        "training.batch_sizes={}",
        "training.batch_size=4",
        "training.sample_every=0",
        "training.device=cpu",
    ]
    run = train(load_recipe("attngan-emoji", small), store, tmp_path_factory.mktemp("attention") / "run")
    return load(run.folder)


def test_every_word_has_a_map_and_the_weights_of_a_place_sum_to_one(model: Model) -> None:
    found = model.attention(CAPTION, n=2, seed=3)
    assert len(found) == 2
    for one, image in zip(found, model.generate([CAPTION], n=2, seed=3), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(image))
        assert one.words == ["a", "red", "ball", "[UNK]", "one", "green", "hat"]
        [weights] = one.maps
        assert weights.shape == (7, SIZE // 2, SIZE // 2)
        np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-4)


def test_one_caption_has_the_same_attention_beside_a_longer_one(model: Model) -> None:
    import torch

    alone = model.system.embed([CAPTION])
    both = model.system.embed([CAPTION, "one red ball a green hat and one blue cube a yellow star"])
    noise = torch.randn(2, model.system.noise_dim)
    [first] = model.system.attention(alone, noise[:1])
    [second] = model.system.attention(both, noise)
    torch.testing.assert_close(second[:1, :7], first, rtol=1e-4, atol=1e-5)
    assert (second[0, 7:] == 0).all()


def test_a_sheet_has_a_tile_for_every_word(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    from ganvas.model_folder import save_model

    save_model(model.system, model.recipe, folder, model.trained)
    path = attention_file(folder, [CAPTION], tmp_path / "attention.png", n=2)
    image = Image.open(path)
    single = Image.open(attention_file(folder, ["a hat"], tmp_path / "short.png"))
    assert image.width > 2 * single.width and image.height > single.height


def test_light_falls_where_the_weights_are() -> None:
    white = Image.new("RGB", (8, 8), "white")
    weights = np.zeros((2, 2), np.float32)
    weights[0, 1] = 0.7
    shown = np.asarray(lit(white, weights))
    assert shown[0, 7, 0] == 255 and shown[7, 0, 0] == 51
    assert (np.asarray(lit(white, np.full((2, 2), 0.5, np.float32))) == 51).all()


def test_systems_without_words_and_wrong_arguments_say_so(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="system gan-int-cls, which does not attend to words"):
        attention_file(undisturbed, [CAPTION], tmp_path / "a.png")
    with pytest.raises(GanvasError, match=r"name a \.png file"):
        attention_file(undisturbed, [CAPTION], tmp_path / "folder")
    with pytest.raises(GanvasError, match="no caption given"):
        attention_file(undisturbed, [], tmp_path / "a.png")
    with pytest.raises(GanvasError, match="65 images: attention is shown for at most 64"):
        attention_file(undisturbed, [CAPTION], tmp_path / "a.png", n=65)
    assert not list(tmp_path.iterdir())


def test_a_single_stage_attends_to_nothing_and_says_so(model: Model) -> None:
    recipe = replace(model.recipe, settings=replace(model.recipe.settings, stages=1))
    single = Model(build_system(recipe, captions=[CAPTION]), recipe, {}, model.device)
    with pytest.raises(GanvasError, match=r"does not attend to words with these settings.*stages=2"):
        single.attention(CAPTION)
