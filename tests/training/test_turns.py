"""Turns that are not taken in every step, and phases that read several captions of an image."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tiny_runs import logged_losses, outcome, tiny_recipe

from ganvas.data.feed import Feed, FeedSettings
from ganvas.data.store import Store
from ganvas.systems.base import Phase
from ganvas.systems.gan_int_cls import GanIntCls
from ganvas.text import build
from ganvas.text.settings import BiLstmSettings
from ganvas.training.inputs import Inputs
from ganvas.training.loop import train

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The turns as they are taken, and whether generated images had a graph; the generator learns in every
    second step.
    """
    found: list[tuple[str, bool]] = []
    phases = GanIntCls.phases

    def every_second(self: GanIntCls) -> list[Phase]:
        changed = []
        for phase in phases(self):
            if phase.name == "gan":
                turns = [replace(turn, every=2 if turn.name == "generator" else 1) for turn in phase.turns]
                phase = replace(phase, turns=[replace(t, loss=noted(t.name, t.loss)) for t in turns])
            changed.append(phase)
        return changed

    def noted(name: str, loss: Any) -> Any:
        def call(batch: Any, draw: Any) -> Any:
            found.append((name, draw.images.requires_grad))
            return loss(batch, draw)

        return call

    monkeypatch.setattr(GanIntCls, "phases", every_second)
    return found


def test_a_turn_is_taken_in_every_second_step_and_costs_nothing_in_the_others(
    store: Store, tmp_path: Path, taken: list[tuple[str, bool]]
) -> None:
    run = train(tiny_recipe(images={"text": 4, "gan": 24}), store, tmp_path / "run")
    one = [("discriminator", False)]
    both = [("discriminator", True), ("generator", True)]
    assert taken == 3 * (one + both)
    rows = [row for row in logged_losses(run.folder) if row["phase"] == "gan"]
    assert len(rows) == 2 and all(float(row["generator_loss"]) > 0 for row in rows)


def test_such_a_run_resumes_to_the_same_result(
    store: Store, tmp_path: Path, taken: list[tuple[str, bool]]
) -> None:
    images = {"text": 4, "gan": 24}
    whole = train(tiny_recipe(images=images), store, tmp_path / "whole")
    for part in (8, 12, 24):
        parts = train(tiny_recipe(images={"text": 4, "gan": part}), store, tmp_path / "parts")
    ours, theirs = outcome(parts.folder)[1], outcome(whole.folder)[1]
    assert ours == theirs


def test_several_captions_of_an_image_come_with_their_words(store: Store, tmp_path: Path) -> None:
    captions = [caption for row in store.captions for caption in row]
    encoder = build(BiLstmSettings(features=8, embedding=4), captions).eval()
    feed = Feed(store, "train", FeedSettings(batch_size=4, image_size=16, captions=2, replacement=False))
    turn: Any = None
    phase = Phase(name="gan", turns=[turn], draw=lambda batch: None, words=True, captions=2)
    with closing(feed.batches(0, torch.device("cpu"))) as batches:
        drawn = next(batches)
        batch = Inputs(encoder, feed.captions, phase, Fabric(accelerator="cpu"), tmp_path)(drawn)
    assert batch.text is not None and len(batch.further_texts) == 1
    for text, numbers in zip([batch.text, *batch.further_texts], drawn.captions.unbind(1), strict=True):
        expected = encoder.encode([feed.captions[number] for number in numbers.tolist()])
        torch.testing.assert_close(text.sentence, expected.sentence)
        torch.testing.assert_close(text.words[:, : expected.words.shape[1]], expected.words)
    assert (drawn.captions[:, 0] != drawn.captions[:, 1]).all()
