"""ResNet-50 and VGG-19, whose modules have the names of torchvision's weight files.

He et al., CVPR 2016; Simonyan and Zisserman, ICLR 2015.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

_VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 beside a shortcut; the 3x3 has the stride."""

    def __init__(self, num_in: int, width: int, stride: int) -> None:
        super().__init__()
        num_out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(num_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, num_out, 1, bias=False), nn.BatchNorm2d(num_out)
        self.downsample = nn.Identity() if num_in == num_out else _changed(num_in, num_out, stride)

    def forward(self, features: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(features)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(features))


def _changed(num_in: int, num_out: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))


class ResNet50(nn.Module):
    """Images ``(B, 3, S, S)``, normalised as for ImageNet, to 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for number, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(_Bottleneck(channels, width, 2 if number > 1 and block == 0 else 1))
                channels = 4 * width
            self.add_module(f"layer{number}", layer)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1000)``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return cast(Tensor, self.fc(x.mean(dim=(2, 3))))


class Vgg19(nn.Module):
    """The same by 16 convolutions and three linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features, channels = nn.Sequential(), 3
        for width in _VGG19:
            if width:
                self.features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)])
                channels = width
            else:
                self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1000)``."""
        x = F.adaptive_avg_pool2d(self.features(images), 7)
        return cast(Tensor, self.classifier(x.flatten(1)))
