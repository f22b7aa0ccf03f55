"""What every text encoder of the registry does."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ganvas.errors import GanvasError
from ganvas.text import TextSettings, build, text_encoders, text_settings
from ganvas.text.encoder import Text, TextEncoder
from ganvas.text.settings import BiLstmSettings, CharCnnRnnSettings, TransformerSettings

CAPTIONS = ["a red bird with blue wings", "bird", "鸟", "a blue bird " * 4]
ODD = ["x", "😀", "红色的鸟", "a red bird " * 909 + "!", "\x00", "É"]
NEEDS = {"transformer": "transformers"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings of a small encoder of each kind that this installation can build."""
    made = {
        "char-cnn-rnn": CharCnnRnnSettings(channels=16, embedding=12, dropout=0.2),
        "bilstm": BiLstmSettings(features=16, embedding=10),
    }
    if importlib.util.find_spec("transformers"):
        import tiny_transformers

        folder = tmp_path_factory.mktemp("bert")
        torch.manual_seed(0)
        tiny_transformers.save("bert", folder)
        made["transformer"] = TransformerSettings(model=str(folder), frozen=False)
    return made


@pytest.fixture(params=sorted(text_encoders()))
def given_settings(request, small):
    if request.param not in small:
        pytest.skip(f"needs {NEEDS[request.param]}")
    return small[request.param]


@pytest.fixture
def encoder(given_settings):
    return build(given_settings, captions=CAPTIONS).eval()


def assert_sound(encoder: TextEncoder, text: Text, batch: int):
    steps = text.mask.shape[1]
    assert text.sentence.shape == (batch, encoder.sentence_dim)
    assert text.words.shape == (batch, steps, encoder.word_dim)
    assert text.mask.shape == (batch, steps) and text.mask.dtype == torch.bool
    assert text.mask[:, 0].all(), "every caption has a word"
    assert (text.mask[:, 1:] <= text.mask[:, :-1]).all(), "padding comes last"
    assert not text.words[~text.mask].any()
    assert text.sentence.isfinite().all() and text.words.isfinite().all()


def assert_close(ours: Text, theirs: Text, **tolerance):
    steps = min(ours.mask.shape[1], theirs.mask.shape[1])
    torch.testing.assert_close(ours.sentence, theirs.sentence, **tolerance)
    torch.testing.assert_close(ours.words[:, :steps], theirs.words[:, :steps], **tolerance)
    assert ours.mask[:, :steps].equal(theirs.mask[:, :steps])
    assert ours.mask.sum() == theirs.mask.sum()


def test_it_encodes_captions_of_any_kind(encoder):
    tokens = encoder.tokenize(CAPTIONS + ODD)
    assert tokens.dtype == torch.long and tokens.device.type == "cpu" and (tokens >= 0).all()
    assert_sound(encoder, encoder.encode(CAPTIONS + ODD), len(CAPTIONS + ODD))


def test_every_parameter_gets_a_gradient(encoder):
    text = encoder.train().encode(CAPTIONS)
    (text.sentence.pow(2).sum() + text.words.pow(3).sum()).backward()
    without = [
        name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert without == []


def test_weights_and_files_make_the_same_encoder_again(encoder, given_settings):
    again = build(given_settings, files=encoder.files()).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.files() == encoder.files()
    for ours, before in zip(again.encode(CAPTIONS + ODD), encoder.encode(CAPTIONS + ODD), strict=True):
        assert ours.equal(before)


def test_a_caption_encodes_alike_alone_and_in_any_batch(encoder):
    everything = encoder.encode(CAPTIONS + ODD)
    for row, caption in enumerate(CAPTIONS + ODD):
        alone = encoder.encode([caption])
        assert_close(alone, everything.rows(slice(row, row + 1)), atol=1e-5, rtol=1e-4)


def test_more_padding_changes_nothing(encoder):
    tokens = encoder.tokenize(CAPTIONS[:2])
    padded = torch.nn.functional.pad(tokens, (0, 7))
    assert_close(encoder(tokens), encoder(padded), atol=1e-5, rtol=1e-4)


def test_different_captions_have_different_sentences(encoder):
    first, second = encoder.encode(["a red bird", "a blue bird"]).sentence
    assert (first - second).abs().max() > 1e-4


def test_bfloat16_autocast_stays_near_float32(encoder):
    exact = encoder.encode(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = encoder.encode(CAPTIONS)
    scale = exact.words.abs().max().item()
    assert_close(
        Text(*(part.float() for part in coarse[:2]), coarse.mask), exact, atol=0.05 * scale, rtol=0.05
    )


def test_it_gives_no_gradient_to_other_captions_in_the_batch(encoder):
    text = encoder.encode(CAPTIONS)
    weights = [p for p in encoder.parameters() if p.requires_grad]
    loss = text.sentence[0].pow(2).sum() + text.words[0].pow(2).sum()
    alone = encoder.encode(CAPTIONS[:1])
    expected = torch.autograd.grad(alone.sentence.pow(2).sum() + alone.words.pow(2).sum(), weights)
    for ours, theirs in zip(torch.autograd.grad(loss, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(captions=st.lists(st.text(st.characters(), max_size=80), min_size=1, max_size=3))
@pytest.mark.parametrize("name", sorted(text_encoders()))
def test_any_text_encodes_soundly(small, name, captions):
    if name not in small:
        pytest.skip(f"needs {NEEDS[name]}")
    encoder = build(small[name], captions=CAPTIONS).eval()
    with torch.no_grad():
        assert_sound(encoder, encoder.encode(captions), len(captions))


@pytest.mark.parametrize("name", sorted(text_encoders()))
def test_settings_are_told_apart_by_the_name_of_their_encoder(name):
    kind = text_settings(name)
    assert kind is text_encoders()[name].settings
    tree = {"encoder": name, **({"model": "x"} if name == "transformer" else {})}
    assert type(TypeAdapter(TextSettings).validate_json(json.dumps(tree), strict=True)) is kind
    assert next(iter(fields(kind))).name == "encoder"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("bilst", "no text encoder 'bilst'; did you mean 'bilstm'?"), (None, "is missing"), (7, "7 is no name")],
)
def test_an_unknown_text_encoder_is_refused(name, problem):
    with pytest.raises(GanvasError) as caught:
        text_settings(name)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_vocabulary_needs_captions_or_its_file():
    with pytest.raises(GanvasError, match="needs the training captions"):
        build(BiLstmSettings())
    with pytest.raises(GanvasError, match=r"tokenizer.json: is missing"):
        build(BiLstmSettings(), files={})


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (BiLstmSettings, {"features": 15}),
        (BiLstmSettings, {"features": 0}),
        (BiLstmSettings, {"embedding": 0}),
        (BiLstmSettings, {"num_words": 0}),
        (BiLstmSettings, {"min_count": 0}),
        (BiLstmSettings, {"dropout": 1.0}),
        (BiLstmSettings, {"dropout": -0.1}),
        (TransformerSettings, {"model": ""}),
        (TransformerSettings, {"num_words": 0}),
    ],
)
def test_impossible_settings_are_refused_by_name(kind, wrong):
    good = kind(model="x") if kind is TransformerSettings else kind()
    with pytest.raises(GanvasError, match=f"text.{next(iter(wrong))}: ") as caught:
        replace(good, **wrong)
    assert "\n" not in str(caught.value)


def test_reading_settings_loads_no_torch():
    code = "import sys, ganvas.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
