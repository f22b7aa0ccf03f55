"""The command that turns releases into model folders: files by their keys, and what is wrong with them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_stackgan_release import stage1_state, stage2_state
from torch import Tensor

import ganvas
from ganvas.convert.official import RELEASES, convert_files, find_release, read_state
from ganvas.errors import GanvasError
from ganvas.text.encoder import Text


@pytest.fixture
def stage1(tmp_path: Path) -> Path:
    path = tmp_path / "netG_epoch_120.pth"
    torch.save(stage1_state(4), path)
    return path


def test_every_release_is_found() -> None:
    assert [find_release(name).parts[0].needed for name in RELEASES] == [True] * len(RELEASES)


@pytest.mark.parametrize("stacked", [False, True])
def test_stackgan_becomes_a_model_that_draws_what_its_tensors_draw(tmp_path: Path, stacked: bool) -> None:
    from ganvas.convert.stackgan import stackgan_generators

    state = stage2_state(4, 2) if stacked else stage1_state(4)
    torch.save({"netG": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "any.name")
    converted = convert_files("stackgan", [tmp_path / "any.name"], tmp_path / "model")
    assert "untrained" in converted.warning
    model = ganvas.load(tmp_path / "model", device="cpu")
    sentence = torch.randn(2, model.system.text_encoder.sentence_dim)
    noise = model.system.draw_noise(sentence)
    text = Text(sentence, torch.zeros(2, 0, 0), torch.zeros(2, 0, dtype=torch.bool))
    images = model.system.generate(text, noise)
    first, second = stackgan_generators(state)
    parts = [n_of(state)] * (1 + stacked)
    z, *epsilons = noise.split([noise.shape[1] - sum(parts), *parts], dim=1)
    small = first(sentence, z, epsilons[0])
    torch.testing.assert_close(images[0], small.images)
    if stacked:
        assert second is not None
        torch.testing.assert_close(images[1], second(small, sentence, epsilons[1]).images)
    assert len(images) == 1 + stacked
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Converted from `any.name`, SHA-256" in card and "untrained" in card


def n_of(state: dict[str, Tensor]) -> int:
    """Width of the condition."""
    return next(value for key, value in state.items() if key.endswith("ca_net.fc.weight")).shape[0] // 2


def test_captions_are_read_by_another_models_encoder(stage1: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="reads sentences of width 20, but the text encoder gives 16"):
        convert_files("stackgan", [stage1], tmp_path / "model", undisturbed)
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten_and_nothing_half_written(stage1: Path, tmp_path: Path) -> None:
    convert_files("stackgan", [stage1], tmp_path / "model")
    with pytest.raises(GanvasError, match="model: exists; choose another folder with --out"):
        convert_files("stackgan", [stage1], tmp_path / "model")
    with pytest.raises(GanvasError, match="there is no folder"):
        convert_files("stackgan", [stage1], tmp_path / "no" / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "netG_epoch_120.pth"]


def test_a_part_twice_or_a_needless_vocabulary_is_refused(stage1: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="is a second generator"):
        convert_files("stackgan", [stage1, stage1], tmp_path / "model")
    (tmp_path / "captions.pickle").write_bytes(b"")
    with pytest.raises(GanvasError, match="StackGAN needs no vocabulary; leave it out"):
        convert_files("stackgan", [stage1, tmp_path / "captions.pickle"], tmp_path / "model")
    with pytest.raises(GanvasError, match="no release 'stakgan'; did you mean 'stackgan'"):
        convert_files("stakgan", [stage1], tmp_path / "model")


class Runs:
    """Runs code when it is unpickled, if somebody lets it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (Path.write_text, (Path("ran"), "it did"))  # type: ignore[return-value]


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no weights",
        b"\x80\x02.",
        b"PK\x03\x04",
        _zip(b""),
        _zip(b"\x80\x02]q\x00."),
        bytes(range(256)) * 9,
    ],
    ids=["empty", "text", "nothing pickled", "cut zip", "empty zip", "a list", "bytes"],
)
def test_what_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "netG.pth").write_bytes(content)
    with pytest.raises(GanvasError, match=r"netG\.pth: (cannot be read as weights|holds no tensors)") as told:
        read_state(tmp_path / "netG.pth")
    assert "\n" not in str(told.value)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1), "other": Runs()}, "netG.pth")
    with pytest.raises(GanvasError, match="wants more than tensors to be made"):
        read_state(Path("netG.pth"))
    assert not Path("ran").exists()


def test_a_checkpoint_of_other_things_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "weight": torch.ones(1)}, tmp_path / "netG.pth")
    with pytest.raises(GanvasError, match="holds no tensors by name"):
        read_state(tmp_path / "netG.pth")


def test_a_release_with_a_text_encoder_takes_no_other(
    stage1: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(GanvasError, match="AttnGAN: has a text encoder of its own; leave --text out"):
        convert_files("attngan", [stage1], tmp_path / "model", undisturbed)
