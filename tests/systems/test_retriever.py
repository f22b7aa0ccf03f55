"""Training a text encoder against images, and the dual encoder made of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from ganvas.errors import GanvasError
from ganvas.systems.base import Batch
from ganvas.systems.gan_int_cls import GanIntCls, GanIntClsSettings
from ganvas.systems.joint_embedding import JointEmbeddingSettings
from ganvas.systems.retriever import Retriever, RetrieverSettings
from ganvas.text import build
from ganvas.text.encoder import Text, TextEncoder
from ganvas.text.settings import BiLstmSettings, CharCnnRnnSettings

CAPTIONS = ["red", "green", "blue", "white"]


def retriever(**changes: object) -> Retriever:
    torch.manual_seed(0)
    encoder = build(CharCnnRnnSettings(channels=16, embedding=16), None, None)
    settings = JointEmbeddingSettings(image_width=4, **changes)  # type: ignore[arg-type]
    return Retriever(RetrieverSettings(joint_embedding=settings), encoder, 16)


def coloured_batch(system: Retriever) -> Batch:
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    images = colours[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    labels = torch.tensor([0, 1, 2, 2])
    return Batch(images=images, tokens=system.text_encoder.tokenize(CAPTIONS), labels=labels)


@pytest.mark.parametrize("objective", ["hinge", "info-nce"])
def test_four_colours_are_learned_by_either_objective(objective: str) -> None:
    system = retriever(objective=objective, same_class_matches=False).train()
    (phase,) = system.phases()
    (turn,) = phase.turns
    batch = coloured_batch(system)
    parameters = [p for module in turn.modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for _ in range(60):
        losses = turn.loss(batch, phase.draw(batch))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.terms["accuracy"] == 1
    assert losses.total < 0.2


def test_pairs_of_one_class_count_only_where_the_setting_says_so() -> None:
    losses = {}
    for matches in (False, True):
        system = retriever(same_class_matches=matches).eval()
        batch = coloured_batch(system)
        (phase,) = system.phases()
        losses[matches] = phase.turns[0].loss(batch, phase.draw(batch)).total
    assert losses[True] < losses[False]


def test_features_are_unit_vectors_and_images_of_any_size_are_taken() -> None:
    system = retriever().eval()
    with torch.no_grad():
        features = system.image_features(torch.randn(3, 3, 40, 40))
        captions = system.caption_features(CAPTIONS)
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(captions.norm(dim=1), torch.ones(4), atol=1e-5)


def test_a_retriever_generates_nothing() -> None:
    system = retriever()
    with pytest.raises(TypeError, match="generates nothing"):
        system.generate(system.embed(CAPTIONS), torch.randn(4, 0))


def test_the_text_encoder_is_saved_once() -> None:
    names = list(retriever().state_dict())
    assert len(names) == len(set(names))
    assert not any(name.startswith("joint_embedding.text") for name in names)


def test_standardizing_needs_an_encoder_with_a_last_layer() -> None:
    encoder = build(BiLstmSettings(features=8, embedding=4), CAPTIONS, None)
    settings = RetrieverSettings(joint_embedding=JointEmbeddingSettings(standardize=True))
    with pytest.raises(GanvasError, match="set it false"):
        Retriever(settings, encoder, 16)


def test_standardizing_happens_at_the_end_of_the_text_phase() -> None:
    encoder = build(CharCnnRnnSettings(channels=8, embedding=8), None, None)
    settings = GanIntClsSettings(
        generator_width=4,
        discriminator_width=4,
        style_width=4,
        joint_embedding=JointEmbeddingSettings(standardize=True, image_width=4),
    )
    system = GanIntCls(settings, encoder, 16)
    finish = system.phases()[0].finish
    assert finish is not None
    finish(CAPTIONS)
    sentence = system.embed(CAPTIONS).sentence
    assert torch.allclose(sentence.std(dim=0), torch.ones(8), atol=1e-2)
    assert all(phase.finish is None for phase in system.phases()[1:])


class FrozenStub(TextEncoder):
    """Comes trained: each caption has a vector."""

    trained_here = False
    sentence_dim = word_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(256, 6)

    def tokenize(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[ord(caption[0])] for caption in captions])

    def forward(self, tokens: torch.Tensor) -> Text:
        words = self.table(tokens)
        return Text(words[:, 0], words, tokens != 0)

    def files(self) -> dict[str, str]:
        return {}


def test_a_frozen_text_encoder_stays_as_it_is_and_its_sentences_are_mapped_to_the_common_space() -> None:
    torch.manual_seed(0)
    settings = JointEmbeddingSettings(image_width=4, objective="info-nce", same_class_matches=False)
    system = Retriever(RetrieverSettings(joint_embedding=settings, features=8), FrozenStub(), 16)
    (phase,) = system.phases()
    assert not phase.trains_text and list(phase.averaged) == [system.joint_embedding]
    (turn,) = phase.turns
    before = system.text_encoder.table.weight.clone()  # type: ignore[union-attr]
    parameters = [p for module in turn.modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    batch = replace(coloured_batch(system), tokens=None, text=system.embed(CAPTIONS))
    for _ in range(60):
        losses = turn.loss(batch, phase.draw(batch))
        optimizer.zero_grad()
        losses.total.backward(retain_graph=True)
        optimizer.step()
    assert losses.terms["accuracy"] == 1
    assert torch.equal(before, system.text_encoder.table.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        assert system.caption_features(CAPTIONS).shape == (4, 8)
        assert system.image_features(batch.images).shape == (4, 8)
