"""The discriminators of the stacked systems: sizes, heads, official numbers of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganvas.layers.stacked_discriminator import ConditionalHead, StackedDiscriminator, Trunk


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("image_size", "conditional", "unconditional"),
    [
        (64, 5_723_906, 2_765_569),
        (128, 18_834_178, 15_875_841),
        (256, 71_269_122, 68_310_785),
        (512, 280_996_610, None),
    ],
)
def test_they_have_the_official_numbers_of_parameters(
    image_size: int, conditional: int, unconditional: int | None
) -> None:
    with torch.device("meta"):
        assert count(StackedDiscriminator(64, 128, image_size)) == conditional
        if unconditional:
            assert count(StackedDiscriminator(64, 0, image_size)) == unconditional


@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256])
def test_images_of_any_size_become_a_4x4_map_of_at_most_eight_times_the_width(image_size: int) -> None:
    trunk = Trunk(2, image_size)
    features = trunk(torch.randn(2, 3, image_size, image_size))
    assert features.shape == (2, trunk.channels, 4, 4)
    assert trunk.channels == min(16, 2 * image_size // 8)


def test_the_condition_is_laid_beside_the_features_at_each_place() -> None:
    head = ConditionalHead(6, 4).eval()
    features, condition = torch.randn(3, 6, 4, 4), torch.randn(3, 4)
    tiled = condition[:, :, None, None].repeat(1, 1, 4, 4)
    expected = head.logit(head.joint(torch.cat([features, tiled], dim=1))).flatten()
    torch.testing.assert_close(head(features, condition), expected)
    assert head.joint[0].weight.shape == (6, 10, 3, 3)
    assert ConditionalHead(6, 4, kernel=1).joint[0].weight.shape == (6, 10, 1, 1)


def test_a_logit_for_each_image_with_a_condition_and_without() -> None:
    discriminator = StackedDiscriminator(4, 5, 32).eval()
    features = discriminator.features(torch.randn(3, 3, 32, 32))
    first = discriminator.judge(features, torch.zeros(3, 5))
    assert first.shape == discriminator.judge_alone(features).shape == (3,)
    assert not torch.allclose(first, discriminator.judge(features, torch.ones(3, 5)))


def test_heads_that_are_not_asked_for_are_not_there() -> None:
    assert StackedDiscriminator(4, 0, 16).conditional is None
    assert StackedDiscriminator(4, 5, 16, unconditional=False).unconditional is None
