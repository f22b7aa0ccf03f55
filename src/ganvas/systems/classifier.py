"""An image classifier with one head for each kind of label, for scores. It reads and draws nothing.

Trained on real images of any data set with classes or attributes. It stands where the papers use an Inception
network that was fine-tuned on the classes of the data, or a detector of what a caption names. Either that
network, which starts from ImageNet's weights, or a small residual one, trained from scratch, so that it needs
nothing but the data.

Where we differ from StackGAN's fine-tuned Inception: no class for the background, and no auxiliary head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.networks.inception import Inception
from ganvas.networks.weights import inception_weights, load_weights
from ganvas.systems.base import Adam, Batch, Losses, Phase, System, Turn
from ganvas.text.encoder import Text, TextEncoder


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """Settings of the classifier."""

    heads: tuple[str, ...] = ("class",)
    """What is told apart: ``class``, or an attribute of the data set, such as ``style``."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The names that each head knows, in the order of its outputs; training fills them in from the data."""
    network: Literal["small", "inception-fid", "inception-torchvision"] = "small"
    """The small residual network, or Inception-v3 with the pools of the TensorFlow graph or of torchvision.
    An Inception sees images at 299 pixels, whatever the recipe's size."""
    weights: str | None = None
    """What an Inception starts from: the path of its file, or ``download``, which fetches the file once; by
    default fresh weights."""
    frozen: bool = False
    """An Inception stays as it came, and only the heads learn."""
    width: int = 32
    """Channels of the small network at half resolution."""
    dropout: float = 0.2
    """Probability of dropping a feature before the heads."""
    smoothing: float = 0.1
    """Label smoothing: the share of the target that is spread over all labels of a head."""
    zoom: float = 0.1
    """Training images are scaled by 1 - zoom to 1 + zoom, each side by itself."""
    shift: float = 0.08
    """And moved by up to this share of their side."""
    grain: float = 0.1
    """Deviation of the noise that is added, in units of [-1, 1]: at most, it is drawn for each image."""
    learning_rate: float = 2e-3
    """Adam's."""
    halve_every: int = 0
    """Images after which the learning rate halves, again and again; 0 is never."""

    def __post_init__(self) -> None:
        for name in ("dropout", "smoothing", "zoom", "shift"):
            if not 0 <= getattr(self, name) < 1:
                raise GanvasError(
                    f"settings.{name}: should be at least 0 and below 1, not {getattr(self, name)}"
                )
        if self.network == "small" and (self.weights is not None or self.frozen):
            raise GanvasError(
                "settings.network: the small one starts from nothing; leave settings.weights and"
                " settings.frozen out, or choose inception-torchvision"
            )
        if self.frozen and self.weights is None:
            raise GanvasError(
                "settings.frozen: needs settings.weights, a path or download: a network with fresh weights"
                " sees nothing"
            )
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise GanvasError("settings.heads: name at least one thing to tell apart, and each once")
        if self.labels and set(self.labels) != set(self.heads):
            raise GanvasError(
                f"settings.labels: are those of {', '.join(self.labels)}, but settings.heads are"
                f" {', '.join(self.heads)}; leave them out, and training fills them in"
            )


class Classifier(System):
    """Convolutions that all heads share, and a linear map for each.

    Args:
        settings: heads and network.
        text_encoder: not used.
        image_size: S, pixels.
    """

    noise_dim = 0
    generates = False
    reads_text = False

    def __init__(self, settings: ClassifierSettings, text_encoder: TextEncoder, image_size: int) -> None:
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.text_encoder = text_encoder
        if settings.network == "small":
            self.trunk: nn.Module = _small(settings.width)
            features, self._side = 6 * settings.width, image_size
        else:
            self.trunk = Inception(tensorflow=settings.network == "inception-fid")
            features, self._side = 2048, 299
        self.dropout = nn.Dropout(settings.dropout)
        # none before training has filled in the labels
        self.heads = nn.ModuleList(nn.Linear(features, len(names)) for names in self.labels.values())

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names that each head knows, in the order of its outputs."""
        given = self.settings.labels
        return {head: given[head] for head in self.settings.heads} if given else {}

    def generate(self, text: Text, noise: Tensor) -> list[Tensor]:
        """Not what it is for."""
        raise TypeError("a classifier generates nothing")

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """What each head says, float32 ``(B, K)``.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], any size.
        """
        if images.shape[-2:] != (self._side, self._side):
            images = F.interpolate(images, size=(self._side, self._side), mode="bilinear", antialias=True)
        features = self.dropout(self.trunk(images))
        return {
            name: cast(Tensor, head(features)).float()
            for name, head in zip(self.labels, self.heads, strict=True)
        }

    def phases(self) -> Sequence[Phase]:
        """One, "classes".

        Raises:
            GanvasError: the file of ``settings.weights`` is not there.
        """
        weights = self.settings.weights
        if weights is not None and weights != "download" and not Path(weights).is_file():
            raise GanvasError(f"settings.weights: there is no file {weights}; give another, or download")
        adam = Adam(
            learning_rate=self.settings.learning_rate,
            betas=(0.9, 0.999),
            decay_every=self.settings.halve_every,
        )
        learning = [self.heads] if self.settings.frozen else [self.trunk, self.heads]
        turn = Turn(name="classes", modules=[*learning, self.dropout], loss=self.loss, adam=adam)
        return [
            Phase(
                name="classes",
                turns=[turn],
                draw=self.draw,
                labels=self.labels,
                averaged=learning,
                generates=False,
                start=self.start,
            )
        ]

    def start(self) -> None:
        """Take the weights that an Inception starts from.

        Raises:
            GanvasError: they are not here, cannot be fetched, or are others.
        """
        network, weights = self.settings.network, self.settings.weights
        if weights is not None:
            path = inception_weights(network, None if weights == "download" else weights)
            load_weights(self.trunk, path, network)

    def draw(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the heads say of images that are zoomed, moved and grained at random."""
        s = self.settings
        return self.logits(distorted(batch.images, zoom=s.zoom, shift=s.shift, grain=s.grain))

    def loss(self, batch: Batch, draw: Mapping[str, Tensor]) -> Losses:
        """The cross entropies of the heads, averaged; images without a label count for nothing."""
        assert batch.targets is not None
        losses, terms = [], {}
        for (name, logits), target in zip(draw.items(), batch.targets.T, strict=True):
            known = (target >= 0).sum().clamp(min=1)
            total = F.cross_entropy(
                logits, target, ignore_index=-1, reduction="sum", label_smoothing=self.settings.smoothing
            )
            losses.append(total / known)
            terms[f"{name}_accuracy"] = (logits.detach().argmax(dim=1) == target).sum() / known
        return Losses(torch.stack(losses).mean(), terms)


def _small(width: int) -> nn.Sequential:
    """``(B, 3, S, S)`` to ``(B, 6 * width)``."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _Unit(width, width, stride=1),
        _Unit(width, 2 * width, stride=2),
        _Unit(2 * width, 4 * width, stride=2),
        _Unit(4 * width, 6 * width, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class _Unit(nn.Module):
    """Residual unit of two 3x3 convolutions (He et al., CVPR 2016).

    Args:
        channels, wider: width of input and output.
        stride: of the first convolution.
    """

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, wider, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
            nn.Conv2d(wider, wider, 3, padding=1, bias=False),
            nn.BatchNorm2d(wider),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or wider != channels:
            self.skip = nn.Sequential(
                nn.Conv2d(channels, wider, 1, stride=stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.skip(features) + self.branch(features))


def distorted(images: Tensor, *, zoom: float, shift: float, grain: float) -> Tensor:
    """Images scaled and moved at random, with noise; what lies outside repeats the border.

    Args:
        images: ``(B, 3, S, S)`` in [-1, 1].
        zoom: largest change of a side's length, as a share of it.
        shift: largest move along a side, as a share of it.
        grain: largest deviation of the noise.
    """
    num = len(images)
    change = images.new_empty(num, 2, 2).uniform_(-1, 1)  # scale and move, along x and y
    affine = torch.diag_embed(1 + zoom * change[:, 0])  # (B, 2, 2)
    affine = torch.cat([affine, 2 * shift * change[:, 1, :, None]], dim=2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
    deviation = images.new_empty(num, 1, 1, 1).uniform_(0, grain)
    return moved + deviation * torch.randn_like(moved)
