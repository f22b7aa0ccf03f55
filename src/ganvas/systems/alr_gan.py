"""ALR-GAN: Tan, Yin, Wei, Liu, Li, "ALR-GAN: Adaptive Layout Refinement for Text-to-Image Synthesis", IEEE
Transactions on Multimedia 2023 (arXiv 2304.06297).

A layout says where in an image the object and the background lie: which sub-region belongs to which word. The
generator is AttnGAN's. Its initial feature transition module makes H_0 of sentence and noise; each further
stage finds the semantic similarity matrix Theta between H_{i-1} and the words (SSM), lays the words out by it
as the text-vision matrix Q (TVM), and makes H_i, twice as large, of both, joined:

    theta_kj = softmax_j (h_k . w_j),    q_k = sum_j theta_kj w_j,    H_i = F_i(H_{i-1}, Q).

What is new is how it is trained. A real image of the same caption has a layout Theta* too, found by the same
stage from an encoding H* that draws the image again (L_REC). The residual |Theta* - Theta| is split at gamma
into what is easy and what is hard, and L_ALR weighs the hard more. L_LVR then compares what is drawn within
both layouts, in texture (PR) and in style (SR):

    L_G = sum_i L_Gi + sum_{i>=1} [L_ALR + lambda_1 L_REC + L_LVR] + lambda_2 L_DAMSM,
    L_Gi = -1/2 log D_i(I) - 1/2 log D_i(I, s).

Each discriminator judges an image alone and with the sentence, and has no mismatched pair. The paper has no
code and its text leaves open: gamma, both lambdas, the form of the mask of L_LVR, of alpha and of beta, how
far gradients go, the optimizer. All of these are settings, AttnGAN's wherever it has them. As the paper
writes it, L_ALR is least where all its weights vanish; ours have a mean of 1 (``settings.layout.weights``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ganvas.systems.attngan import AttnGan, AttnGanSettings
from ganvas.systems.layout import LayoutSettings


@dataclass(frozen=True, kw_only=True)
class AlrLayoutSettings(LayoutSettings):
    """Layout refinement as ALR-GAN has it."""

    alr_weight: float = 1.0
    """Weight of L_ALR [paper]. 0 leaves it out, with its weights."""
    lvr_weight: float = 1.0
    """Weight of L_LVR [paper]. Without both losses the system is AttnGAN."""


@dataclass(frozen=True, kw_only=True)
class AlrGanSettings(AttnGanSettings):
    """Settings of ALR-GAN; those that are not here are AttnGAN's for CUB, which the paper builds on
    [inferred].
    """

    adversarial_weight: float = 0.5
    """Weight of each term of the generator's adversarial loss [paper]."""
    mismatched: Literal["neighbour", "drawn", "none"] = "none"
    """The discriminators' mismatched pair, as for AttnGAN; the paper's formula has none."""
    damsm_weight: float = 5.0
    """lambda_2: weight of DAMSM; AttnGAN's 5 for CUB and 50 for COCO [inferred]."""
    kl_weight: float = 1.0
    """Weight of conditioning augmentation's divergence, which the paper does not mention [inferred]."""
    layout: AlrLayoutSettings = field(default_factory=AlrLayoutSettings)
    """What generated layouts are drawn to real ones by."""


class AlrGan(AttnGan):
    """The system: AttnGAN's networks, an encoder E_i of real images for every stage that attends, and its
    alpha and beta. It takes the arguments of ``AttnGan``, with ``AlrGanSettings``.
    """
