"""Conditioning augmentation: a sentence becomes a Gaussian, of which the condition is a sample.

Zhang et al., StackGAN (ICCV 2017), section 3.2. Its noise is an argument, so that images depend on what they
are given alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "leaky", "glu"]


class Condition(NamedTuple):
    """A Gaussian for each sentence, and a sample of it."""

    sample: Tensor
    """``(B, N)``: c."""
    mean: Tensor
    """``(B, N)``: mu."""
    log_variance: Tensor
    """``(B, N)``"""


class ConditioningAugmentation(nn.Module):
    """``(B, D)`` sentences to conditions of width N: ``c = mu + sigma * epsilon``.

    Args:
        sentence_dim: D.
        condition_dim: N.
        activation: after the linear map. ``leaky`` (slope 0.2) is StackGAN's TensorFlow code, ``relu`` its
            PyTorch code (mean and deviation then cannot fall below 0 and 1), ``glu`` StackGAN++ and AttnGAN.
        scale: what the second half of the output is: log deviation (StackGAN's TensorFlow code), or log
            variance (all others).
        unit_text: read sentences scaled to a root mean square of 1 (ours).
    """

    def __init__(
        self,
        sentence_dim: int,
        condition_dim: int,
        *,
        activation: Activation = "glu",
        scale: Literal["log-deviation", "log-variance"] = "log-variance",
        unit_text: bool = False,
    ) -> None:
        super().__init__()
        self.activation, self.scale, self.unit_text = activation, scale, unit_text
        self.fc = nn.Linear(sentence_dim, condition_dim * (4 if activation == "glu" else 2))

    def forward(self, sentence: Tensor, epsilon: Tensor) -> Condition:
        """Conditions for the noise ``epsilon`` ``(B, N)``; zeros give the mean."""
        x: Tensor = self.fc(unit_scale(sentence) if self.unit_text else sentence)
        if self.activation == "glu":
            x = F.glu(x, dim=1)
        else:
            x = F.leaky_relu(x, 0.2 if self.activation == "leaky" else 0.0)
        mean, second = x.float().chunk(2, dim=1)
        log_variance = 2 * second if self.scale == "log-deviation" else second
        return Condition(mean + torch.exp(log_variance / 2) * epsilon, mean, log_variance)


class ConditionedConv(nn.Conv2d):
    """A 3x3 convolution of a feature map with a condition beside the features of each place.

    It equals a convolution of both, concatenated. But a condition is the same everywhere, so what it adds is
    the same inside of the map and differs at its edges and corners alone: nine values a channel, computed
    once and laid out.

    Args:
        num_in: C, channels of the features; their part of the kernel comes first.
        condition_dim: N.
        num_out: channels of the output.
    """

    def __init__(self, num_in: int, condition_dim: int, num_out: int) -> None:
        super().__init__(num_in + condition_dim, num_out, 3, padding=1, bias=False)
        self.num_features = num_in

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, C, H, W)``, both sides at least 2, and ``(B, N)`` to ``(B, C', H, W)``."""
        height, width = features.shape[2:]
        of_features, of_condition = self.weight.tensor_split([self.num_features], dim=1)
        out = F.conv2d(features, of_features, padding=1)
        tiled = condition[:, :, None, None].expand(-1, -1, 3, 3)
        nine = F.conv2d(tiled, of_condition, padding=1).flatten(2).transpose(1, 2)  # (B, 9, C')
        layout = torch.kron(_thirds(height, nine), _thirds(width, nine))  # (H * W, 9)
        added = torch.bmm(layout.expand(len(nine), -1, -1), nine)  # (B, H * W, C')
        added = added.view(len(nine), height, width, -1).permute(0, 3, 1, 2)
        return out + added.to(out.dtype)


def _thirds(side: int, like: Tensor) -> Tensor:
    """``(side, 3)``: 1 where a place is the first, one between, or the last."""
    rows = like.new_zeros(side, 3)
    rows[0, 0] = rows[-1, 2] = 1
    rows[1:-1, 1] = 1
    return rows


def truncated_normal(like: Tensor) -> Tensor:
    """Noise of the shape of ``like``: N(0, 1) given that it is within [-2, 2]."""
    return nn.init.trunc_normal_(torch.empty_like(like), 0.0, 1.0, -2.0, 2.0)


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mu, sigma) || N(0, 1))``, mean over the batch and over dimensions [code]; a scalar.

    Args:
        mean: ``(B, N)``.
        log_variance: ``(B, N)``.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def unit_scale(vectors: Tensor) -> Tensor:
    """``(..., D)``, each scaled to a root mean square of 1; zero stays zero."""
    return vectors * vectors.square().mean(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()
