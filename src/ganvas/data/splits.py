"""Which images are for training where a data set does not say, in a way that later images do not disturb."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping

from ganvas.errors import GanvasError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What data sets call their splits, in lower case, and what a store calls them."""

SHARES = {"val": "5", "test": "5"}
"""The options of a data set that is split by ``hash_rule``: percent of its images, with defaults."""
_MOST = 90


def hash_rule(options: Mapping[str, str], name: str) -> Callable[[str], str]:
    """The split of an image by a hash of its name alone, so that the other images have no say in it.

    A larger share of one split only takes images out of ``train``: none moves between ``val`` and ``test``.

    Args:
        options: ``val`` and ``test``, whole percentages.
        name: of the data set, for the errors.

    Returns:
        A function from the name of an image to ``train``, ``val`` or ``test``.

    Raises:
        GanvasError: a share that is no integer from 0 to 90, or nothing is left for training.
    """
    val, test = (_percent(options[split], split, name) for split in ("val", "test"))
    if val + test > _MOST:
        raise GanvasError(
            f"data set '{name}': val={val} and test={test} leave too little for training;"
            f" together they may be {_MOST} percent"
        )

    def rule(key: str) -> str:
        bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
        if bucket < test:
            return "test"
        return "val" if bucket >= 100 - val else "train"

    return rule


def with_training(rule: Callable[[str], str], keys: Iterable[str]) -> Callable[[str], str]:
    """``rule``, unless it leaves nothing for training: then all of so few images are for training.

    Args:
        rule: from ``hash_rule``.
        keys: the names of all images that it splits. They are read up to the first one for training.
    """
    return rule if any(rule(key) == "train" for key in keys) else lambda _: "train"


def _percent(text: str, split: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > _MOST:
        raise GanvasError(
            f"data set '{name}': option {split}={text}: give a whole percentage from 0 to {_MOST}"
        )
    return int(text)
