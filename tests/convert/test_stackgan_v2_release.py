"""Files of StackGAN++ releases as systems that generate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

import ganvas
from ganvas.convert.official import convert_files
from ganvas.convert.stackgan_v2 import stackgan_v2, stackgan_v2_discriminator, stackgan_v2_generator
from ganvas.errors import GanvasError
from ganvas.model_folder import save_model
from ganvas.pipeline import load
from ganvas.recipe import resolve
from ganvas.text.char_cnn_rnn import CharCnnRnn
from ganvas.text.encoder import NoText
from ganvas.text.settings import CharCnnRnnSettings

State = dict[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var")
Z, N, D = 7, 5, 16


def made(shapes: dict[str, list[int]], prefix: str = "") -> State:
    """Tensors that keep signals about as large as they come, without the counters that old files lack."""
    torch.manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        x = torch.randn(shape)
        if len(shape) > 1:
            x = x / x[0].numel() ** 0.5
        elif key.endswith("running_var"):
            x = (0.1 * x).exp()
        else:
            x = 0.1 * x + (0.0 if key.endswith(("bias", "mean")) else 1.0)
        state[prefix + key] = x
    return state


def plain_images(state: State, sentence: Tensor, z: Tensor) -> list[Tensor]:
    """What an official generator computes for the mean condition, read from its keys."""
    w = {key.removeprefix("module."): value for key, value in state.items()}

    def normed(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, variance = (w[f"{name}.{leaf}"] for leaf in NORM)
        return F.batch_norm(x, mean, variance, weight, bias)

    def gated(x: Tensor, kernel: str, norm: str) -> Tensor:
        return F.glu(normed(F.conv2d(x, w[kernel], padding=1), norm), dim=1)

    def larger(x: Tensor, name: str) -> Tensor:
        return gated(F.interpolate(x, scale_factor=2), f"{name}.1.weight", f"{name}.2")

    c = start = z
    if "ca_net.fc.weight" in w:
        c = F.glu(F.linear(sentence, w["ca_net.fc.weight"], w["ca_net.fc.bias"]), dim=1)[:, :N]
        start = torch.cat([c, z], dim=1)
    x = F.glu(normed(F.linear(start, w["h_net1.fc.0.weight"]), "h_net1.fc.1"), dim=1)
    x = x.view(len(z), -1, 4, 4)
    for number in range(1, 5):
        x = larger(x, f"h_net1.upsample{number}")
    images, net = [torch.tanh(F.conv2d(x, w["img_net1.img.0.weight"], padding=1))], 2
    while f"img_net{net}.img.0.weight" in w:
        tiled = c[:, :, None, None].expand(-1, -1, *x.shape[2:])
        name = f"h_net{net}.jointConv"
        x = gated(torch.cat([tiled, x], dim=1), f"{name}.0.weight", f"{name}.1")
        block = 0
        while f"h_net{net}.residual.{block}.block.0.weight" in w:
            name = f"h_net{net}.residual.{block}.block"
            inner = gated(x, f"{name}.0.weight", f"{name}.1")
            x = x + normed(F.conv2d(inner, w[f"{name}.3.weight"], padding=1), f"{name}.4")
            block += 1
        x = larger(x, f"h_net{net}.upsample")
        images.append(torch.tanh(F.conv2d(x, w[f"img_net{net}.img.0.weight"], padding=1)))
        net += 1
    return images


def norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.{leaf}": [width] for leaf in NORM}


def generator(
    gf: int = 8, branches: int = 3, blocks: int = 2, *, captions: bool = True, prefix: str = "module."
) -> State:
    """The official keys of a generator."""
    condition, start = (N, Z + N) if captions else (Z, Z)
    shapes: dict[str, list[int]] = {}
    if captions:
        shapes |= {"ca_net.fc.weight": [4 * N, D], "ca_net.fc.bias": [4 * N]}
    shapes |= {"h_net1.fc.0.weight": [512 * gf, start], **norm("h_net1.fc.1", 512 * gf)}
    for number in range(1, 5):
        width = 32 * gf >> number  # 16 gf channels before the first
        shapes |= {f"h_net1.upsample{number}.1.weight": [width, width, 3, 3]}
        shapes |= norm(f"h_net1.upsample{number}.2", width)
    shapes["img_net1.img.0.weight"] = [3, gf, 3, 3]
    for number in range(2, branches + 1):
        net, c = f"h_net{number}", gf >> (number - 2)
        shapes |= {
            f"{net}.jointConv.0.weight": [2 * c, c + condition, 3, 3],
            **norm(f"{net}.jointConv.1", 2 * c),
        }
        for block in range(blocks):
            name = f"{net}.residual.{block}.block"
            shapes |= {f"{name}.0.weight": [2 * c, c, 3, 3], **norm(f"{name}.1", 2 * c)}
            shapes |= {f"{name}.3.weight": [c, c, 3, 3], **norm(f"{name}.4", c)}
        shapes |= {f"{net}.upsample.1.weight": [c, c, 3, 3], **norm(f"{net}.upsample.2", c)}
        shapes[f"img_net{number}.img.0.weight"] = [3, c // 2, 3, 3]
    return made(shapes, prefix)


def discriminator(size: int, df: int = 4, *, captions: bool = True, prefix: str = "module.") -> State:
    """The official keys of a discriminator."""
    shapes: dict[str, list[int]] = {"img_code_s16.0.weight": [df, 3, 4, 4]}
    for i, place in enumerate((2, 5, 8)):
        shapes |= {f"img_code_s16.{place}.weight": [2 * df << i, df << i, 4, 4]}
        shapes |= norm(f"img_code_s16.{place + 1}", 2 * df << i)
    narrow = []
    for share, wide in ((32, 16 * df), (64, 32 * df))[: {64: 0, 128: 1, 256: 2}[size]]:
        shapes |= {
            f"img_code_s{share}.0.weight": [wide, wide // 2, 4, 4],
            **norm(f"img_code_s{share}.1", wide),
        }
        narrow.append((share, wide))
    for number, (_, wide) in enumerate(reversed(narrow), start=1):
        name = f"img_code_s{narrow[-1][0]}_{number}"
        shapes |= {f"{name}.0.weight": [wide // 2, wide, 3, 3], **norm(f"{name}.1", wide // 2)}
    shapes |= {"logits.0.weight": [1, 8 * df, 4, 4], "logits.0.bias": [1]}
    if captions:
        shapes |= {"jointConv.0.weight": [8 * df, 8 * df + N, 3, 3], **norm("jointConv.1", 8 * df)}
        shapes |= {"uncond_logits.0.weight": [1, 8 * df, 4, 4], "uncond_logits.0.bias": [1]}
    return made(shapes, prefix)


def encoder() -> CharCnnRnn:
    torch.manual_seed(0)
    return CharCnnRnn(CharCnnRnnSettings(channels=8, embedding=D))


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize(("gf", "branches", "blocks"), [(8, 3, 2), (8, 2, 2), (16, 3, 1), (4, 1, 2)])
def test_widths_branches_and_blocks_are_read_from_the_tensors(
    gf: int, branches: int, blocks: int, prefix: str
) -> None:
    model, settings, dim = stackgan_v2_generator(generator(gf, branches, blocks, prefix=prefix))
    assert (settings.generator_width, settings.stages, settings.residual_blocks) == (gf, branches, blocks)
    assert (settings.noise_dim, settings.condition_dim, dim) == (Z, N, D)
    assert len(model.heads) == branches


@torch.no_grad()
@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_images_are_those_of_a_plain_reading_of_the_keys(branches: int, captions: bool) -> None:
    state = generator(4, branches, captions=captions)
    model, _, dim = stackgan_v2_generator(state)
    z, sentence = torch.randn(2, Z), torch.randn(2, dim)
    noise = torch.cat([z, torch.zeros(2, N)], dim=1) if captions else z
    for ours, plain in zip(model(sentence, noise).images, plain_images(state, sentence, z), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_discriminators_say_which_images_they_judge(size: int, captions: bool) -> None:
    judge = stackgan_v2_discriminator(discriminator(size, captions=captions))
    features = judge.features(torch.randn(2, 3, size, size))
    assert features.shape == (2, 32, 4, 4)
    assert judge.judge_alone(features).shape == (2,)
    assert (judge.conditional is not None) == captions


def test_the_logits_of_an_unconditional_release_are_those_of_images_alone() -> None:
    with_captions, without = discriminator(64), discriminator(64, captions=False)
    judge = stackgan_v2_discriminator(without)
    assert judge.unconditional is not None
    assert torch.equal(judge.unconditional.weight, without["module.logits.0.weight"])
    judge = stackgan_v2_discriminator(with_captions)
    assert judge.unconditional is not None and judge.conditional is not None
    assert torch.equal(judge.unconditional.weight, with_captions["module.uncond_logits.0.weight"])
    assert torch.equal(judge.conditional.logit.weight, with_captions["module.logits.0.weight"])


@pytest.mark.parametrize("captions", [True, False])
def test_a_release_becomes_a_model_folder_that_generates_the_same_images(
    captions: bool, tmp_path: Path
) -> None:
    judges = [discriminator(size, captions=captions) for size in (64, 128)]
    state = generator(branches=2, captions=captions)
    system, recipe = stackgan_v2(state, judges, encoder() if captions else None, name="birds")
    assert resolve(yaml.safe_load(recipe.to_yaml())) == recipe and recipe.data.image_size == 128
    assert (recipe.text is not None) == captions
    assert recipe.settings.color_weight == (0 if captions else 50)
    save_model(system, recipe, tmp_path, {})
    model = load(tmp_path, device="cpu")
    noise = torch.randn(2, system.noise_dim)
    texts = system.embed(["a red bird", "x"]), model.system.embed(["a red bird", "x"])
    with torch.no_grad():
        ours, theirs = system.generate(texts[0], noise), model.system.generate(texts[1], noise)
    torch.testing.assert_close(theirs[-1], ours[-1], rtol=1e-4, atol=1e-5)
    judge = stackgan_v2_discriminator(judges[1])
    for name, value in system.discriminators[1].state_dict().items():
        assert torch.equal(value, judge.state_dict()[name]), name


def test_the_file_of_an_unconditional_release_becomes_a_folder(tmp_path: Path) -> None:
    state = generator(4, 2, captions=False)
    torch.save(state, tmp_path / "netG_600000.pth")
    converted = convert_files("stackgan-v2", [tmp_path / "netG_600000.pth"], tmp_path / "dogs")
    model = load(tmp_path / "dogs", device="cpu")
    z = torch.randn(2, Z)
    with torch.no_grad():
        image = model.system.generate(model.system.embed(["", ""]), z)[-1]
    torch.testing.assert_close(image, plain_images(state, z, z)[-1], rtol=1e-4, atol=1e-5)
    assert not converted.warning


def test_a_conditional_release_without_a_text_encoder_opens_with_an_untrained_one(tmp_path: Path) -> None:
    torch.save(generator(4, 1), tmp_path / "netG_210000.pth")
    converted = convert_files("stackgan-v2", [tmp_path / "netG_210000.pth"], tmp_path / "birds")
    assert "captions are read by an untrained one" in converted.warning and "--text" in converted.warning
    assert len(ganvas.load(tmp_path / "birds", device="cpu").generate(["a bird"])) == 1
    again = convert_files("stackgan-v2", [tmp_path / "netG_210000.pth"], tmp_path / "again")
    for mine, its in zip(
        converted.system.state_dict().values(), again.system.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, its)


def test_discriminators_may_stay_away() -> None:
    system, recipe = stackgan_v2(generator(branches=1, captions=False))
    assert not len(system.discriminators) and system.joint_embedding is None
    assert recipe.settings.discriminator_width == 64


def spoilt(state: State, key: str, value: Tensor | None) -> State:
    state = {name: tensor for name, tensor in state.items() if name != key}
    return state if value is None else {**state, key: value}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("module.h_net1.fc.0.weight", None, "'h_net1.fc.0.weight' is missing"),
        ("module.h_net2.jointConv.0.weight", None, "'further.0.join.weight' is missing"),
        ("module.h_net2.jointConv.0.weight", torch.ones(3), "jointConv.0.weight' has the shape (3,)"),
        ("module.h_net1.fc.0.weight", torch.ones(100, 12), "no widths follow"),
        ("module.h_net3.upsample.2.weight", torch.ones(3), "'further.1.up.1.weight' needs (4,)"),
        ("module.extra", torch.ones(1), "'module.extra' is no key of this release"),
    ],
)
def test_a_wrong_key_or_shape_is_named_in_one_line(key: str, value: Tensor | None, problem: str) -> None:
    with pytest.raises(GanvasError) as refused:
        stackgan_v2_generator(spoilt(generator(), key, value))
    assert problem in str(refused.value) and "\n" not in str(refused.value)


def test_what_does_not_belong_together_is_one_line() -> None:
    other = CharCnnRnn(CharCnnRnnSettings(channels=8, embedding=D + 1))
    two, swapped = generator(branches=2), [discriminator(128), discriminator(64)]
    spoilt_judge = spoilt(discriminator(64), "module.jointConv.0.weight", torch.ones(32, 32, 3, 3))
    cases: list[tuple[str, Callable[[], object]]] = [
        ("the text encoder gives 17", lambda: stackgan_v2(two, (), other)),
        ("the text encoder gives 0", lambda: stackgan_v2(two, (), NoText())),
        ("1 are given, but the generator has 2", lambda: stackgan_v2(two, swapped[:1], encoder())),
        ("number 0 does not judge the 64 px images", lambda: stackgan_v2(two, swapped, encoder())),
        ("leaves no room for a condition", lambda: stackgan_v2_discriminator(spoilt_judge)),
    ]
    for problem, call in cases:
        with pytest.raises(GanvasError, match=problem) as refused:
            call()
        assert "\n" not in str(refused.value)
