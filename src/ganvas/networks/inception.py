"""Inception-v3 for the two sets of weights that FIDs and Inception scores are made with, and for DAMSM.

Modules have the names of torchvision's, because the weight files have them: of torchvision's own weights, and
of those of the TensorFlow graph that the first FID used (``tensorflow``). The networks differ in their pools:
in the TensorFlow graph an average leaves padding out, and the last block takes a maximum where all others
take an average.

Source: Szegedy et al. 2015, "Rethinking the Inception architecture", section 6 and figures 5 to 7; the pools
from the graph ``inception-2015-12-05`` of Heusel et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Pool = Callable[[Tensor], Tensor]


class Inception(nn.Module):
    """Images to the 2,048 features of the last pooling.

    Args:
        tensorflow: pools as in the TensorFlow graph, not as in torchvision.
    """

    def __init__(self, *, tensorflow: bool) -> None:
        super().__init__()

        def average(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=not tensorflow)

        def maximum(x: Tensor) -> Tensor:
            return F.max_pool2d(x, 3, stride=1, padding=1)

        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = Fine(192, 32, average)
        self.Mixed_5c = Fine(256, 64, average)
        self.Mixed_5d = Fine(288, 64, average)
        self.Mixed_6a = FirstReduction()
        self.Mixed_6b = Factorised(128, average)
        self.Mixed_6c = Factorised(160, average)
        self.Mixed_6d = Factorised(160, average)
        self.Mixed_6e = Factorised(192, average)
        self.Mixed_7a = SecondReduction()
        self.Mixed_7b = Coarse(1280, average)
        self.Mixed_7c = Coarse(2048, maximum if tensorflow else average)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of two blocks, ``(B, 768, 17, 17)`` of Mixed_6e and ``(B, 2048, 8, 8)`` of Mixed_7c.

        Args:
            images: ``(B, 3, 299, 299)``.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = _shrink(x)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = _shrink(x)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return x, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 2048)`` of images ``(B, 3, 299, 299)``."""
        features: Tensor = self.maps(images)[1].float().mean(dim=(2, 3))
        return features


class InceptionClassifier(Inception):
    """The same network with its last linear layer: what it says of ImageNet's classes.

    The TensorFlow graph has 1,008 outputs, of which 1,000 are classes; its Inception score goes without the
    bias (Salimans et al. 2016, in code alone).

    Args:
        tensorflow: as for ``Inception``; 1,008 outputs without a bias, or else 1,000 with theirs.
    """

    def __init__(self, *, tensorflow: bool) -> None:
        super().__init__(tensorflow=tensorflow)
        self.fc = nn.Linear(2048, 1008, bias=False) if tensorflow else nn.Linear(2048, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(B, 1008)`` or ``(B, 1000)``, of images ``(B, 3, 299, 299)``."""
        logits: Tensor = self.fc(super().forward(images))
        return logits


def _shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class Convolution(nn.Module):
    """Convolution, normalisation with the statistics of training, ReLU."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(num_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, num_out, H', W')``, at least 0."""
        if self.training or not isinstance(self.bn, nn.BatchNorm2d):
            return F.relu(self.bn(self.conv(x)), inplace=True)
        # With fixed statistics the normalisation is part of the convolution, and so costs nothing.
        norm = self.bn
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            self.conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        return F.relu(F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding), inplace=True)


class Fine(nn.Module):
    """Figure 5: 35 x 35."""

    def __init__(self, width: int, pooled: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(width, 64, 1)
        self.branch5x5_1 = Convolution(width, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(width, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 224 + pooled, 35, 35)``."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(self.pool(x))], dim=1)


class FirstReduction(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Convolution(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(288, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 768, 17, 17)``."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _shrink(x)], dim=1)


class Factorised(nn.Module):
    """Figure 6: 17 x 17, each 7 x 7 as 1 x 7 and 7 x 1."""

    def __init__(self, inner: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, (1, 7), padding=(0, 3))
        self.branch7x7_3 = Convolution(inner, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = Convolution(768, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = Convolution(inner, inner, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = Convolution(inner, inner, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = Convolution(inner, 192, (1, 7), padding=(0, 3))
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 768, 17, 17)``."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(self.pool(x))], dim=1)


class SecondReduction(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1280, 8, 8)``."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), _shrink(x)], dim=1
        )


class Coarse(nn.Module):
    """Figure 7: 8 x 8, with 1 x 3 and 3 x 1 side by side."""

    def __init__(self, width: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(width, 320, 1)
        self.branch3x3_1 = Convolution(width, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(width, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2048, 8, 8)``."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(parts, dim=1)
