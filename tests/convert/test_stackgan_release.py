"""StackGAN's PyTorch releases: other widths against a reference of our own, and what is wrong with a file."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.convert.char_cnn_rnn import char_cnn_rnn
from ganvas.convert.stackgan import stackgan, stackgan_discriminator, stackgan_generators
from ganvas.errors import GanvasError
from ganvas.recipe import resolve
from ganvas.text.char_cnn_rnn import CharCnnRnn
from ganvas.text.encoder import Text
from ganvas.text.settings import CharCnnRnnSettings

State = dict[str, Tensor]
TEXT, Z, N = 20, 7, 5
pytestmark = pytest.mark.usefixtures("single_threaded")


def norm(state: State, key: str, channels: int) -> None:
    state[f"{key}.weight"] = 1 + 0.1 * torch.randn(channels)
    state[f"{key}.bias"] = 0.1 * torch.randn(channels)
    state[f"{key}.running_mean"] = 0.1 * torch.randn(channels)
    state[f"{key}.running_var"] = (0.1 * torch.randn(channels)).exp()


def matrix(*shape: int) -> Tensor:
    weight = torch.randn(shape)
    return weight / weight[0].numel() ** 0.5


def stage1_state(gf: int) -> State:
    """A release's Stage-I: no counters, as old files have none."""
    state = {"ca_net.fc.weight": matrix(2 * N, TEXT), "ca_net.fc.bias": 0.1 * torch.randn(2 * N)}
    state["fc.0.weight"] = matrix(16 * 8 * gf, Z + N)
    norm(state, "fc.1", 16 * 8 * gf)
    for i in range(1, 5):
        state[f"upsample{i}.1.weight"] = matrix(16 * gf >> (i + 1), 16 * gf >> i, 3, 3)
        norm(state, f"upsample{i}.2", 16 * gf >> (i + 1))
    state["img.0.weight"] = matrix(3, gf // 2, 3, 3)
    return state


def stage2_state(gf: int, residual: int) -> State:
    """A release's Stage-II, with its Stage-I inside."""
    state = {f"STAGE1_G.{key}": value for key, value in stage1_state(gf).items()}
    state |= {"ca_net.fc.weight": matrix(2 * N, TEXT), "ca_net.fc.bias": 0.1 * torch.randn(2 * N)}
    state["encoder.0.weight"] = matrix(gf, 3, 3, 3)
    state["encoder.2.weight"], state["encoder.5.weight"] = (
        matrix(2 * gf, gf, 4, 4),
        matrix(4 * gf, 2 * gf, 4, 4),
    )
    norm(state, "encoder.3", 2 * gf)
    norm(state, "encoder.6", 4 * gf)
    state["hr_joint.0.weight"] = matrix(4 * gf, 4 * gf + N, 3, 3)
    norm(state, "hr_joint.1", 4 * gf)
    for i in range(residual):
        for place in (0, 3):
            state[f"residual.{i}.block.{place}.weight"] = matrix(4 * gf, 4 * gf, 3, 3)
            norm(state, f"residual.{i}.block.{place + 1}", 4 * gf)
    for i in range(1, 5):
        state[f"upsample{i}.1.weight"] = matrix(4 * gf >> i, 8 * gf >> i, 3, 3)
        norm(state, f"upsample{i}.2", 4 * gf >> i)
    state["img.0.weight"] = matrix(3, gf // 4, 3, 3)
    return state


def discriminator_state(df: int, halvings: int) -> State:
    state = {"encode_img.0.weight": matrix(df, 3, 4, 4)}
    for i in range(1, halvings):
        state[f"encode_img.{3 * i - 1}.weight"] = matrix(df << i, df << (i - 1), 4, 4)
        norm(state, f"encode_img.{3 * i}", df << i)
    for i in range(halvings, 2 * halvings - 4):
        wide = df << (2 * halvings - 1 - i)
        state[f"encode_img.{3 * i - 1}.weight"] = matrix(wide // 2, wide, 3, 3)
        norm(state, f"encode_img.{3 * i}", wide // 2)
    head = "get_cond_logits.outlogits"
    state[f"{head}.0.weight"] = matrix(8 * df, 8 * df + N, 3, 3)
    norm(state, f"{head}.1", 8 * df)
    state |= {f"{head}.3.weight": matrix(1, 8 * df, 4, 4), f"{head}.3.bias": torch.randn(1)}
    if halvings > 4:
        alone = "get_uncond_logits.outlogits.0"
        state |= {f"{alone}.weight": matrix(1, 8 * df, 4, 4), f"{alone}.bias": torch.randn(1)}
    return state


# --- the published architecture, step by step, in float64


def normalised(w: State, key: str, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, *(w[f"{key}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
    )


def enlarged(w: State, key: str, x: Tensor) -> Tensor:
    x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return F.relu(normalised(w, f"{key}.2", F.conv2d(x, w[f"{key}.1.weight"], padding=1)))


def mean_of(w: State, text: Tensor) -> Tensor:
    return F.relu(text @ w["ca_net.fc.weight"].T + w["ca_net.fc.bias"])[:, :N]


def stage1_reference(w: State, text: Tensor, z: Tensor) -> Tensor:
    x = torch.cat([z, mean_of(w, text)], dim=1) @ w["fc.0.weight"].T
    x = F.relu(normalised(w, "fc.1", x)).view(len(z), -1, 4, 4)
    for i in range(1, 5):
        x = enlarged(w, f"upsample{i}", x)
    return F.conv2d(x, w["img.0.weight"], padding=1).tanh()


def stage2_reference(w: State, text: Tensor, z: Tensor) -> Tensor:
    inside = {key.removeprefix("STAGE1_G."): value for key, value in w.items() if key.startswith("STAGE1_G.")}
    x = F.relu(F.conv2d(stage1_reference(inside, text, z), w["encoder.0.weight"], padding=1))
    for place in (2, 5):
        x = F.conv2d(x, w[f"encoder.{place}.weight"], stride=2, padding=1)
        x = F.relu(normalised(w, f"encoder.{place + 1}", x))
    tiled = mean_of(w, text)[:, :, None, None].repeat(1, 1, 16, 16)
    x = F.conv2d(torch.cat([x, tiled], dim=1), w["hr_joint.0.weight"], padding=1)
    x = F.relu(normalised(w, "hr_joint.1", x))
    for i in range(sum(key.endswith(".block.0.weight") for key in w)):
        key = f"residual.{i}.block"
        inner = F.relu(normalised(w, f"{key}.1", F.conv2d(x, w[f"{key}.0.weight"], padding=1)))
        x = F.relu(x + normalised(w, f"{key}.4", F.conv2d(inner, w[f"{key}.3.weight"], padding=1)))
    for i in range(1, 5):
        x = enlarged(w, f"upsample{i}", x)
    return F.conv2d(x, w["img.0.weight"], padding=1).tanh()


def logits_reference(w: State, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """With the condition, and the features."""
    x = F.leaky_relu(F.conv2d(images, w["encode_img.0.weight"], stride=2, padding=1), 0.2)
    for i in range(1, 10):
        kernel = w.get(f"encode_img.{3 * i - 1}.weight")
        if kernel is not None:
            x = F.conv2d(x, kernel, stride=2 if kernel.shape[-1] == 4 else 1, padding=1)
            x = F.leaky_relu(normalised(w, f"encode_img.{3 * i}", x), 0.2)
    head = "get_cond_logits.outlogits"
    joint = torch.cat([x, condition[:, :, None, None].repeat(1, 1, 4, 4)], dim=1)
    joint = F.conv2d(joint, w[f"{head}.0.weight"], padding=1)
    joint = F.leaky_relu(normalised(w, f"{head}.1", joint), 0.2)
    return F.conv2d(joint, w[f"{head}.3.weight"], w[f"{head}.3.bias"]).flatten(), x


def double(state: State) -> State:
    return {key: value.double() for key, value in state.items()}


def wrapped(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "wrapped"])
@pytest.mark.parametrize(("gf", "residual"), [(4, 4), (8, 1)])
@torch.no_grad()
def test_generators_of_other_widths_draw_what_a_float64_reference_draws(
    gf: int, residual: int, wrap: bool
) -> None:
    torch.manual_seed(0)
    state = stage2_state(gf, residual)
    stage1, stage2 = stackgan_generators(wrapped(state) if wrap else state)
    assert stage2 is not None
    text, z, epsilon = torch.randn(2, TEXT), torch.randn(2, Z), torch.zeros(2, N)
    small = stage1(text, z, epsilon)
    large = stage2(small, text, epsilon).images
    expected = stage2_reference(double(state), text.double(), z.double())
    assert large.shape == (2, 3, 256, 256) and small.images.shape == (2, 3, 64, 64)
    assert (large - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("df", "halvings"), [(4, 4), (6, 6)])
@torch.no_grad()
def test_discriminators_of_other_widths_judge_as_a_float64_reference_does(df: int, halvings: int) -> None:
    torch.manual_seed(0)
    state = discriminator_state(df, halvings)
    model = stackgan_discriminator(state)
    images, condition = torch.randn(2, 3, 4 << halvings, 4 << halvings).tanh(), torch.randn(2, N)
    logits, features = logits_reference(double(state), images.double(), condition.double())
    ours = model.features(images)
    assert (ours - features).abs().max() < 1e-5 * features.abs().max()
    assert torch.allclose(model.judge(ours, condition).double(), logits, rtol=1e-4, atol=1e-5)
    assert (model.unconditional is not None) == (halvings > 4)
    if model.unconditional is not None:
        key = "get_uncond_logits.outlogits.0"
        alone = F.conv2d(features, state[f"{key}.weight"].double(), state[f"{key}.bias"].double()).flatten()
        assert torch.allclose(model.judge_alone(ours).double(), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_release_becomes_a_system_that_draws_from_captions() -> None:
    torch.manual_seed(0)
    state = stage2_state(4, 2)
    encoder = CharCnnRnn(CharCnnRnnSettings(channels=8, embedding=TEXT)).eval()
    judges = [discriminator_state(4, 6), discriminator_state(4, 4)]
    system, recipe = stackgan(state, judges, text_encoder=encoder)
    assert resolve(recipe.to_dict()) == recipe and recipe.data.image_size == 256
    text = system.embed(["a red bus", "two cats"])
    assert torch.equal(text.sentence, encoder.encode(["a red bus", "two cats"]).sentence)
    z = torch.randn(2, Z)
    images = system.generate(text, torch.cat([z, torch.zeros(2, 2 * N)], dim=1))
    expected = stage2_reference(double(state), text.sentence.double(), z.double())
    assert (images[-1] - expected).abs().max() < 1e-5
    for number, judge in ((2, judges[0]), (1, judges[1])):
        logit = system.discriminator(number).conditional.logit
        assert torch.equal(logit.weight, judge["get_cond_logits.outlogits.3.weight"])


@torch.no_grad()
def test_stage_one_alone_and_no_text_encoder_still_draw_from_sentence_vectors() -> None:
    torch.manual_seed(0)
    state = stage1_state(4)
    system, recipe = stackgan(state)
    assert system.stage_sizes == [64] and recipe.data.image_size == 64
    sentence, z = torch.randn(2, TEXT), torch.randn(2, Z)
    text = Text(sentence, sentence.new_zeros(2, 0, 0), sentence.new_zeros(2, 0).bool())
    (images,) = system.generate(text, torch.cat([z, torch.zeros(2, N)], dim=1))
    expected = stage1_reference(double(state), sentence.double(), z.double())
    assert (images - expected).abs().max() < 1e-5


def test_the_encoder_of_the_captions_comes_from_its_own_release() -> None:
    torch.manual_seed(0)
    trained = CharCnnRnn(CharCnnRnnSettings(channels=8, embedding=TEXT))
    converted = char_cnn_rnn(trained.state_dict())
    _, recipe = stackgan(stage1_state(4), text_encoder=converted)
    assert asdict(recipe.text) == asdict(converted.settings) and not recipe.text.lower_case


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda s: without(s, "STAGE1_G.ca_net.fc.weight"),
            "Stage-I generator: 'ca_net.fc.weight' is missing",
        ),
        (lambda s: without(s, "STAGE1_G.img.0.weight"), "'img.0.weight' is missing"),
        (lambda s: without(s, "hr_joint.1.bias"), "Stage-II generator: 'join.1.bias' is missing"),
        (lambda s: {**s, "extra": torch.ones(1)}, "'extra' is no key of this release"),
        (lambda s: {**s, "encoder.0.weight": torch.ones(3, 3, 3, 3)}, "has the shape (3, 3, 3, 3)"),
        (lambda s: {**s, "STAGE1_G.fc.0.weight": torch.ones(512, N)}, "no place for noise"),
        (lambda s: {}, "'ca_net.fc.weight' is missing"),
    ],
)
def test_a_wrong_file_is_one_line(spoil, words: str) -> None:
    with pytest.raises(GanvasError) as refused:
        stackgan(spoil(stage2_state(4, 1)))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("halvings", "words"),
    [([5], "judges images of 128 px"), ([4, 6], "several widths")],
)
def test_discriminators_of_another_model_are_one_line(halvings: list[int], words: str) -> None:
    judges = [discriminator_state(4 + i, n) for i, n in enumerate(halvings)]
    with pytest.raises(GanvasError, match=words):
        stackgan(stage2_state(4, 1), judges)


def test_an_encoder_of_another_width_is_one_line() -> None:
    encoder = CharCnnRnn(CharCnnRnnSettings(channels=8, embedding=TEXT + 1))
    with pytest.raises(GanvasError, match=r"sentences of width 20, but the text encoder gives 21"):
        stackgan(stage1_state(4), text_encoder=encoder)
