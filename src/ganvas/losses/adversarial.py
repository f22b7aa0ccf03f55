"""Adversarial objectives, all on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def real_loss(logits: Tensor, label: float = 1.0) -> Tensor:
    """Cross-entropy of calling ``logits`` real, mean over the batch; a scalar in float32.

    Args:
        logits: any shape.
        label: the target; below 1 it is one-sided label smoothing (Salimans et al. 2016).
    """
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def fake_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of calling ``logits`` fake, mean over the batch; a scalar in float32."""
    return F.softplus(logits.float()).mean()


def hinge_real_loss(logits: Tensor) -> Tensor:
    """How far ``logits`` of real images stay below 1, mean over the batch; a scalar in float32."""
    return F.relu(1 - logits.float()).mean()


def hinge_fake_loss(logits: Tensor) -> Tensor:
    """How far ``logits`` of generated images stay above -1, mean over the batch; a scalar in float32."""
    return F.relu(1 + logits.float()).mean()
