"""The blocks of the stacked systems against plain layers and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganvas.layers.blocks import (
    GLU,
    DeepConv,
    ResidualBlock,
    StartBlock,
    UpConv,
    VectorNorm,
    down_block,
    image_head,
    joining_block,
    narrowing_block,
    orthogonal,
    spread_kernel,
    together,
    up_block,
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 16), (15, 16), (16, 20), (17, 33)])
def test_an_up_convolution_is_up_sampling_and_a_convolution_in_value_and_gradient(
    height: int, width: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = UpConv(5, 7).double().to(memory_format=layout)
    features = torch.randn(2, 5, height, width, dtype=torch.float64).to(memory_format=layout)
    weights = torch.randn(2, 7, 2 * height, 2 * width, dtype=torch.float64)
    results = []
    for path in ("ours", "plain"):
        x = features.detach().clone().requires_grad_(True)
        layer.zero_grad()
        if path == "ours":
            out = layer(x)
        else:
            out = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, padding=1)
        (out * weights).sum().backward()
        assert x.grad is not None and layer.weight.grad is not None
        results.append((out.detach(), x.grad, layer.weight.grad.clone()))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-11)


def test_a_spread_kernel_sums_the_taps_that_meet_the_same_pixel() -> None:
    kernel = torch.tensor([[1.0, 10.0, 100.0]] * 3)[None, None] / 3
    spread = spread_kernel(kernel)
    assert spread.shape == (1, 1, 4, 4)
    assert spread.sum().item() == pytest.approx(4 * kernel.sum().item())
    sums = spread[0, 0].sum(dim=0)  # columns of a transposed convolution run backwards
    assert sums.tolist() == pytest.approx([200, 220, 22, 2])


def test_a_gated_linear_unit_is_one_half_times_the_sigmoid_of_the_other() -> None:
    x = torch.tensor([[1.0, -2.0, 0.0, 100.0]])
    assert GLU()(x).tolist() == [[0.5, -2.0]]
    maps = torch.randn(2, 6, 3, 3)
    assert torch.allclose(GLU()(maps), maps[:, :3] * maps[:, 3:].sigmoid())


@pytest.mark.parametrize("gated", [True, False])
def test_blocks_change_width_and_side_as_they_say(gated: bool) -> None:
    x = torch.randn(2, 6, 8, 8)
    assert up_block(6, 4, gated=gated)(x).shape == (2, 4, 16, 16)
    assert joining_block(6, 4, gated=gated)(x).shape == (2, 4, 8, 8)
    assert ResidualBlock(6, gated=gated)(x).shape == x.shape
    assert StartBlock(10, 4, gated=gated)(torch.randn(2, 10)).shape == (2, 4, 4, 4)
    assert down_block(6, 4)(x).shape == (2, 4, 4, 4)
    assert narrowing_block(6, 4)(x).shape == narrowing_block(6, 4, 1)(x).shape == (2, 4, 8, 8)
    image = image_head(6)(10 * x)
    assert image.shape == (2, 3, 8, 8) and image.abs().max() <= 1


@pytest.mark.parametrize("gated", [True, False])
def test_a_residual_block_whose_branch_is_silent_passes_its_input_on(gated: bool) -> None:
    block = ResidualBlock(4, gated=gated)
    last = block.branch[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x if gated else x.relu())


def test_only_the_first_block_of_a_discriminator_goes_without_normalisation() -> None:
    assert [type(m).__name__ for m in down_block(3, 4, normalised=False)] == ["DeepConv", "LeakyReLU"]
    assert [type(m).__name__ for m in down_block(3, 4)] == ["DeepConv", "BatchNorm2d", "LeakyReLU"]


def test_one_vector_is_normalised_as_in_evaluation_and_leaves_the_statistics_alone() -> None:
    norm = VectorNorm(5)
    norm(torch.randn(16, 5) * 3 + 1)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.randn(1, 5, requires_grad=True)
    out = norm.train()(x)
    assert torch.equal(out, norm.eval()(x))
    norm.train()(x).sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    assert norm.weight.grad is not None and norm.weight.grad.isfinite().all()


def test_several_vectors_are_normalised_over_the_batch() -> None:
    x = torch.randn(16, 5) * 3 + 1
    torch.testing.assert_close(VectorNorm(5)(x), nn.BatchNorm1d(5)(x))


def test_the_official_initialisation_is_orthogonal_with_gains_near_one() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 4), *up_block(4, 64), nn.BatchNorm1d(500)).apply(orthogonal)
    linear, convolution, norm, _, vectors = block
    assert isinstance(linear, nn.Linear) and isinstance(convolution, UpConv)
    torch.testing.assert_close(linear.weight @ linear.weight.T, torch.eye(4))
    flat = convolution.weight.flatten(1)  # (128, 36): its columns are orthonormal
    torch.testing.assert_close(flat.T @ flat, torch.eye(36))
    assert linear.bias is not None and not linear.bias.any()
    for layer in (norm, vectors):
        assert isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) and not layer.bias.any()
        assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1), (1, 1, 0)])
@pytest.mark.parametrize("side", [4, 6, 32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_deep_convolution_is_a_convolution(
    kernel: int, stride: int, padding: int, side: int, layout: torch.memory_format
) -> None:
    conv = DeepConv(24, 40, kernel, stride=stride, padding=padding, bias=False).double()
    conv.to(memory_format=layout)
    x = torch.randn(2, 24, side, side, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    ours, theirs = conv(x), F.conv2d(x, conv.weight, stride=stride, padding=padding)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(ours)
    for mine, its in zip(
        torch.autograd.grad(ours, (x, conv.weight), gradient, retain_graph=True),
        torch.autograd.grad(theirs, (x, conv.weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


def test_gated_units_have_the_right_gradient_in_the_layout_of_their_input() -> None:
    glu = GLU()
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(glu(x), F.glu(x, dim=1))
    assert torch.autograd.gradcheck(glu, (x,))
    image = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    glu(image).sum().backward()
    assert image.grad is not None and image.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [2, 64])
def test_batches_together_are_what_they_are_one_by_one(side: int) -> None:
    """Also in what they leave behind in running statistics."""
    torch.manual_seed(0)
    block = down_block(8, 16)
    alone = copy.deepcopy(block)
    batches = [torch.randn(3, 8, side, side), 2 * torch.randn(5, 8, side, side) + 1]
    found = together(block, [batch.clone() for batch in batches])
    for one, batch in zip(found, batches, strict=True):
        torch.testing.assert_close(one, alone(batch))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(block.state_dict()[name], value)
    (found[0].sum() + found[1].square().sum()).backward()
    (alone(batches[0]).sum() + alone(batches[1]).square().sum()).backward()
    torch.testing.assert_close(block[0].weight.grad, alone[0].weight.grad)
