"""Random batches in the shapes of training, the same for every side of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganvas.systems.base import Batch
from ganvas.text.encoder import Text

FEWEST = 5
"""Words of the shortest caption."""


class Inputs:
    """One batch.

    Args:
        batch_size: B.
        device: where.
        sizes: S, sides of the images, small to large.
        noise_dim: Z.
        text_dim: D, of sentences and words.
        num_words: T, those of the longest caption.
        captions: of each image.

    Attributes:
        images: ``(B, 3, S, S)`` each.
        texts: captions, ``captions`` times B.
        noise: ``(captions * B, Z)``.
    """

    def __init__(
        self,
        batch_size: int,
        device: torch.device,
        *,
        sizes: Sequence[int],
        noise_dim: int,
        text_dim: int = 256,
        num_words: int = 18,
        captions: int = 1,
    ) -> None:
        draw = torch.Generator().manual_seed(1)
        self.images = [
            torch.randn(batch_size, 3, size, size, generator=draw).tanh().to(device) for size in sizes
        ]
        self.texts = [_text(draw, batch_size, num_words, text_dim).to(device) for _ in range(captions)]
        self.noise: Tensor = torch.randn(captions * batch_size, noise_dim, generator=draw).to(device)

    def __len__(self) -> int:
        """B."""
        return len(self.images[0])

    def batch(self, channels_last: bool) -> Batch:
        """As the loop gets it; every image is of a class of its own."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = [image.contiguous(memory_format=layout) for image in self.images]
        return Batch(
            images=images[-1],
            smaller=images[:-1],
            text=self.texts[0],
            further_texts=self.texts[1:],
            labels=torch.arange(len(self), device=self.noise.device),
        )

    def all_captions(self) -> Text:
        """``captions * B``, first those that come first."""
        sentences, words, masks = zip(*self.texts, strict=True)
        return Text(torch.cat(sentences), torch.cat(words), torch.cat(masks))


def _text(draw: torch.Generator, rows: int, num_words: int, dim: int) -> Text:
    sentence = torch.randn(rows, dim, generator=draw)
    lengths = torch.randint(FEWEST, num_words + 1, (rows, 1), generator=draw)
    lengths[0] = num_words
    mask = torch.arange(num_words) < lengths
    words = torch.randn(rows, num_words, dim, generator=draw) * mask[..., None]
    return Text(sentence, words, mask)
