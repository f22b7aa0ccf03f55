"""Flax checkpoints of XMC-GAN as systems that generate."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ganvas.convert.official import convert_files
from ganvas.convert.xmcgan import xmcgan_discriminator, xmcgan_generator
from ganvas.errors import GanvasError
from ganvas.model_folder import save_model
from ganvas.pipeline import load
from ganvas.recipe import resolve
from ganvas.systems.damsm import DamsmEncoders, DamsmSettings
from ganvas.systems.xmc_gan_networks import Discriminator, Generator, XmcGanSettings
from ganvas.text import build
from ganvas.text.encoder import Text
from ganvas.text.settings import BiLstmSettings

msgpack = pytest.importorskip("msgpack")
GF, DF, Z, N, D, E = 2, 3, 5, 4, 8, 8
CAPTIONS = ["a red bird", "bird"]


def official_generator(image_size: int) -> dict[str, Tensor]:
    """Weights under Flax's names, with the shapes of the official code."""
    multiples = {256: [16, 16, 8, 8, 4, 2, 1], 128: [16, 16, 8, 4, 2, 1]}[image_size]
    widths, state = [GF * multiple for multiple in multiples], {}

    def layer(name: str, *shape: int) -> None:
        state[f"params/{name}/kernel"] = torch.randn(shape) / np.sqrt(np.prod(shape[:-1]))
        state[f"params/{name}/bias"] = 0.1 * torch.randn(shape[-1])

    def norm(name: str, local: bool, channels: int) -> None:
        for i in (0, 1):
            if local:
                layer(f"{name}/Conv_{i}", 1, 1, D + N + Z, channels)
            else:
                layer(f"{name}/Dense_{i}", N + Z, channels)
        state[f"batch_stats/{name}/BatchNorm_0/mean"] = 0.1 * torch.randn(channels)
        state[f"batch_stats/{name}/BatchNorm_0/var"] = torch.rand(channels) + 0.5

    layer("Dense_0", E, N)
    layer("Dense_1", Z, 16 * widths[0])
    layer("Conv_0", 1, 1, widths[2], D)
    for i, (num_in, num_out) in enumerate(pairwise(widths)):
        local = i >= 2
        name = f"GenSpatialBlock_{i - 2}" if local else f"GenBlock_{i}"
        kind = "LocalConditional" if local else "Conditional"
        norm(f"{name}/{kind}BatchNorm_0", local, num_in)
        norm(f"{name}/{kind}BatchNorm_1", local, num_out)
        layer(f"{name}/Conv_0", 3, 3, num_in, num_out)
        layer(f"{name}/Conv_1", 3, 3, num_out, num_out)
        layer(f"{name}/Conv_2", 1, 1, num_in, num_out)
    norm("LocalConditionalBatchNorm_0", True, widths[-1])
    layer("Conv_1", 3, 3, widths[-1], 3)
    return state


def pack(tree: Any) -> Any:
    """As flax.serialization writes it."""
    if isinstance(tree, dict):
        return {key: pack(value) for key, value in tree.items()}
    array = tree.numpy()
    content = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
    return msgpack.ExtType(1, content)


def nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *above, leaf = key.split("/")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[leaf] = value
    return tree


def write_checkpoint(path: Path, state: dict[str, Tensor]) -> Path:
    tree = nested(state)
    train = {
        "step": torch.tensor(7),
        "g_optimizer": {"target": {"other": torch.ones(2)}},
        "generator_state": {"batch_stats": tree["batch_stats"]},
        "ema_params": tree["params"],
    }
    path.write_bytes(msgpack.packb(pack(train), strict_types=True))
    return path


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A model whose text encoder has the widths of the small release."""
    encoder = build(BiLstmSettings(features=D, embedding=4, num_words=6), CAPTIONS)
    settings = {"image_encoder": "scratch", "width": 4, "regions": 4}
    recipe = resolve(
        {
            "name": "text",
            "system": "damsm",
            "data": {"set": "folder", "image_size": 16},
            "text": {"encoder": "bilstm", "features": D, "embedding": 4, "num_words": 6},
            "settings": settings,
            "training": {"images": {"damsm": 0}},
        }
    )
    system = DamsmEncoders(DamsmSettings(image_encoder="scratch", width=4, regions=4), encoder, 16)
    save_model(system, recipe, tmp_path / "text", {})
    return tmp_path / "text"


@pytest.mark.parametrize("image_size", [128, 256])
def test_a_checkpoint_becomes_a_model_that_draws_what_its_generator_draws(
    image_size: int, tmp_path: Path, text_model: Path
) -> None:
    torch.manual_seed(0)
    state = official_generator(image_size)
    file = write_checkpoint(tmp_path / "ckpt-7.flax", state)
    convert_files("xmcgan", [file], tmp_path / "out", text_model)
    system = load(tmp_path / "out", device="cpu").system
    generator, settings, widths = xmcgan_generator(state)
    assert widths == (E, D, image_size) and settings.generator_width == GF and settings.noise_dim == Z
    with torch.no_grad():
        text, noise = system.embed(CAPTIONS), torch.randn(2, system.noise_dim)
        (images,) = system.generate(text, noise)
        assert images.shape == (2, 3, image_size, image_size)
        assert torch.allclose(images, generator(text, noise), atol=1e-6)


def damaged(state: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    if change == "missing":
        del state["params/GenBlock_1/Conv_0/bias"]
    elif change == "unknown":
        state["params/Extra_0/kernel"] = torch.ones(2, 2)
    elif change == "shape":
        state["params/GenBlock_0/Conv_0/kernel"] = torch.ones(3, 3, 2, 2)
    else:
        state["params/Dense_1/kernel"] = torch.ones(Z, 48)
    return state


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "start"])
def test_a_wrong_checkpoint_is_one_line_and_nothing_is_written(
    change: str, tmp_path: Path, text_model: Path
) -> None:
    file = write_checkpoint(tmp_path / "ckpt-7.flax", damaged(official_generator(128), change))
    with pytest.raises(GanvasError) as refused:
        convert_files("xmcgan", [file], tmp_path / "out", text_model)
    assert "\n" not in str(refused.value) and "XMC-GAN generator" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no message pack at all",
        msgpack.packb({"a": 1}),
        msgpack.packb({"ema_params": {"w": msgpack.ExtType(1, msgpack.packb([[9], "float32", b"123"]))}}),
        msgpack.packb({"x": {"w": msgpack.ExtType(1, msgpack.packb([[1], "float32", b"1234"]))}}),
        msgpack.packb({"ema_params": {"w": msgpack.ExtType(1, b"\xc1")}}),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ckpt.flax").write_bytes(content)
    with pytest.raises(GanvasError) as refused:
        convert_files("xmcgan", [tmp_path / "ckpt.flax"], tmp_path / "out")
    assert "\n" not in str(refused.value) and "ckpt.flax" in str(refused.value)


def test_a_text_encoder_of_other_widths_is_refused(tmp_path: Path, text_model: Path) -> None:
    state = official_generator(128)
    state["params/Dense_0/kernel"] = torch.randn(E + 1, N)
    file = write_checkpoint(tmp_path / "ckpt.flax", state)
    with pytest.raises(GanvasError, match=r"widths 9 and 8, but the text encoder gives 8 and 8"):
        convert_files("xmcgan", [file], tmp_path / "out", text_model)


def flax_of(model: torch.nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """A discriminator of ours under Flax's names."""
    state = {}
    for key, value in model.state_dict().items():
        module, leaf = key.rsplit(".", 1)
        name = names[module]
        if leaf == "u":
            state[f"spectral_norm_stats/{name}/u0"] = value[None]
        elif leaf == "bias":
            state[f"params/{name}/bias"] = value
        else:
            kernel = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.t()
            state[f"params/{name}/kernel"] = kernel
    return state


@pytest.mark.parametrize(("image_size", "region_side"), [(64, 16), (128, 16), (128, 32), (256, 16)])
def test_a_discriminator_is_converted_whatever_its_size(image_size: int, region_side: int) -> None:
    torch.manual_seed(0)
    settings = XmcGanSettings(discriminator_width=DF, region_side=region_side)
    model = Discriminator(settings, E, D, image_size).eval()
    names = {"logit": "SpectralDense_0", "sentence": "SpectralDense_1", "region": "SpectralConv_0"}
    for i in range(len(model.blocks)):
        block = f"DiscBlock_{i - 1}" if i else "DiscOptimizedBlock_0"
        for j, part in enumerate(("conv1", "conv2", "shortcut")):
            names[f"blocks.{i}.{part}"] = f"{block}/SpectralConv_{j}"
    ours, found = xmcgan_discriminator(flax_of(model, names))
    assert (found.discriminator_width, found.region_side) == (DF, region_side)
    images, sentence = torch.randn(2, 3, image_size, image_size).tanh(), torch.randn(2, E)
    with torch.no_grad():
        mine, theirs = ours(images, sentence), model(images, sentence)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert ours.regions(mine.middle).shape == (2, D, region_side, region_side)


def test_settings_that_a_file_shows_are_read_from_it() -> None:
    state = official_generator(128)
    state["params/Dense_1/kernel"] = torch.randn(N + Z, 16 * 16 * GF)
    model, settings, _ = xmcgan_generator(state)
    assert settings.first_input == "both" and isinstance(model, Generator)
    text = Text(torch.randn(1, E), torch.randn(1, 3, D), torch.ones(1, 3, dtype=torch.bool))
    with torch.no_grad():
        assert model(text, torch.randn(1, Z)).shape == (1, 3, 128, 128)
