"""Labels of images as numbers: classes and attributes, for classifiers and what they score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean


def facts(store: Store, kind: str, rows: npt.NDArray[np.int64]) -> list[str | None]:
    """What is known of the images at ``rows``: their ``class``, or else the attribute called ``kind``."""
    if kind == "class":
        return [store.labels[row] for row in rows]
    return [store.attributes[row].get(kind) for row in rows]


def label_names(store: Store, kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of each kind among the training images, in order.

    Raises:
        GanvasError: a kind has fewer than two.
    """
    rows = store.rows("train")
    found = {kind: {name for name in facts(store, kind, rows) if name is not None} for kind in kinds}
    for kind, names in found.items():
        if len(names) < 2:
            known = sorted({key for row in rows for key in store.attributes[row]} | {"class"})
            raise GanvasError(
                f"{store.path}: its training images have {len(names)} different values of '{kind}', and a"
                f" classifier needs 2; {did_you_mean(kind, known)}"
            )
    return {kind: tuple(sorted(names)) for kind, names in found.items()}


def label_numbers(
    store: Store, labels: Mapping[str, Sequence[str]], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Labels of images as places in lists of names.

    Args:
        store: the data.
        labels: the names of each kind.
        rows: N rows of the store.

    Returns:
        ``(N, kinds)``; -1 where an image has no such label, or one that the list lacks.
    """
    columns = []
    for kind, names in labels.items():
        numbers = {name: number for number, name in enumerate(names)}
        columns.append([-1 if name is None else numbers.get(name, -1) for name in facts(store, kind, rows)])
    return np.ascontiguousarray(np.array(columns, np.int64).reshape(len(columns), len(rows)).T)
