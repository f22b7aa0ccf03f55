"""The DAMSM image encoders of taoxugit/AttnGAN: ``image_encoder200.pth`` for birds, ``100`` for COCO.

Their Inception drifted from torchvision's while the heads were trained: its running statistics belong to the
release and are read with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ganvas.convert.tables import Rule, Table, load, shape_of
from ganvas.layers.region_encoder import InceptionRegions

TABLE = Table(
    "DAMSM image encoder",
    (
        Rule(r"emb_features\.weight", "region_head.weight"),
        Rule(r"emb_cnn_code\.(weight|bias)", r"code_head.\1"),
        Rule(r"((?:Conv2d|Mixed)_.+)", r"trunk.\1"),
    ),
)


def damsm_image_encoder(state: Mapping[str, Tensor], *, align_corners: bool = True) -> InceptionRegions:
    """A released encoder as ours, in evaluation mode; its width is read from the tensors.

    Args:
        state: the tensors of the release.
        align_corners: how images are resized to 299 pixels; True is what it was trained with.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape.
    """
    word_dim = shape_of(TABLE, state, "emb_features.weight", 4)[0]
    sentence_dim, _ = shape_of(TABLE, state, "emb_cnn_code.weight", 2)
    model = InceptionRegions(word_dim, sentence_dim, align_corners=align_corners)
    load(TABLE, state, model)
    return model.eval()
