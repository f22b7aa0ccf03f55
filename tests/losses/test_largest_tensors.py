"""Comparing all images with all captions never makes a tensor (images, captions, words, regions, width)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganvas.losses.contrastive import word_contrast
from ganvas.losses.damsm import damsm_losses, sentence_scores, word_scores

B, T = 4, 6


class Largest(TorchDispatchMode):
    """Records how many numbers the largest tensor has that an operation gives, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):  # an expanded view has no memory of its own
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return out


def of_damsm(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """AttnGAN's, SD-GAN's and ALR-GAN's."""
    sentences = sentence_scores(regions.mean(dim=2), words.mean(dim=1))
    found = damsm_losses(word_scores(regions, words, mask), sentences)
    return torch.stack([*found.words, *found.sentence]).sum()


def of_xmc_gan(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    return word_contrast(regions, words, mask).loss


def naive(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    return (words[None, :, :, None] * regions.transpose(1, 2)[:, None, None]).sum()


def largest(loss: Callable[[Tensor, Tensor, Tensor], Tensor], num_regions: int, dim: int) -> int:
    torch.manual_seed(0)
    regions = torch.randn(B, dim, num_regions, requires_grad=True)
    words = torch.randn(B, T, dim, requires_grad=True)
    mask = torch.arange(T) < torch.tensor([[6], [1], [3], [4]])
    with Largest() as found:
        loss(regions, words, mask).backward()  # type: ignore[no-untyped-call]
    assert regions.grad is not None
    return found.numbers


@pytest.mark.parametrize(("num_regions", "dim"), [(24, 32), (32, 24)])
@pytest.mark.parametrize("loss", [of_damsm, of_xmc_gan])
def test_attention_of_all_pairs_never_has_regions_and_width_at_once(
    loss: Callable[..., Tensor], num_regions: int, dim: int
) -> None:
    pairs = B * B * T * max(num_regions, dim)
    given = B * num_regions * max(num_regions, dim)
    assert largest(loss, num_regions, dim) <= max(pairs, given) < B * B * T * num_regions * dim


def test_the_one_that_does_is_seen() -> None:
    assert largest(naive, 24, 32) == B * B * T * 24 * 32
