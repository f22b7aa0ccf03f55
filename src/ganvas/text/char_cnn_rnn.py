"""The character encoder of GAN-INT-CLS and StackGAN: convolutions over characters, then a recurrent network.

Reed et al., Learning Deep Representations of Fine-grained Visual Descriptions (CVPR 2016), as the release of
Generative Adversarial Text to Image Synthesis (ICML 2016) uses it. Deviations, each with its switch:

- captions are lower-cased first (``lower_case``), where the release drops every upper-case letter;
- the 18 recurrent states are also offered as words, though the systems of the time use the sentence alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.text.encoder import Text, TextEncoder
from ganvas.text.settings import RECEPTIVE_FIELD, CharCnnRnnSettings

_log = logging.getLogger(__name__)
_STRIDE = 9  # characters from one recurrent step to the next


class _Gate(nn.Module):
    """One of the three pairs of affine maps of a recurrent step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Linear(channels, channels)
        self.hidden = nn.Linear(channels, channels)


class CharGru(nn.Module):
    """The recurrent network of the char-CNN-RNN, which is not ``torch.nn.GRU``.

    The first state is ``tanh`` of the candidate's input map alone. From then on, with ``z`` the update and
    ``r`` the reset gate, ``h' = z * tanh(W x + U (r * h)) + (1 - z) * h``: reset acts before the matrix, and
    ``z`` weights the candidate.

    Args:
        channels: width of inputs and states.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.update = _Gate(channels)
        self.reset = _Gate(channels)
        self.candidate = _Gate(channels)

    def forward(self, x: Tensor) -> Tensor:
        """All states ``(B, T, C)`` for inputs ``(B, T, C)``."""
        gates, candidate = (self.update, self.reset), self.candidate
        maps = F.linear(
            x,
            torch.cat([gate.input.weight for gate in (*gates, candidate)]),
            torch.cat([*(gate.input.bias + gate.hidden.bias for gate in gates), candidate.input.bias]),
        )  # (B, T, 3C): all steps' input maps at once
        gate_inputs, inputs = torch.split(maps, [2 * x.shape[-1], x.shape[-1]], dim=-1)
        gate_weight = torch.cat([gate.hidden.weight for gate in gates]).to(maps.dtype).t()
        weight = candidate.hidden.weight.to(maps.dtype).t()
        h = torch.tanh(inputs[:, 0])
        states = [h]
        inputs = inputs + candidate.hidden.bias.to(maps.dtype)  # which the first step goes without
        for step in range(1, x.shape[1]):
            z, r = torch.addmm(gate_inputs[:, step], h, gate_weight).sigmoid().chunk(2, dim=-1)
            h = torch.lerp(h, torch.addmm(inputs[:, step], r * h, weight).tanh(), z)
            states.append(h)
        return torch.stack(states, dim=1)


class CharCnnRnn(TextEncoder):
    """Characters to a sentence vector.

    The sentence is ``(B, embedding)``; the words are the recurrent states ``(B, T, channels)``, 18 for 201
    characters, each of which sees 48 characters and everything before them. The mask is True on states that
    see at least one character of the caption.

    Args:
        settings: widths, alphabet and length.
    """

    can_standardize = True

    def __init__(self, settings: CharCnnRnnSettings) -> None:
        super().__init__()
        self.settings = settings
        self.sentence_dim, self.word_dim = settings.embedding, settings.channels
        self.steps = (settings.characters - RECEPTIVE_FIELD) // _STRIDE + 1
        width = len(settings.alphabet)
        self._ids = {character: place for place, character in enumerate(settings.alphabet, start=1)}
        self._unknown = width + 1
        self._noted = False
        self.conv1 = nn.Conv1d(width, 384, 4)
        self.conv2 = nn.Conv1d(384, 512, 4)
        self.conv3 = nn.Conv1d(512, settings.channels, 4)
        self.gru = CharGru(settings.channels)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.channels, settings.embedding)
        one_hot = torch.zeros(width + 2, width)
        one_hot[1:-1] = torch.eye(width)
        self.register_buffer("_one_hot", one_hot, persistent=False)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Character ids ``(B, L)``, 1-based places in the alphabet, ``L`` that of the longest caption read.

        Longer ones are cut, which is logged once. Characters outside the alphabet get one id more than the
        alphabet has; their one-hot row is zero, as that of padding. An empty caption counts as one unknown
        character.
        """
        longest = max(map(len, captions), default=0)
        if longest > self.settings.characters and not self._noted:
            self._noted = True
            _log.warning(
                "captions of up to %d characters are cut to text.characters=%d",
                longest,
                self.settings.characters,
            )
        rows = [self._tokens(caption) for caption in captions]
        tokens = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def _tokens(self, caption: str) -> list[int]:
        read = caption[: self.settings.characters]
        if self.settings.lower_case:
            read = read.lower()[: self.settings.characters]  # a letter's lower case may be two characters
        return [self._ids.get(character, self._unknown) for character in read] or [self._unknown]

    @torch.no_grad()
    def standardize(self, captions: Sequence[str], *, decorrelate: bool = False, most: int = 4096) -> None:
        """Transform the linear head; captions at even distances stand for all, where there are more than
        ``most``.
        """
        was_training = self.training
        self.eval()
        most = min(most, len(captions))
        chosen = [captions[i * len(captions) // most] for i in range(most)]
        parts = [self.encode(chosen[i : i + 128]).sentence for i in range(0, most, 128)]
        deviation, mean = torch.std_mean(torch.cat(parts).double(), dim=0)
        if decorrelate:
            transform = _evenly(torch.cat(parts).double() - mean)
        else:
            transform = torch.diag(1 / deviation.clamp(min=1e-6))
        self.head.weight.copy_(transform @ self.head.weight.double())
        self.head.bias.copy_(transform @ (self.head.bias - mean))
        self.train(was_training)

    def share_known(self, captions: Sequence[str]) -> float:
        """The share of the captions' letters and digits that the alphabet holds."""
        lower = self.settings.lower_case
        letters = [c for caption in captions for c in (caption.lower() if lower else caption) if c.isalnum()]
        return sum(c in self._ids for c in letters) / len(letters) if letters else 1.0

    def forward(self, tokens: Tensor) -> Text:
        """Encode character ids ``(B, L)`` as ``tokenize`` makes them."""
        states = self.gru(self._convolve(tokens))
        pooled = states.mean(dim=1) if self.settings.average else states[:, -1]
        sentence = self.head(self.dropout(pooled))
        starts = _STRIDE * torch.arange(self.steps, device=tokens.device)
        mask = starts < (tokens != 0).sum(dim=1, keepdim=True)
        return Text(sentence, states * mask[..., None], mask)

    def _convolve(self, tokens: Tensor) -> Tensor:
        """Inputs of the recurrent network, ``(B, T, C)``.

        Steps that see nothing but padding all get the same input, so the convolutions run only as far as the
        longest caption and one such step, which then stands for the others.
        """
        needed = -(-tokens.shape[1] // _STRIDE) + 1
        length = (
            self.settings.characters if needed >= self.steps else _STRIDE * (needed - 1) + RECEPTIVE_FIELD
        )
        tokens = F.pad(tokens[:, :length], (0, max(0, length - tokens.shape[1])))
        one_hot: Tensor = self._one_hot  # type: ignore[assignment]
        x = one_hot[tokens].transpose(1, 2)[:, :, None]  # (B, A, 1, L): fastest as a flat image
        x = F.relu(F.max_pool2d(_conv(x, self.conv1), (1, 3)))
        x = F.relu(F.max_pool2d(_conv(x, self.conv2), (1, 3)))
        x = F.relu(_conv(x, self.conv3)).squeeze(2).transpose(1, 2)  # (B, T', C)
        rest = self.steps - x.shape[1]
        return torch.cat([x, x[:, -1:].expand(-1, rest, -1)], dim=1) if rest else x

    def files(self) -> dict[str, str]:
        """Nothing: the alphabet is a setting."""
        return {}


def _conv(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """The one-dimensional ``layer`` over ``(B, C, 1, L)``."""
    return F.conv2d(x, layer.weight[:, :, None], layer.bias)


def _evenly(rows: Tensor) -> Tensor:
    """``(D, D)``: the map that spreads the variance of ``rows`` ``(N, D)``, of mean 0, over their directions.

    A direction with the variance v, of V in all, keeps the share ``v^2 / (v + V / 10^4)^2``, so that those
    which are next to nothing stay so; then everything is scaled to a mean square of 1.
    """
    variance, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    variance = variance.clamp(min=0)
    floor = variance.sum() * 1e-4
    scale = variance.sqrt() / (variance + floor).clamp(min=1e-12)
    mean_square = (variance * scale.square()).mean().clamp(min=1e-12)
    spread: Tensor = directions @ torch.diag(scale * mean_square.rsqrt()) @ directions.T
    return spread


def build(
    settings: CharCnnRnnSettings,
    captions: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> CharCnnRnn:
    """As ``ganvas.text.build``. There is no vocabulary: captions only have to be in the alphabet's script.

    Raises:
        GanvasError: most letters of the captions are not in the alphabet, so nothing could be learned of
        them.
    """
    encoder = CharCnnRnn(settings)
    known = encoder.share_known(captions[:1000]) if captions else 1.0
    if known < 0.5:
        raise GanvasError(
            f"text.alphabet: holds only {100 * known:.0f} % of the letters of these captions; list their"
            " letters there, or use text.encoder=bilstm"
        )
    return encoder
