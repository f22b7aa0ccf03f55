"""Training straight from tar shards: from the command line, resumed bit for bit."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import COLOURS, SIZE, THINGS, Called, outcome, tiny_recipe, tiny_tree

from ganvas.data.indexing import index_shards
from ganvas.data.stream_index import Reading, ShardStream
from ganvas.errors import GanvasError
from ganvas.recipe import load_recipe
from ganvas.training.checkpoint import list_checkpoints
from ganvas.training.inputs import StreamInputs
from ganvas.training.loop import train
from ganvas.training.run import recipe_store


def write_shards(folder: Path) -> Path:
    """Four shards of five coloured squares with captions."""
    folder.mkdir()
    pairs = [(colour, thing) for thing in THINGS for colour in COLOURS]
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(5 * shard, 5 * shard + 5):
                colour, thing = pairs[number]
                image = io.BytesIO()
                Image.new("RGB", (SIZE, SIZE), COLOURS[colour]).save(image, "PNG")
                for part, data in (("png", image.getvalue()), ("txt", f"a {colour} {thing}".encode())):
                    info = tarfile.TarInfo(f"{number}.{part}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> ShardStream:
    folder = tmp_path_factory.mktemp("stream")
    index_shards(str(write_shards(folder / "shards")), folder / "data", Reading(size=SIZE, lanes=2, buffer=8))
    return ShardStream(folder / "data")


@pytest.mark.usefixtures("single_threaded")
def test_a_run_that_stopped_anywhere_goes_on_bit_for_bit(stream: ShardStream, tmp_path: Path) -> None:
    whole = train(tiny_recipe(keep=99), stream, tmp_path / "whole").folder
    places = list_checkpoints(whole / "checkpoints")
    assert len(places) > 3
    for number, place in enumerate(places[:-1]):
        part, budget = tmp_path / f"part-{number}", {"text": 12, "gan": 24, "style": 8}
        _, phase, step = place.name.split("-")
        phases = list(budget)
        later = dict.fromkeys(phases[phases.index(phase) + 1 :], 0)
        train(tiny_recipe(images={**budget, phase: int(step) * 4, **later}), stream, part)
        train(tiny_recipe(), stream, part)
        assert outcome(part)[1] == outcome(whole)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.usefixtures("single_threaded")
def test_a_killed_run_goes_on_bit_for_bit(stream: ShardStream, tmp_path: Path) -> None:
    from functools import partial

    from forks import die_at_write, train_in_child

    whole = train(tiny_recipe(), stream, tmp_path / "whole").folder
    for place in (5, 10, 15):
        killed = tmp_path / f"killed-{place}"
        assert train_in_child(tiny_recipe(), stream, killed, partial(die_at_write, place, before=True)) != 0
        train(tiny_recipe(), stream, killed)
        assert outcome(killed) == outcome(whole)


def test_the_command_line_trains_from_shards_and_draws_samples(
    stream: ShardStream, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    tree = tiny_tree(sample_every=8)
    tree["data"]["set"] = "webdataset"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    how = ["--size", str(SIZE), "--option", "stream=yes", "--option", "lanes=2", "--option", "buffer=8"]
    done = ganvas("data", "prepare", "webdataset", stream.info.root, "--out", "data", *how)
    assert (done.status, done.out) == (0, "data\n"), done.err
    done = ganvas("train", "tiny.yaml", "--data", "data", "--out", "run")
    assert done.status == 0, done.err
    assert list((tmp_path / "run" / "samples").glob("gan-*.png"))
    again = ganvas("train", "tiny.yaml", "--data", stream.path, "--out", "run")
    assert again.status == 0 and "is trained already" in again.err


def test_a_stream_is_looked_at_through_its_preview(
    stream: ShardStream, tmp_path: Path, ganvas: Callable[..., Called]
) -> None:
    done = ganvas("data", "show", stream.path, "--count", "4", "--out", "sheet.png")
    assert done.status == 0 and (tmp_path / "sheet.png").is_file()
    done = ganvas("data", "inspect", stream.path)
    assert done.status == 0 and f"A stream of {len(stream):,} samples in {len(stream.counts)}" in done.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--option", "stream=yes"], "say where it lies"),
        (["shards", "--option", "stream=maybe"], "option stream=maybe: give yes or no"),
        (["shards", "--option", "stream=yes", "--like", "reed"], "prepare them without stream=yes"),
        (["shards", "--option", "stream=yes", "--option", "lane=2"], "did you mean 'lanes'"),
    ],
)
def test_what_cannot_be_indexed_is_one_line(
    arguments: list[str], why: str, ganvas: Callable[..., Called], tmp_path: Path
) -> None:
    done = ganvas("data", "prepare", "webdataset", *arguments, "--out", "data")
    assert done.status == 2 and why in done.err and done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_refuses_shards_that_are_read_otherwise(stream: ShardStream, tmp_path: Path) -> None:
    recipe = tiny_recipe(images={"text": 4})
    train(recipe, stream, tmp_path / "run")
    index_shards(stream.info.root, tmp_path / "other", Reading(size=SIZE, lanes=1, buffer=8))
    with pytest.raises(GanvasError, match="was trained on other data"):
        train(recipe, ShardStream(tmp_path / "other"), tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"captions": 4}, r"cannot serve data\.captions=4; give data\.captions=1"),
        ({"balanced": True}, r"cannot serve data\.balanced=True; give data\.balanced=false"),
        ({"image_size": 64}, "streams images of 16 px, but the recipe asks for 64 px"),
    ],
)
def test_what_a_stream_cannot_serve_is_one_line(
    stream: ShardStream, data: dict[str, object], why: str
) -> None:
    from ganvas.recipe import resolve

    tree = tiny_tree()
    tree["data"] |= data
    with pytest.raises(GanvasError, match=why):
        recipe_store(resolve(tree), stream.path)


def test_a_system_that_reads_several_captions_of_an_image_is_refused_before_any_phase(
    stream: ShardStream, tmp_path: Path
) -> None:
    small = [
        f"data.image_size={SIZE}",
        "text.features=8",
        "text.embedding=4",
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.damsm.width=4",
        "training.batch_size=4",
        "training.batch_sizes={}",
        "training.device=cpu",
    ]
    recipe = load_recipe("sd-gan-emoji", [*small, "training.images={damsm: 4, gan: 4}"])
    with pytest.raises(GanvasError, match=r"one caption of an image, and phase gan of this system reads 2"):
        train(recipe, stream, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    alone = load_recipe("sd-gan-emoji", [*small, "training.images={damsm: 4}"])
    assert (train(alone, stream, tmp_path / "damsm").model / "model.safetensors").is_file()


def test_mismatched_captions_are_those_of_the_next_image(stream: ShardStream) -> None:
    from ganvas.building import build_system
    from ganvas.data.stream import StreamFeed, StreamSettings
    from ganvas.training.device import make_fabric

    recipe = tiny_recipe()
    fabric = make_fabric(recipe.training)
    encoder = build_system(recipe, captions=stream.captions).text_encoder
    phase = build_system(recipe, captions=stream.captions).phases()[1]
    batch = StreamFeed(stream, StreamSettings(batch_size=4, image_size=SIZE)).batch(0)
    made = StreamInputs(encoder, phase, fabric)(batch)
    assert made.text is not None and made.wrong_text is not None
    wanted = encoder.eval().encode(batch.wrong_texts).sentence
    torch.testing.assert_close(made.wrong_text.sentence, wanted)
    assert not np.allclose(made.text.sentence.numpy(), made.wrong_text.sentence.numpy())
