"""Released DAMSM encoders become a model folder that embeds, or one line that says what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ganvas
from ganvas.convert.official import convert_files
from ganvas.errors import GanvasError
from ganvas.networks.inception import Inception
from ganvas.systems.damsm import DamsmEncoders

WORDS = ["<end>", "bird", "a", "red", "this"]


def text_state(words: int = len(WORDS)) -> dict[str, Tensor]:
    lstm = torch.nn.LSTM(6, 4, bidirectional=True)
    return {
        "encoder.weight": torch.randn(words, 6),
        **{f"rnn.{name}": value.clone() for name, value in lstm.state_dict().items()},
    }


def image_state(dim: int = 8) -> dict[str, Tensor]:
    trunk = {
        name: torch.rand_like(value) if "running" in name else value
        for name, value in Inception(tensorflow=False).state_dict().items()
        if "num_batches" not in name  # as PyTorch 0.3 saved it
    }
    heads = {"emb_features.weight": (dim, 768, 1, 1), "emb_cnn_code.weight": (dim, 2048)}
    return {
        **trunk,
        **{name: torch.randn(shape) * 0.1 for name, shape in heads.items()},
        "emb_cnn_code.bias": torch.randn(dim),
    }


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    torch.manual_seed(0)
    torch.save(text_state(), tmp_path / "text_encoder200.pth")
    torch.save(image_state(), tmp_path / "image_encoder200.pth")
    words = dict(enumerate(WORDS))
    captions = [[1], [2], words, {word: index for index, word in words.items()}]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(captions, protocol=2))
    return sorted(tmp_path.iterdir())


def test_a_release_becomes_a_model_with_its_vocabulary_and_its_drifted_statistics(
    files: list[Path], tmp_path: Path
) -> None:
    convert_files("damsm", files, tmp_path / "model")
    model = ganvas.load(tmp_path / "model", device="cpu")
    system = model.system
    assert isinstance(system, DamsmEncoders) and not system.training
    assert system.text_encoder.tokenize(["This red, red bird!"]).tolist() == [[4, 3, 3, 1]]
    assert system.text_encoder.tokenize(["a blue bird"]).tolist() == [[2, 1]]  # unknown words are dropped
    official = torch.load(files[1], weights_only=True)
    ours = system.damsm.image_encoder.state_dict()
    assert torch.equal(ours["trunk.Mixed_7c.branch_pool.bn.running_var"],
                       official["Mixed_7c.branch_pool.bn.running_var"])  # fmt: skip
    text = system.embed(["a red bird", "this"])
    with torch.no_grad():
        losses = system.damsm.loss(torch.randn(2, 3, 64, 64).tanh(), text)
    assert text.words.shape == (2, 3, 8) and torch.isfinite(losses.total)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda files: files.pop(0), "give the captions.pickle"),
        (lambda files: files.pop(1), "the image encoder is missing"),
        (lambda files: torch.save(text_state(7), files[2]), "has 7 words, and captions.pickle 5"),
        (lambda files: torch.save(image_state(6), files[1]), "has the shape"),
        (
            lambda files: torch.save({"Conv2d_1a_3x3.x": torch.ones(1), **image_state()}, files[1]),
            "'Conv2d_1a_3x3.x' has no place",
        ),
        (
            lambda files: torch.save({"AuxLogits.x": torch.ones(1), **image_state()}, files[1]),
            "'AuxLogits.x' is no key of this release",
        ),
    ],
)
def test_what_is_wrong_with_a_release_is_said_in_one_line(
    files: list[Path], tmp_path: Path, spoil: Any, problem: str
) -> None:
    spoil(files)
    with pytest.raises(GanvasError) as refused:
        convert_files("damsm", files, tmp_path / "model")
    assert problem in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "model").exists()
