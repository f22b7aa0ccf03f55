"""Emoji attributes: hand-made cases, and the classifier that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ganvas.data.emoji.source import EmojiSource
from ganvas.data.source import Request
from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.scores import emoji_attributes as module
from ganvas.scores.classifiers import load_classifier
from ganvas.scores.emoji_attributes import AttributeProtocol, emoji_attributes
from ganvas.scores.pictures import real
from ganvas.scores.score import Score

pytestmark = pytest.mark.usefixtures("single_threaded")
Scored = Callable[[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]], Score]
STYLES, TONES = ("flat", "round"), ("dark", "light")


def shade_store(path: Path, attributes: Sequence[Mapping[str, str]]) -> Store:
    """Image i has the brightness i everywhere."""
    with StoreWriter(path, name="shades", size=16, source="drawn here", licence="CC0-1.0") as writer:
        for number, facts in enumerate(attributes):
            record = Record(id=str(number), split="test", captions=("x",), attributes=facts)
            writer.add(record, np.full((16, 16, 3), number, np.uint8))
        writer.finish()
    return Store(path)


class Reader(torch.nn.Module):
    """Stands for a classifier: what it sees follows from the number that the image is."""

    def __init__(self, seen: Sequence[Mapping[str, str]]) -> None:
        super().__init__()
        self.labels = {"style": STYLES, "skin_tone": TONES}
        self.seen = seen

    def logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        numbers = ((images[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
        places = {
            k: [names.index(self.seen[n].get(k, names[0])) for n in numbers]
            for k, names in self.labels.items()
        }
        return {k: torch.nn.functional.one_hot(torch.tensor(v), 2).float() for k, v in places.items()}


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scored:
    def score(asked: Sequence[Mapping[str, str]], seen: Sequence[Mapping[str, str]]) -> Score:
        store = shade_store(tmp_path / "data", asked)
        monkeypatch.setattr(module, "load_classifier", lambda name: (Reader(seen), "reader"))
        protocol = AttributeProtocol(attributes=("style", "skin_tone"))
        return emoji_attributes(real(store, split="test"), store, protocol)

    return score


def test_what_is_seen_as_asked_counts_and_only_where_it_is_asked(scored: Scored) -> None:
    asked = [
        {"style": "flat"},
        {"style": "flat"},
        {"style": "round", "skin_tone": "light"},
        {"style": "round"},
    ]
    seen = [
        {"style": "flat"},
        {"style": "round"},
        {"style": "round", "skin_tone": "dark"},
        {"style": "round"},
    ]
    score = scored(asked, seen)
    assert score.facts["style"] == {"accuracy": 0.75, "num_images": 4, "num_unknown": 0}
    assert score.facts["skin_tone"] == {"accuracy": 0.0, "num_images": 1, "num_unknown": 0}
    assert score.value == pytest.approx(0.375)


def test_all_as_asked_scores_one_and_an_attribute_that_nobody_has_does_not_count(scored: Scored) -> None:
    asked = [{"style": "flat"}, {"style": "round"}]
    score = scored(asked, asked)
    assert score.value == 1 and score.facts["skin_tone"]["accuracy"] is None


def test_values_that_the_classifier_never_saw_are_counted_apart(scored: Scored) -> None:
    score = scored([{"style": "flat"}, {"style": "baroque"}], [{"style": "flat"}, {"style": "flat"}])
    assert score.facts["style"] == {"accuracy": 1.0, "num_images": 1, "num_unknown": 1}


def test_data_without_attributes_are_one_line(scored: Scored) -> None:
    with pytest.raises(GanvasError, match="none of these images has an attribute") as refused:
        scored([{}, {"hair": "red"}], [{}, {}])
    assert "\n" not in str(refused.value)


def test_an_attribute_that_the_classifier_does_not_tell_is_one_line(tmp_path: Path) -> None:
    store = shade_store(tmp_path / "data", [{"hair": "red"}])
    with pytest.raises(GanvasError, match="does not tell hair; it tells style, "):
        emoji_attributes(real(store, split="test"), store, AttributeProtocol(attributes=("style", "hair")))


def test_a_score_says_what_fixes_it_and_can_be_repeated(scored: Scored) -> None:
    asked = [{"style": "flat"}, {"style": "round"}]
    score = scored(asked, asked)
    assert score.better == "higher" and score.protocol["attributes"] == ["style", "skin_tone"]
    assert {"data", "split", "num_images", "classifier", "classifier_weights"} <= set(score.protocol)


def test_the_classifier_that_ships_knows_the_emoji_set() -> None:
    classifier, name = load_classifier("emoji")
    assert name == "classifier-emoji" and classifier.image_size == 64
    assert classifier.labels["style"] == ("fluent", "noto", "twemoji")
    assert {"light", "medium", "dark"} <= set(classifier.labels["skin_tone"])
    assert len(classifier.labels["group"]) == 9 and len(classifier.labels["subject"]) > 1000
    assert not classifier.training


@pytest.fixture(scope="module")
def some_emoji(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Some drawings of the test split."""
    source = EmojiSource(Request())
    records = [record for record in source.records() if record.split == "test"][::9]
    path = tmp_path_factory.mktemp("emoji") / "data"
    with StoreWriter(path, name="emoji", size=64, source=source.about, licence=source.licence) as writer:
        for record in records:
            writer.add(record, source.load(record, 64))
        writer.finish()
    return Store(path)


def test_real_emoji_show_what_their_captions_ask_for_and_shuffled_ones_do_not(some_emoji: Store) -> None:
    protocol = AttributeProtocol()
    score = emoji_attributes(real(some_emoji, split="test"), some_emoji, protocol)
    chance = emoji_attributes(real(some_emoji, split="test", shuffled=True), some_emoji, protocol)
    assert score.value > 0.7 and chance.value < 0.45
    assert all(score.facts[kind]["accuracy"] > chance.facts[kind]["accuracy"] + 0.2 for kind in score.facts)
    assert score.facts["style"]["num_images"] == len(some_emoji) > 100
    assert score == emoji_attributes(real(some_emoji, split="test"), some_emoji, protocol)
