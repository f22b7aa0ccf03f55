"""Released AttnGANs at any widths: against a plain reading of their keys, and as model folders."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ganvas
from ganvas.convert.attngan import (
    attngan,
    attngan_discriminator,
    attngan_generator,
    generator_settings,
)
from ganvas.convert.damsm_release import released_text_encoder
from ganvas.convert.official import convert_files
from ganvas.errors import GanvasError
from ganvas.systems.attngan import AttnGan, AttnGanSettings
from ganvas.text.encoder import Text

WORDS = ["<end>", "bird", "a", "red", "this"]
State = dict[str, Tensor]
Z, N, D = 5, 3, 8  # widths of noise, condition, and sentences and words


def norm(name: str, width: int) -> State:
    """Batch normalisation as PyTorch 0.3 saved it."""
    return {
        f"{name}.weight": 1 + 0.1 * torch.randn(width),
        f"{name}.bias": 0.1 * torch.randn(width),
        f"{name}.running_mean": 0.1 * torch.randn(width),
        f"{name}.running_var": torch.rand(width) + 0.5,
    }


def conv(num_out: int, num_in: int, kernel: int) -> Tensor:
    return torch.randn(num_out, num_in, kernel, kernel) / (num_in * kernel**2) ** 0.5


def generator_state(gf: int = 4, residual: int = 1, stages: int = 3, *, dcgan: bool = False) -> State:
    torch.manual_seed(0)
    state = {
        "ca_net.fc.weight": torch.randn(4 * N, D) / D**0.5,
        "ca_net.fc.bias": torch.randn(4 * N),
        "h_net1.fc.0.weight": torch.randn(32 * 16 * gf, N + Z),
        **norm("h_net1.fc.1", 32 * 16 * gf),
    }
    for i, width in enumerate((16 * gf, 8 * gf, 4 * gf, 2 * gf), 1):
        state[f"h_net1.upsample{i}.1.weight"] = conv(width, width, 3)
        state |= norm(f"h_net1.upsample{i}.2", width)
    for i in range(2, stages + 1):
        state[f"h_net{i}.att.conv_context.weight"] = conv(gf, D, 1)
        for r in range(0 if dcgan else residual):
            block = f"h_net{i}.residual.{r}.block"
            state[f"{block}.0.weight"], state[f"{block}.3.weight"] = (
                conv(4 * gf, 2 * gf, 3),
                conv(2 * gf, 2 * gf, 3),
            )
            state |= norm(f"{block}.1", 4 * gf) | norm(f"{block}.4", 2 * gf)
        state[f"h_net{i}.upsample.1.weight"] = conv(2 * gf, 2 * gf, 3)
        state |= norm(f"h_net{i}.upsample.2", 2 * gf)
    heads = ["img_net"] if dcgan else [f"img_net{i}" for i in range(1, stages + 1)]
    return state | {f"{head}.img.0.weight": conv(3, gf, 3) for head in heads}


def text_state(words: int = len(WORDS), dim: int = D) -> State:
    lstm = torch.nn.LSTM(6, dim // 2, bidirectional=True)
    return {
        "encoder.weight": torch.randn(words, 6),
        **{f"rnn.{name}": value.clone() for name, value in lstm.state_dict().items()},
    }


def normalised(state: State, name: str, x: Tensor) -> Tensor:
    """Of a batch, as in evaluation."""
    mean, variance, gain, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, gain, bias)


def drawn_plainly(state: State, z: Tensor, text: Text) -> list[Tensor]:
    """What the keys of a release say, one after the other; the condition is its mean."""

    def up(name: str, place: str, x: Tensor) -> Tensor:
        x = F.conv2d(F.interpolate(x, scale_factor=2), state[f"{name}{place}.1.weight"], padding=1)
        return F.glu(normalised(state, f"{name}{place}.2", x), dim=1)

    mean = F.glu(F.linear(text.sentence, state["ca_net.fc.weight"], state["ca_net.fc.bias"]), dim=1)[:, :N]
    seed = normalised(state, "h_net1.fc.1", torch.cat([mean, z], dim=1) @ state["h_net1.fc.0.weight"].T)
    h = F.glu(seed, dim=1).view(len(z), -1, 4, 4)
    for i in range(1, 5):
        h = up("h_net1.upsample", str(i), h)
    features = [h]
    for stage in range(2, 10):
        name = f"h_net{stage}"
        if f"{name}.att.conv_context.weight" not in state:
            break
        words = torch.einsum("ck,btk->btc", state[f"{name}.att.conv_context.weight"][..., 0, 0], text.words)
        scores = torch.einsum("bchw,btc->bthw", h, words)
        weights = scores.masked_fill(~text.mask[:, :, None, None], -torch.inf).softmax(dim=1)
        h = torch.cat([h, torch.einsum("bthw,btc->bchw", weights, words)], dim=1)
        for r in range(10):
            block = f"{name}.residual.{r}.block"
            if f"{block}.0.weight" not in state:
                break
            x = F.conv2d(h, state[f"{block}.0.weight"], padding=1)
            x = F.glu(normalised(state, f"{block}.1", x), dim=1)
            x = F.conv2d(x, state[f"{block}.3.weight"], padding=1)
            h = h + normalised(state, f"{block}.4", x)
        h = up(name, ".upsample", h)
        features.append(h)
    if "img_net.img.0.weight" in state:
        return [F.conv2d(h, state["img_net.img.0.weight"], padding=1).tanh()]
    return [
        F.conv2d(h, state[f"img_net{i}.img.0.weight"], padding=1).tanh() for i, h in enumerate(features, 1)
    ]


@pytest.mark.parametrize(
    ("gf", "residual", "stages", "words", "dcgan"),
    [
        (4, 1, 3, 18, False),
        (6, 3, 3, 12, False),
        (3, 2, 2, 20, False),
        (4, 2, 1, 5, False),
        (4, 0, 3, 7, True),
    ],
)
@torch.no_grad()
def test_generators_of_other_widths_draw_what_their_keys_say(
    gf: int, residual: int, stages: int, words: int, dcgan: bool
) -> None:
    state = generator_state(gf, residual, stages, dcgan=dcgan)
    model = attngan_generator(state)
    mask = torch.arange(words) < torch.tensor([[words], [words // 2]])
    text = Text(torch.randn(2, D), torch.randn(2, words, D), mask)
    z = torch.randn(2, Z)
    images = model(text, torch.cat([z, torch.zeros(2, N)], dim=1)).images
    expected = drawn_plainly(state, z, text)
    assert [image.shape for image in images] == [image.shape for image in expected]
    for image, other in zip(images, expected, strict=True):
        assert torch.allclose(image, other, atol=2e-5)


def test_form_and_widths_are_read_from_the_tensors() -> None:
    widths: dict[str, Any] = {"stages": 3, "generator_width": 4, "noise_dim": Z, "condition_dim": N}
    assert generator_settings(generator_state()) == (AttnGanSettings(residual_blocks=1, **widths), 256)
    found, size = generator_settings(generator_state(dcgan=True))
    assert size == 256 and found == AttnGanSettings(form="dcgan", residual_blocks=0, **widths)
    assert generator_settings(generator_state(stages=2))[1] == 128


def test_prefixes_are_dropped() -> None:
    state = generator_state()
    prefixed = attngan_generator({f"module.{name}": value for name, value in state.items()})
    for name, value in attngan_generator(state).state_dict().items():
        assert torch.equal(prefixed.state_dict()[name], value)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda state: state.pop("h_net2.upsample.2.bias"), "'further.0.up.1.bias' is missing"),
        (lambda state: state.pop("img_net1.img.0.weight"), "'img_net1.img.0.weight' is missing"),
        (lambda state: state.pop("ca_net.fc.weight"), "'ca_net.fc.weight' is missing"),
        (lambda state: state.update(extra=torch.ones(1)), "'extra' is no key of this release"),
        (
            lambda state: state.update({"h_net3.att.conv_context.weight": conv(5, D, 1)}),
            "'h_net3.att.conv_context.weight' has the shape (5, 8, 1, 1)",
        ),
        (lambda state: state.update({"h_net1.fc.0.weight": torch.ones(2048, 3)}), "too narrow"),
    ],
)
def test_a_wrong_key_of_a_generator_is_named_in_one_line(spoil: Callable[[State], Any], problem: str) -> None:
    state = generator_state()
    spoil(state)
    with pytest.raises(GanvasError) as refused:
        attngan_generator(state)
    assert problem in str(refused.value) and "\n" not in str(refused.value)


def discriminator_state(df: int, size: int, *, unconditional: bool) -> State:
    torch.manual_seed(0)
    halvings = int(np.log2(size / 4))
    state = {"img_code_s16.0.weight": conv(df, 3, 4)}
    for i, place in ((1, 2), (2, 5), (3, 8)):
        state[f"img_code_s16.{place}.weight"] = conv(df << i, df << (i - 1), 4)
        state |= norm(f"img_code_s16.{place + 1}", df << i)
    for i in range(4, halvings):
        state[f"img_code_s{8 << (i - 2)}.0.weight"] = conv(df << i, df << (i - 1), 4)
        state |= norm(f"img_code_s{8 << (i - 2)}.1", df << i)
    for j, i in enumerate(range(halvings - 1, 3, -1), 1):
        name = f"img_code_s{size // 4}_{j}"
        state |= {f"{name}.0.weight": conv(df << (i - 1), df << i, 3)} | norm(f"{name}.1", df << (i - 1))
    state["COND_DNET.jointConv.0.weight"] = conv(8 * df, 8 * df + D, 3)
    state |= norm("COND_DNET.jointConv.1", 8 * df)
    for head in ["COND_DNET", *(["UNCOND_DNET"] if unconditional else [])]:
        state |= {
            f"{head}.outlogits.0.weight": conv(1, 8 * df, 4),
            f"{head}.outlogits.0.bias": torch.randn(1),
        }
    return state


def judged_plainly(state: State, x: Tensor, sentence: Tensor) -> list[Tensor]:
    """Logits with the sentence, and without where there is a head for it."""

    def unit(x: Tensor, name: str, places: tuple[int, int], stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{name}.{places[0]}.weight"], stride=stride, padding=1)
        return F.leaky_relu(normalised(state, f"{name}.{places[1]}", x), 0.2)

    x = F.leaky_relu(F.conv2d(x, state["img_code_s16.0.weight"], stride=2, padding=1), 0.2)
    for place in (2, 5, 8):
        x = unit(x, "img_code_s16", (place, place + 1), stride=2)
    for name in ("img_code_s32", "img_code_s64"):
        if f"{name}.0.weight" in state:
            x = unit(x, name, (0, 1), stride=2)
    for name in ("img_code_s32_1", "img_code_s64_1", "img_code_s64_2"):
        if f"{name}.0.weight" in state:
            x = unit(x, name, (0, 1))
    tiled = sentence[:, :, None, None].expand(-1, -1, 4, 4)
    joint = unit(torch.cat([x, tiled], dim=1), "COND_DNET.jointConv", (0, 1))
    heads = [("COND_DNET", joint), ("UNCOND_DNET", x)]
    return [
        F.conv2d(h, state[f"{name}.outlogits.0.weight"], state[f"{name}.outlogits.0.bias"]).flatten()
        for name, h in heads
        if f"{name}.outlogits.0.weight" in state
    ]


@pytest.mark.parametrize(("df", "size", "unconditional"), [(2, 64, True), (3, 128, True), (2, 256, False)])
@torch.no_grad()
def test_discriminators_of_other_widths_judge_as_their_keys_say(
    df: int, size: int, unconditional: bool
) -> None:
    state = discriminator_state(df, size, unconditional=unconditional)
    model = attngan_discriminator(state)
    images, sentence = torch.randn(2, 3, size, size).tanh(), torch.randn(2, D)
    features = model.features(images)
    ours = [model.judge(features, sentence), *([model.judge_alone(features)] if unconditional else [])]
    expected = judged_plainly(state, images, sentence)
    assert len(ours) == len(expected) and (model.unconditional is not None) == unconditional
    for logits, other in zip(ours, expected, strict=True):
        assert torch.allclose(logits, other, atol=1e-5)


def test_a_discriminator_without_a_place_for_the_sentence_is_refused() -> None:
    state = discriminator_state(2, 64, unconditional=True)
    state["COND_DNET.jointConv.0.weight"] = conv(16, 16, 3)
    with pytest.raises(GanvasError, match="no place for a sentence"):
        attngan_discriminator(state)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    torch.manual_seed(0)
    torch.save({"netG": generator_state(stages=2)}, tmp_path / "bird_AttnGAN2.pth")
    torch.save(text_state(), tmp_path / "text_encoder200.pth")
    words = dict(enumerate(WORDS))
    captions = [[1], [2], words, {word: index for index, word in words.items()}]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(captions, protocol=2))
    return sorted(tmp_path.iterdir())


@torch.no_grad()
def test_a_release_becomes_a_model_that_draws_its_images(files: list[Path], tmp_path: Path) -> None:
    converted = convert_files("attngan", files, tmp_path / "model")
    model = ganvas.load(tmp_path / "model", device="cpu")
    system = model.system
    assert isinstance(system, AttnGan) and model.image_size == 128
    assert model.recipe == converted.recipe and model.recipe.settings.generator_width == 4
    text = system.embed(["a red bird", "this"])
    z = torch.randn(2, Z)
    images = system.generate(text, torch.cat([z, torch.zeros(2, N)], dim=1))
    for image, other in zip(images, drawn_plainly(generator_state(stages=2), z, text), strict=True):
        assert torch.allclose(image, other, atol=2e-5)
    assert system.text_encoder.tokenize(["This blue, red bird!"]).tolist() == [[4, 3, 1]]
    first, second = (model.generate(captions, seed=1)[0] for captions in (["a bird"], ["a bird", "this"]))
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_the_mask_of_its_training_is_a_choice() -> None:
    encoder = released_text_encoder(text_state(), {word: number for number, word in enumerate(WORDS)})
    system = attngan(generator_state(stages=2), encoder, "cub", mask_compat=True).system
    assert isinstance(system, AttnGan)
    assert all(stage.attention.mask_compat for stage in system.generator.further)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda files: files.pop(0), "the generator is missing"),
        (lambda files: files.pop(1), "give the captions.pickle"),
        (lambda files: files.pop(2), "the text encoder is missing"),
        (lambda files: torch.save(text_state(dim=6), files[2]), "the text encoder's have 6"),
        (lambda files: torch.save(text_state(7), files[2]), "has 7 words, and captions.pickle 5"),
    ],
)
def test_what_is_wrong_with_a_release_is_said_in_one_line(
    files: list[Path], tmp_path: Path, spoil: Callable[[list[Path]], Any], problem: str
) -> None:
    spoil(files)
    with pytest.raises(GanvasError) as refused:
        convert_files("attngan", files, tmp_path / "model")
    assert problem in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "model").exists()
