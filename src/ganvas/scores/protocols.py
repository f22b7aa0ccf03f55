"""Named protocols: which images, which scores, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One score of a protocol."""

    score: str
    """Its name in ``ganvas.scores.makers``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of its own protocol, where they differ from the defaults."""


@dataclass(frozen=True, kw_only=True)
class NamedProtocol:
    """Everything that fixes the numbers of a table."""

    name: str
    about: str
    """One sentence for people."""
    data: str | None
    """The data set that it is for; None is any."""
    split: str
    """Whose captions are generated."""
    num_images: int | None = None
    """One an image of the split where it is None."""
    scores: tuple[Wanted, ...]


_DISTANCES = Wanted(score="distances")
_FINE_TUNED = Wanted(
    score="inception score",
    settings={
        "splits": 10,
        "background": 0,
        "classes": "split",
        "shuffle_seed": 0,
        "drop_last_batch_of": 64,
    },
)
_FID = Wanted(score="fid", settings={"features": "inception-fid"})

PROTOCOLS: dict[str, NamedProtocol] = {
    protocol.name: protocol
    for protocol in (
        NamedProtocol(
            name="ganvas-emoji",
            about="The embedded set: unseen combinations of its test split, without any network.",
            data="emoji",
            split="test",
            scores=(
                _DISTANCES,
                Wanted(score="r-precision"),
                Wanted(score="emoji attributes"),
                Wanted(score="style"),
                Wanted(score="size"),
            ),
        ),
        NamedProtocol(
            name="ganvas",
            about="Any data set: distances in features that ship, R-precision by a dual encoder of yours.",
            data=None,
            split="test",
            scores=(_DISTANCES, Wanted(score="r-precision"), Wanted(score="style"), Wanted(score="size")),
        ),
        NamedProtocol(
            name="attngan-cub",
            about="AttnGAN's table on CUB: fine-tuned Inception Score, R-precision by DAMSM, FID.",
            data="cub",
            split="test",
            num_images=30_000,
            scores=(
                _FINE_TUNED,
                Wanted(score="r-precision damsm", settings={"mismatched": "paper"}),
                _FID,
            ),
        ),
        NamedProtocol(
            name="attngan-coco",
            about="AttnGAN's table on COCO: ImageNet's Inception Score, R-precision by DAMSM, FID.",
            data="coco",
            split="val",
            num_images=30_000,
            scores=(
                Wanted(score="inception score", settings={"classifier": "inception-fid", "splits": 10}),
                Wanted(score="r-precision damsm", settings={"mismatched": "paper"}),
                _FID,
            ),
        ),
        NamedProtocol(
            name="stackgan-oxford",
            about="StackGAN's table on Oxford-102: Inception Score by an Inception fine-tuned there.",
            data="oxford102",
            split="test",
            num_images=30_000,
            scores=(_FINE_TUNED,),
        ),
        NamedProtocol(
            name="xmcgan-coco",
            about="XMC-GAN's table on COCO, by the TensorFlow graph where XMC-GAN takes Keras's Inception.",
            data="coco",
            split="val",
            num_images=30_000,
            scores=(
                Wanted(score="inception score", settings={"classifier": "inception-fid", "splits": 1}),
                _FID,
                Wanted(score="r-precision"),
                Wanted(score="soa"),
            ),
        ),
    )
}


def chosen_protocol(name: str | None, store: Store) -> NamedProtocol:
    """The protocol called ``name``, or the one that fits the data.

    Raises:
        GanvasError: there is none, or it is for other data.
    """
    if name is None:
        name = f"ganvas-{store.info.name}" if f"ganvas-{store.info.name}" in PROTOCOLS else "ganvas"
    if name not in PROTOCOLS:
        raise GanvasError(f"no protocol '{name}'; {did_you_mean(name, PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if protocol.data not in (None, store.info.name):
        raise GanvasError(
            f"protocol {name}: is for data set '{protocol.data}', and {store.path} holds '{store.info.name}'"
        )
    if not store.info.splits.get(protocol.split):
        filled = [split for split, count in store.info.splits.items() if count]
        if protocol.data is None and "val" in filled:  # COCO and its like report on what they call val
            from dataclasses import replace

            return replace(protocol, split="val")
        raise GanvasError(
            f"protocol {name}: scores split '{protocol.split}', and {store.path} has {' and '.join(filled)}"
        )
    return protocol
