import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ganvas.text import build
from ganvas.text.settings import BiLstmSettings

CAPTIONS = ["a small red bird with grey wings", "bird", "a red bird", "zebra"]


def encoder(**settings):
    return build(BiLstmSettings(features=16, embedding=10, **settings), captions=CAPTIONS[:3]).eval()


def packed_reference(model, tokens):
    """A bidirectional LSTM over packed sequences with the same weights."""
    lstm = nn.LSTM(10, 8, batch_first=True, bidirectional=True)
    state = model.forwards.state_dict()
    state.update({f"{key}_reverse": value for key, value in model.backwards.state_dict().items()})
    lstm.load_state_dict(state)
    lengths = (tokens != 0).sum(dim=1)
    packed = pack_padded_sequence(model.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
    words, (last, _) = lstm(packed)
    return pad_packed_sequence(words, batch_first=True)[0], torch.cat([last[0], last[1]], dim=-1)


def test_turning_captions_in_place_equals_packed_sequences():
    model = encoder()
    tokens = model.tokenize(CAPTIONS)
    text = model(tokens)
    words, sentence = packed_reference(model, tokens)
    torch.testing.assert_close(text.words, words)
    torch.testing.assert_close(text.sentence, sentence)
    assert text.mask.sum(dim=1).tolist() == [7, 1, 3, 1]


def test_the_published_widths_have_the_published_number_of_parameters():
    from ganvas.text.bilstm import BiLstm
    from ganvas.text.tokenizer import WordTokenizer

    for vocabulary, count in ((5450, 2_075_320), (27_297, 8_629_420)):
        tokenizer = WordTokenizer.from_words([f"w{n}" for n in range(2, vocabulary)], 18)
        with torch.device("meta"):
            model = BiLstm(BiLstmSettings(), tokenizer)
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_embeddings_start_between_minus_and_plus_a_tenth():
    weight = encoder().embedding.weight
    assert 0.09 < weight.abs().max() <= 0.1


def test_a_row_of_padding_alone_encodes_as_one_word():
    text = encoder()(torch.zeros(2, 3, dtype=torch.long))
    assert text.mask.tolist() == [[True, False, False]] * 2
    assert text.sentence.isfinite().all() and text.sentence.any()


def test_dropout_acts_on_embedded_words_in_training_only():
    model = encoder(dropout=0.5)
    assert model.encode(CAPTIONS).sentence.equal(model.encode(CAPTIONS).sentence)
    model.train()
    assert not model.encode(CAPTIONS).sentence.equal(model.encode(CAPTIONS).sentence)


def test_words_of_a_longer_caption_are_drawn_in_training_and_the_first_ones_read_otherwise():
    model = encoder(num_words=3, word_choice="random", dropout=0.0)
    tokens = model.tokenize(CAPTIONS)
    assert tokens.shape == (4, 7)
    first = build_first(tokens)
    assert torch.equal(model(tokens).words, model(first).words)
    assert model(tokens).mask.sum(dim=1).tolist() == [3, 1, 3, 1]
    model.train()
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        chosen = model._chosen(tokens)
        assert chosen[1].tolist() == tokens[1, :3].tolist() and chosen[2].tolist() == tokens[2, :3].tolist()
        places = tokens[0].tolist()
        rest = iter(places)
        assert all(word in rest for word in chosen[0].tolist())  # in their order
        seen.add(tuple(chosen[0].tolist()))
    assert len(seen) > 20  # of 35


def build_first(tokens):
    return tokens[:, :3]
