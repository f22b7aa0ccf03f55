"""Inception score: does a classifier see one class in each image, and all classes among them?

``exp(E_x KL(p(y|x) || p(y)))`` with the natural logarithm (Salimans et al., NeurIPS 2016), over any
classifier. The papers' protocols differ in everything else: 10 splits or 1; on CUB and Oxford-102 a network
that was fine-tuned on the data, whose background class is cut off the logits before the softmax, shuffled
images in batches of 64 and the last partial one dropped; on COCO the 1,008 outputs of the network of FID.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganvas.data.labels import label_numbers
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.progress import progress
from ganvas.scores.classifiers import LogitSource, open_classifier
from ganvas.scores.pictures import Pictures
from ganvas.scores.score import Score


@dataclass(frozen=True, kw_only=True)
class InceptionProtocol:
    """Everything that fixes the number."""

    classifier: str = "emoji"
    """What ``open_classifier`` knows: the name of one that ships for a data set, a folder with a trained one,
    or ``inception-fid``, as in the papers on COCO."""
    head: str | None = None
    """Of a classifier that has several: what it tells apart; by default the one with the most labels, of the
    classifier that ships ``subject``."""
    splits: int = 10
    """Parts of the images, each scored by itself; the score is their mean, its spread their deviation."""
    background: int | None = None
    """A class that is cut off the logits before the softmax, where the classifier has one that is none of the
    data's: 0 in the papers on CUB and Oxford-102. Classifiers of ours have none."""
    classes: Literal["all", "split"] = "all"
    """``split``: of a classifier that knows more, keep the classes of the scored split, and cut the others
    off the logits before the softmax. The papers' networks on CUB and Oxford-102 know the test classes
    alone."""
    drop_last_batch_of: int | None = None
    """Leave out the images of a last partial batch of this size: 64 in the papers' code for CUB."""
    shuffle_seed: int | None = None
    """Of the order in which images are dealt to the splits; by default they keep their own."""


def inception_score(
    pictures: Pictures, store: Store, protocol: InceptionProtocol, source: LogitSource | None = None
) -> Score:
    """The Inception score of images. Memory does not grow with their number.

    Args:
        pictures: what is scored.
        store: has the classes of the split, where the protocol asks for them.
        protocol: how.
        source: another network than ``protocol.classifier``.

    Raises:
        GanvasError: no such classifier, one without the classes of the split, or too few images for the
            splits.
    """
    if source is None:
        source = open_classifier(protocol.classifier, protocol.head)
    if not source.has_background:
        protocol = replace(protocol, background=None)
    if source.classes is None:
        protocol = replace(protocol, classes="all")
    kept = slice(None) if protocol.classes == "all" else classes_of_split(pictures, store, source)
    part = dealt(len(pictures), protocol)
    sums = SplitSums(protocol.splits)
    done = 0
    with progress(f"{pictures.kind} images", len(pictures)) as report:
        for batch in pictures.batches():
            logits = without_class(source.logits(batch).double(), protocol.background)[:, kept]
            sums.add(logits.softmax(dim=1), part[done : done + len(batch)])
            done += len(batch)
            report(done)
    values = sums.scores()
    fixed = {k: v for k, v in asdict(protocol).items() if k not in ("classifier", "head")}
    return Score(
        name=f"inception score {source.name}",
        value=float(values.mean()),
        spread=float(values.std()),
        better="higher",
        protocol={
            **pictures.about,
            **fixed,
            "classifier": source.name,
            "classifier_weights": source.digest,
            **source.about,
        },
        facts={
            "splits": values.tolist(),
            "num_scored": int((part >= 0).sum()),
            "num_classes": sums.num_classes,
            "negative_log_posterior": float(sums.negative_log_posteriors().mean()),
        },
    )


def dealt(num: int, protocol: InceptionProtocol) -> npt.NDArray[np.int64]:
    """The split of each of ``num`` images, ``(num,)``; -1 is none.

    Split i holds the images from i * num // splits on, in their order or a shuffled one.

    Raises:
        GanvasError: a split would be empty.
    """
    batch = protocol.drop_last_batch_of
    kept = num if batch is None else num - num % batch
    if protocol.splits < 1 or kept < protocol.splits:
        raise GanvasError(
            f"Inception score over {protocol.splits} splits needs an image for each, and there are {kept};"
            " score more images, or in fewer splits"
        )
    seed = protocol.shuffle_seed
    order = np.arange(num) if seed is None else np.random.default_rng([seed, 3]).permutation(num)
    part = np.full(num, -1, np.int64)
    bounds = np.arange(1, protocol.splits) * kept // protocol.splits
    part[order[:kept]] = np.searchsorted(bounds, np.arange(kept), side="right")
    return part


def classes_of_split(pictures: Pictures, store: Store, source: LogitSource) -> npt.NDArray[np.int64]:
    """Which of a classifier's classes the images of a split have, in order.

    Raises:
        GanvasError: fewer than two.
    """
    assert source.classes is not None
    split = pictures.about["split"]
    numbers = label_numbers(store, {source.kind: source.classes}, store.rows(split))
    found = np.unique(numbers[numbers >= 0])
    if len(found) < 2:
        raise GanvasError(
            f"classifier '{source.name}': knows {len(found)} of the classes of split '{split}' and needs 2;"
            " train it on data with these classes, for CUB and Oxford-102 with split=official"
        )
    return found


def without_class(logits: Tensor, number: int | None) -> Tensor:
    """Logits ``(B, K)`` without those of one class."""
    if number is None:
        return logits
    if not 0 <= number < logits.shape[1]:
        raise GanvasError(f"background: {number} is none of the classifier's {logits.shape[1]} classes")
    return torch.cat([logits[:, :number], logits[:, number + 1 :]], dim=1)


class SplitSums:
    """What the scores of the splits need of all probabilities: their sum, the sum of p log p, and that of
    -log max p.

    Args:
        splits: how many.
    """

    def __init__(self, splits: int) -> None:
        self._counts = np.zeros(splits)
        self._negative_entropies = np.zeros(splits)
        self._log_posteriors = np.zeros(splits)
        self._sums: npt.NDArray[np.float64] | None = None

    @property
    def num_classes(self) -> int:
        """K, once something was added."""
        return 0 if self._sums is None else self._sums.shape[1]

    def add(self, probabilities: Tensor, part: npt.NDArray[np.int64]) -> None:
        """Take in probabilities ``(B, K)`` of images of the splits ``(B,)``; split -1 is left out."""
        given = probabilities.double().cpu()
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), given.shape[1]))
        kept = part >= 0
        values, places = given.numpy()[kept], part[kept]
        negative_entropy = torch.xlogy(given, given).sum(dim=1).numpy()[kept]
        np.add.at(self._counts, places, 1)
        np.add.at(self._negative_entropies, places, negative_entropy)
        np.add.at(self._log_posteriors, places, given.amax(dim=1).log().numpy()[kept])
        np.add.at(self._sums, places, values)

    def scores(self) -> npt.NDArray[np.float64]:
        """The Inception score of each split: exp of mean p log p, minus that of the mean."""
        assert self._sums is not None
        mean = torch.from_numpy(self._sums / self._counts[:, None])
        marginal = torch.xlogy(mean, mean).sum(dim=1).numpy()
        scores: npt.NDArray[np.float64] = np.exp(self._negative_entropies / self._counts - marginal)
        return scores

    def negative_log_posteriors(self) -> npt.NDArray[np.float64]:
        """Mean of -log max p in each split, which StackGAN++ reports beside the score: how unsure it is."""
        return -self._log_posteriors / self._counts
