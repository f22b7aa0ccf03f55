"""Do captions of one picture give one image? What SD-GAN is for (Yin et al., CVPR 2019), as a number.

A picture's captions say the same in different words. Each is generated with the same noise, so that images
differ by their words alone. The score is the variance of features among the images of one picture's captions,
over that among all images: 0 where the wording does not matter, near 1 where it matters as much as what is
said. A model that draws the same image for everything has no variance to divide by, and one that draws badly
may score well: read it beside the distances and R-precision.

The paper shows such images and gives no number; the protocol is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import Model
from ganvas.scores.features import DEFAULT, Extractor
from ganvas.scores.score import Score


@dataclass(frozen=True, kw_only=True)
class SpreadProtocol:
    """Everything that fixes the number, beside the data."""

    split: str = "test"
    pictures: int = 300
    """At most: of those with enough different captions, drawn by the seed."""
    captions: int = 5
    """K, of each picture."""
    features: str = DEFAULT
    seed: int = 0
    """Of the choice, and of the noise, which all images share."""

    def __post_init__(self) -> None:
        if self.pictures < 2 or self.captions < 2:
            raise GanvasError(
                f"caption spread: pictures={self.pictures}, captions={self.captions}: should be at least 2"
            )


def described(store: Store, protocol: SpreadProtocol) -> list[list[str]]:
    """The captions of the pictures that are taken: K different ones of each.

    Raises:
        GanvasError: fewer than two pictures of the split have so many.
    """
    found = [list(dict.fromkeys(store.captions[row])) for row in store.rows(protocol.split).tolist()]
    found = [captions[: protocol.captions] for captions in found if len(captions) >= protocol.captions]
    if len(found) < 2:
        raise GanvasError(
            f"caption spread: split '{protocol.split}' has {len(found)} pictures with {protocol.captions}"
            " different captions; it takes at least 2"
        )
    rng = np.random.default_rng([protocol.seed, 2])
    chosen = rng.choice(len(found), min(protocol.pictures, len(found)), replace=False)
    return [found[i] for i in np.sort(chosen)]


def spread(features: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Variance within pictures and among all images, each the sum over features, unbiased.

    Args:
        features: ``(N, K, D)``: of K images for each of N pictures.
    """
    features = features.astype(np.float64)
    within = features.var(axis=1, ddof=1).sum(axis=1).mean()
    among = features.reshape(-1, features.shape[2]).var(axis=0, ddof=1).sum()
    return float(within), float(among)


def caption_spread(
    model: Model, store: Store, protocol: SpreadProtocol, *, weights: str | None = None
) -> Score:
    """The share of a model's variance that the wording of captions makes.

    Args:
        model: that generates.
        store: the prepared data, with several captions a picture.
        protocol: which pictures, how many captions, which features.
        weights: of the features, in place of their own.

    Raises:
        GanvasError: too few captions, unknown features, or all images are alike.
    """
    groups = described(store, protocol)
    extractor = Extractor(protocol.features, weights=weights)
    captions = [caption for group in groups for caption in group]
    found = list(extractor.extract(model.generate_arrays(captions, seed=protocol.seed)))
    within, among = spread(np.concatenate(found).reshape(len(groups), protocol.captions, -1))
    if among == 0:
        raise GanvasError("caption spread: all images are alike, so that nothing can be compared")
    facts = {**asdict(protocol), "pictures": len(groups), "data": store.info.fingerprint}
    return Score(
        name=f"caption spread {protocol.features}",
        value=within / among,
        better="lower",
        protocol={**facts, **extractor.about},
        facts={"within": within, "among": among},
    )
