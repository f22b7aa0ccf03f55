import pytest
import torch
from torch import nn

from ganvas.errors import GanvasError
from ganvas.text.char_cnn_rnn import CharCnnRnn, CharGru, build
from ganvas.text.settings import ALPHABET, CharCnnRnnSettings


def encoder(**settings):
    torch.manual_seed(0)
    return CharCnnRnn(CharCnnRnnSettings(**{"channels": 16, "embedding": 8, **settings})).eval()


@pytest.mark.parametrize(("channels", "count"), [(512, 4_045_184), (256, 2_077_312)])
def test_the_published_widths_have_the_published_number_of_parameters(channels, count):
    with torch.device("meta"):
        model = CharCnnRnn(CharCnnRnnSettings(channels=channels))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_the_alphabet_has_seventy_columns_of_which_one_is_never_set():
    assert len(ALPHABET) == 70 and len(set(ALPHABET)) == 69
    tokens = encoder().tokenize([ALPHABET])[0].tolist()
    assert encoder().tokenize(["a- "]).tolist() == [[1, 60, 70]]
    assert sorted(set(range(1, 71)) - set(tokens)) == [37]


def test_lengths_follow_201_198_66_63_21_18():
    model, lengths = encoder(), []
    for layer in (model.conv1, model.conv2, model.conv3):
        layer.register_forward_pre_hook(lambda _, x: lengths.append(x[0].shape[-1]))
        layer.register_forward_hook(lambda _, __, y: lengths.append(y.shape[-1]))
    x = torch.zeros(1, 70, 201)
    plain_convolutions(model, x)
    assert lengths == [201, 198, 66, 63, 21, 18]
    assert model.encode(["a" * 201]).words.shape == (1, 18, 16)


def plain_convolutions(model, one_hot):
    """The convolutions over the whole length, layer by layer as the architecture is written down."""
    x = nn.functional.max_pool1d(model.conv1(one_hot).relu(), 3, 3)
    x = nn.functional.max_pool1d(model.conv2(x).relu(), 3, 3)
    return model.conv3(x).relu().transpose(1, 2)


@pytest.mark.parametrize("characters", [48, 57, 100, 201, 205, 240])
@pytest.mark.parametrize("length", [1, 8, 9, 10, 47, 48, 57, 58, 144, 145, 153, 154, 200, 201, 300])
def test_cutting_padding_short_gives_what_the_whole_length_gives(characters, length):
    model = encoder(characters=characters)
    tokens = torch.randint(1, 72, (2, min(length, characters)))
    whole = torch.zeros(2, characters, dtype=torch.long)
    whole[:, : tokens.shape[1]] = tokens
    one_hot = nn.functional.one_hot(whole, 72)[..., 1:71].float().transpose(1, 2)
    expected = model.gru(plain_convolutions(model, one_hot))
    text = model(tokens)
    assert text.words.shape == expected.shape
    torch.testing.assert_close(text.sentence, model.head(expected.mean(dim=1)))
    torch.testing.assert_close(text.words[text.mask], expected[text.mask])


def test_the_recurrent_network_equals_its_formula_step_by_step():
    torch.manual_seed(0)
    gru, x = CharGru(6).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    states = [torch.tanh(gru.candidate.input(x[:, 0]))]
    for step in range(1, 5):
        h, now = states[-1], x[:, step]
        z = torch.sigmoid(gru.update.input(now) + gru.update.hidden(h))
        r = torch.sigmoid(gru.reset.input(now) + gru.reset.hidden(h))
        candidate = torch.tanh(gru.candidate.input(now) + gru.candidate.hidden(r * h))
        states.append(z * candidate + (1 - z) * h)
    torch.testing.assert_close(gru(x), torch.stack(states, dim=1))


def test_upper_case_letters_are_lower_cased_unless_told_otherwise():
    assert encoder().tokenize(["Red"]).tolist() == encoder().tokenize(["red"]).tolist() == [[18, 5, 4]]
    assert encoder(lower_case=False).tokenize(["Red"]).tolist() == [[71, 5, 4]]


def test_an_unknown_character_encodes_like_padding_but_counts_as_a_character():
    model = encoder()
    short, long = model.encode(["a"]), model.encode(["a" + "中" * 50])
    torch.testing.assert_close(short.sentence, long.sentence)
    assert (short.mask.sum().item(), long.mask.sum().item()) == (1, 6)


@pytest.mark.parametrize(
    ("length", "steps"), [(1, 1), (9, 1), (10, 2), (18, 2), (19, 3), (153, 17), (154, 18), (9999, 18)]
)
def test_a_state_counts_as_a_word_when_it_sees_a_character(length, steps):
    model = encoder()
    mask = model.encode(["a" * length]).mask[0]
    assert mask.tolist() == [True] * steps + [False] * (18 - steps)


def test_the_last_state_is_the_sentence_when_states_are_not_averaged():
    model = encoder(average=False)
    text = model.encode(["b" * 201])
    torch.testing.assert_close(text.sentence, model.head(text.words[:, -1]))


def test_characters_beyond_the_last_are_not_read():
    model = encoder(characters=60)
    assert model.tokenize(["a" * 60 + "b"]).equal(model.tokenize(["a" * 60]))
    assert model.tokenize(["İ" * 60]).shape == (1, 60)


@pytest.mark.parametrize(
    "wrong", [{"characters": 47}, {"channels": 0}, {"embedding": 0}, {"alphabet": ""}, {"dropout": 1.0}]
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(GanvasError, match=f"text.{next(iter(wrong))}: ") as caught:
        CharCnnRnnSettings(**wrong)
    assert "\n" not in str(caught.value)


def test_captions_in_another_script_are_refused_instead_of_learning_nothing():
    settings = CharCnnRnnSettings(channels=8, embedding=8)
    with pytest.raises(GanvasError, match=r"text\.alphabet: holds only 24 % .*bilstm"):
        build(settings, ["消防员，深肤色，noto 风格"] * 3 + ["苹果" * 7])
    assert build(settings, ["a firefighter, 消防员", "a red apple"]).share_known(["Ab, c!"]) == 1.0


def test_standardized_sentences_have_mean_zero_and_deviation_one_and_keep_their_order():
    model = encoder(channels=16, embedding=8)
    captions = [
        f"{colour} {thing}" for colour in ("a red", "a blue", "one") for thing in ("cat", "dog", "x", "sun")
    ]
    before = model.encode(captions).sentence
    model.standardize(captions)
    after = model.encode(captions).sentence
    assert after.mean(dim=0).abs().max() < 1e-3
    assert torch.allclose(after.std(dim=0), torch.ones(8), atol=1e-3)
    assert torch.equal(before.argsort(dim=0), after.argsort(dim=0))


def test_decorrelated_sentences_spread_over_all_directions_that_carry_anything():
    model = encoder(channels=16, embedding=8)
    captions = [f"{a} {b} {c}" for a in "abcdef" for b in ("cat", "dog", "x", "sun") for c in "uvw"]
    before = model.encode(captions).sentence.double()
    model.standardize(captions, decorrelate=True)
    after = model.encode(captions).sentence.double()

    def variances(rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(rows.T.cov(correction=0)).clamp(min=0)

    found, was = variances(after), variances(before)
    assert after.mean(dim=0).abs().max() < 1e-3
    assert after.square().mean().item() == pytest.approx(1, abs=1e-3)
    expected = was.square() / (was + was.sum() * 1e-4).square()
    torch.testing.assert_close(found, expected / expected.mean(), rtol=1e-2, atol=1e-4)
    assert found.max() / found.mean() < was.max() / was.mean()


def test_sentences_that_are_all_alike_stay_finite():
    for decorrelate in (False, True):
        model = encoder(channels=16, embedding=8)
        model.standardize(["a cat"] * 5, decorrelate=decorrelate)
        assert model.encode(["a cat", "a dog"]).sentence.isfinite().all()


def test_captions_that_are_cut_are_noted_once(caplog):
    model = encoder()
    model.tokenize(["x" * 201])
    assert not caplog.records
    model.tokenize(["x" * 10_000])
    model.tokenize(["x" * 10_000])
    assert [r.getMessage() for r in caplog.records] == [
        "captions of up to 10000 characters are cut to text.characters=201"
    ]
