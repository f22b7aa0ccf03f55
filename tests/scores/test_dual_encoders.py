"""The dual encoders of R-precision: those that ship, those of a run, CLIP."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from ganvas.errors import GanvasError
from ganvas.scores.dual_encoders import digest, load_retriever

pytestmark = pytest.mark.usefixtures("single_threaded")


def test_a_retriever_that_is_not_there_is_one_line(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="no dual encoder ships for data set 'nonsense'"):
        load_retriever("nonsense")
    with pytest.raises(GanvasError, match="holds no model"):
        load_retriever(str(tmp_path))
    with pytest.raises(GanvasError, match="holds no dual encoder"):
        load_retriever(str(undisturbed))


def test_the_retriever_that_ships_gives_unit_features_of_images_and_captions() -> None:
    encoder, name = load_retriever("emoji")
    captions = ["a red apple", "a blue bird", "the flag of Japan"]
    features = encoder.caption_features(captions)
    assert name == "emoji" and features.shape[0] == 3
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=0.1)
    images = encoder.image_features(torch.zeros(2, 3, 48, 48))
    assert images.shape == (2, features.shape[1])


def test_a_protocol_names_a_retriever_by_its_recipe_and_weights_not_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    shutil.copytree(str(files("ganvas.scores") / "retrievers" / "emoji"), folder)
    encoder, name = load_retriever(str(folder))
    shipped, _ = load_retriever("emoji")
    assert name == "retriever-emoji" and digest(encoder) == digest(shipped)
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.001)  # type: ignore[attr-defined]
    assert digest(encoder) != digest(shipped)


def test_a_clip_folder_is_a_retriever(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tiny-clip"
    official = _save_clip(folder)
    encoder, name = load_retriever(f"clip:{folder}")
    assert name == "clip:tiny-clip"
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    official_inputs = transformers.CLIPImageProcessor(
        do_resize=False, do_center_crop=False, do_rescale=False
    )(list(((images + 1) / 2).numpy()), return_tensors="pt", input_data_format="channels_first")
    with torch.no_grad():
        expected = official.visual_projection(official.vision_model(**official_inputs).pooler_output)
        torch.testing.assert_close(encoder.image_features(images), expected, atol=1e-4, rtol=1e-4)
        assert encoder.image_features(torch.zeros(2, 3, 64, 64)).shape == (2, 12)
        assert encoder.caption_features(["a red bird", "blue"]).shape == (2, 12)


def test_what_is_no_clip_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(GanvasError) as error:
        load_retriever(f"clip:{tmp_path}")
    assert str(error.value).startswith(f"clip:{tmp_path}: ") and "\n" not in str(error.value)


def _save_clip(folder: Path) -> torch.nn.Module:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "red", "blue", "bird", "<end>"])}
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tiny, "vocab_size": len(words), "max_position_embeddings": 77, "eos_token_id": 6}
    vision = {**tiny, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=77
    ).save_pretrained(folder)
    found: torch.nn.Module = model
    return found
