"""Emoji attributes: does an image show what its caption asks for? What SOA is to COCO.

A classifier that was trained on real images of the training split says what it sees of style, group,
gender, skin tone and subject; each is compared with the record that the caption was written from. The test
split holds combinations that training has not seen, of values that it has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ganvas.data.labels import facts, label_numbers
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.progress import progress
from ganvas.scores.classifiers import load_classifier, to_input, weights_digest
from ganvas.scores.pictures import Pictures
from ganvas.scores.score import Score
from ganvas.systems.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class AttributeProtocol:
    """Everything that fixes the number."""

    attributes: tuple[str, ...] = ("style", "group", "gender", "skin_tone", "subject")
    """What is compared; the score is the mean over them."""
    classifier: str = "emoji"
    """The one that ships for the embedded set, or a folder with a trained one."""


def emoji_attributes(pictures: Pictures, store: Store, protocol: AttributeProtocol) -> Score:
    """How often images show the attributes that their captions ask for: the mean of the shares of each.

    An attribute counts over the images whose record has it. ``real`` images give the most that can be
    expected, shuffled ones what chance gives.

    Args:
        pictures: what is scored.
        store: whose records say what the captions ask for.
        protocol: how.

    Raises:
        GanvasError: no such classifier, or data without such attributes.
    """
    classifier, name = load_classifier(protocol.classifier)
    labels = {kind: classifier.labels.get(kind, ()) for kind in protocol.attributes}
    wanted = label_numbers(store, labels, pictures.rows)  # (N, attributes)
    _check(classifier, store, protocol, wanted)
    seen = _seen(pictures, classifier, protocol)
    found: dict[str, dict[str, Any]] = {}
    for column, kind in enumerate(protocol.attributes):
        known = wanted[:, column] >= 0
        asked = sum(value is not None for value in facts(store, kind, pictures.rows))
        hits = seen[known, column] == wanted[known, column]
        found[kind] = {
            "accuracy": float(hits.mean()) if known.any() else None,
            "num_images": int(known.sum()),
            "num_unknown": asked - int(known.sum()),
        }
    shares = [fact["accuracy"] for fact in found.values() if fact["accuracy"] is not None]
    return Score(
        name="emoji attributes",
        value=float(np.mean(shares)),
        better="higher",
        protocol={
            **pictures.about,
            **asdict(protocol),
            "attributes": list(protocol.attributes),
            "classifier": name,
            "classifier_weights": weights_digest(classifier),
        },
        facts=found,
    )


def _check(
    classifier: Classifier, store: Store, protocol: AttributeProtocol, wanted: npt.NDArray[np.int64]
) -> None:
    if missing := [name for name in protocol.attributes if name not in classifier.labels]:
        raise GanvasError(
            f"classifier '{protocol.classifier}': does not tell {', '.join(missing)}; it tells"
            f" {', '.join(classifier.labels)}"
        )
    if not (wanted >= 0).any():
        raise GanvasError(
            f"{store.path}: none of these images has an attribute ({', '.join(protocol.attributes)}) that the"
            f" classifier '{protocol.classifier}' knows; this score is for the embedded emoji set"
        )


@torch.inference_mode()
def _seen(pictures: Pictures, classifier: Classifier, protocol: AttributeProtocol) -> npt.NDArray[np.int64]:
    """``(N, attributes)``: the label that the classifier gives each image."""
    seen = []
    done = 0
    with progress(f"{pictures.kind} images", len(pictures)) as report:
        for batch in pictures.batches():
            logits = classifier.logits(to_input(batch))
            seen.append(torch.stack([logits[name].argmax(dim=1) for name in protocol.attributes], dim=1))
            done += len(batch)
            report(done)
    return torch.cat(seen).numpy()
