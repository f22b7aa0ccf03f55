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
    """

    def __init__(
        self,
        sentence_dim: int,
        condition_dim: int,
        *,
        activation: Activation = "glu",
        scale: Literal["log-deviation", "log-variance"] = "log-variance",
    ) -> None:
        super().__init__()
        self.activation, self.scale = activation, scale
        self.fc = nn.Linear(sentence_dim, condition_dim * (4 if activation == "glu" else 2))

    def forward(self, sentence: Tensor, epsilon: Tensor) -> Condition:
        """Conditions for the noise ``epsilon`` ``(B, N)``; zeros give the mean."""
        x: Tensor = self.fc(sentence)
        if self.activation == "glu":
            x = F.glu(x, dim=1)
        else:
            x = F.leaky_relu(x, 0.2 if self.activation == "leaky" else 0.0)
        mean, second = x.float().chunk(2, dim=1)
        log_variance = 2 * second if self.scale == "log-deviation" else second
        return Condition(mean + torch.exp(log_variance / 2) * epsilon, mean, log_variance)


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
