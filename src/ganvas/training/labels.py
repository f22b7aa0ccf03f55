"""What classifiers learn: the names of labels for a recipe, and the numbers of labels for batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from ganvas.data.feed import FeedBatch
from ganvas.data.labels import label_names, label_numbers
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe
from ganvas.systems.base import Batch
from ganvas.training.feeding import Data


def with_labels(recipe: Recipe, data: Data) -> Recipe:
    """The recipe of a classifier with the names of its labels, where it leaves them out; any other as it is.

    Raises:
        GanvasError: the data have no such labels.
    """
    heads = getattr(recipe.settings, "heads", ())
    if not heads:
        return recipe
    if not isinstance(data, Store):
        raise GanvasError(
            f"{data.path}: is a stream of shards, which has no classes; train on a prepared data set"
        )
    if recipe.settings.labels:
        return recipe
    return replace(recipe, settings=replace(recipe.settings, labels=label_names(data, heads)))


class LabelInputs:
    """Turns feed batches into batches with labels instead of captions.

    Args:
        store: the data.
        labels: the names of each kind of label.
        fabric: device.
    """

    def __init__(self, store: Store, labels: Mapping[str, Sequence[str]], fabric: Fabric) -> None:
        every = torch.arange(len(store)).numpy()
        self._numbers = torch.from_numpy(label_numbers(store, labels, every)).to(fabric.device)

    def __call__(self, batch: FeedBatch) -> Batch:
        """The training batch, on the device."""
        return Batch(images=batch.images, labels=batch.labels, targets=self._numbers[batch.rows])
