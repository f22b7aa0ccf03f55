"""Inception score: closed forms, the formula by brute force, other libraries, and the papers' protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import write_store

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.networks.inception import InceptionClassifier
from ganvas.scores import inception_score as module
from ganvas.scores.classifiers import (
    IMAGENET,
    LogitSource,
    imagenet_classifier,
    load_classifier,
    open_classifier,
)
from ganvas.scores.features import BACKENDS, Extractor
from ganvas.scores.inception_score import InceptionProtocol, SplitSums, dealt, inception_score, without_class
from ganvas.scores.makers import MAKERS
from ganvas.scores.pictures import Pictures, real
from ganvas.scores.protocols import PROTOCOLS
from ganvas.scores.score import differences
from ganvas.scores.scoring import Job, Missing, Target

pytestmark = pytest.mark.usefixtures("single_threaded")


def pictures(num: int, batch: int = 7) -> Pictures:
    """Images that are all one value: their own number."""
    every = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 4, 4, 3))
    return Pictures(
        captions=["x"] * num,
        rows=np.arange(num),
        batches=lambda: iter([every[first : first + batch] for first in range(0, num, batch)]),
        about={"data": "none", "num_images": num},
        kind="real",
    )


def table(logits: torch.Tensor, has_background: bool = True) -> LogitSource:
    """A network that says row i of image i."""
    return LogitSource(
        name="table",
        digest="0",
        has_background=has_background,
        logits=lambda batch: logits[torch.from_numpy(batch[:, 0, 0, 0].astype(np.int64))],
    )


def score_of(logits: torch.Tensor, **protocol: int | None) -> tuple[float, float]:
    chosen = InceptionProtocol(**protocol)  # type: ignore[arg-type]
    score = inception_score(pictures(len(logits)), store=None, protocol=chosen, source=table(logits))  # type: ignore[arg-type]
    assert score.spread is not None
    return score.value, score.spread


def test_how_unsure_the_network_is_stands_beside_the_score() -> None:
    logits = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 1000]]).repeat(10, 1)
    protocol = InceptionProtocol(splits=2)
    score = inception_score(pictures(20), None, protocol, table(logits))  # type: ignore[arg-type]
    assert score.facts["negative_log_posterior"] == pytest.approx(np.log(4) / 2)


def brute_force(probabilities: npt.NDArray[np.float64]) -> float:
    """The formula, image by image and class by class."""
    marginal = probabilities.mean(axis=0)
    divergences = [
        sum(p * (np.log(p) - np.log(q)) for p, q in zip(row, marginal, strict=True) if p > 0)
        for row in probabilities
    ]
    return float(np.exp(np.mean(divergences)))


@pytest.mark.parametrize("classes", [2, 5, 20])
@pytest.mark.parametrize("splits", [1, 5])
def test_sure_and_even_predictions_score_the_number_of_classes(classes: int, splits: int) -> None:
    one_hot = torch.eye(classes).repeat(splits * 2, 1) * 1000
    assert score_of(one_hot, splits=splits) == pytest.approx((classes, 0), abs=1e-9)


@pytest.mark.parametrize("row", [[0.0, 0, 0], [5.0, 1, -2], [1000.0, 0, 0]])
def test_images_that_all_look_alike_score_one(row: list[float]) -> None:
    assert score_of(torch.tensor(row).repeat(40, 1)) == pytest.approx((1, 0), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(4, 60), st.floats(0.1, 8), st.integers(0, 9))
def test_it_is_the_formula(splits: int, classes: int, num: int, scale: float, seed: int) -> None:
    logits = torch.randn(num, classes, generator=torch.Generator().manual_seed(seed)) * scale
    probabilities = logits.double().softmax(dim=1).numpy()
    parts = [probabilities[i * num // splits : (i + 1) * num // splits] for i in range(splits)]
    each = [brute_force(part) for part in parts]
    assert score_of(logits, splits=splits) == pytest.approx((np.mean(each), np.std(each)), rel=1e-9, abs=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_libraries_find_the_same() -> None:
    module = pytest.importorskip("torchmetrics.image.inception", reason="needs torchmetrics")
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 3
    value, _ = score_of(logits, splits=1)
    theirs = module.InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert value == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_the_size_of_batches_does_not_matter() -> None:
    probabilities = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    part = dealt(30, InceptionProtocol(splits=3))
    found = []
    for size in (1, 7, 30):
        sums = SplitSums(3)
        for first in range(0, 30, size):
            sums.add(probabilities[first : first + size], part[first : first + size])
        found.append(sums.scores())
    np.testing.assert_allclose(found, [found[0]] * 3, rtol=1e-12)


def test_the_background_is_cut_off_before_the_softmax() -> None:
    logits = torch.eye(4).repeat(5, 1) * 1000
    with_background = torch.cat([torch.full((20, 1), 5000.0), logits], dim=1)
    assert score_of(with_background, splits=1) == pytest.approx((1, 0))
    assert score_of(with_background, splits=1, background=0) == pytest.approx((4, 0))
    assert without_class(torch.arange(3.0)[None], 1).tolist() == [[0, 2]]
    with pytest.raises(GanvasError, match="background: 5 is none of the classifier's 5 classes"):
        score_of(with_background, background=5)


def test_a_classifier_without_a_background_keeps_all_its_classes_and_the_protocol_says_so() -> None:
    logits = torch.eye(4).repeat(5, 1) * 1000
    protocol = InceptionProtocol(splits=1, background=0)
    score = inception_score(pictures(20), None, protocol, table(logits, has_background=False))  # type: ignore[arg-type]
    assert score.value == pytest.approx(4) and score.protocol["background"] is None


def test_of_a_classifier_that_knows_more_the_classes_of_the_split_are_kept(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data", splits=(20, 0, 8))  # the test split has two of five things
    names = sorted({store.labels[row] or "" for row in store.rows("test")})
    assert len(names) == 2
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * 3
    shown = replace(pictures(8), about={"split": "test"})
    source = replace(table(logits), classes=("x", names[1], "y", names[0]))
    protocol = InceptionProtocol(splits=1, classes="split")
    score = inception_score(shown, store, protocol, source)
    assert score.facts["num_classes"] == 2
    assert score.value == pytest.approx(score_of(logits[:, [1, 3]], splits=1)[0])
    assert score.protocol["classes"] == "split"
    unnamed = inception_score(shown, store, protocol, table(logits))
    assert unnamed.protocol["classes"] == "all" and unnamed.facts["num_classes"] == 4
    with pytest.raises(
        GanvasError, match=r"knows 1 of the classes of split 'test'.*split=official"
    ) as refused:
        inception_score(shown, store, protocol, replace(source, classes=("x", names[1], "y", "z")))
    assert "\n" not in str(refused.value)


def test_images_are_dealt_in_order_all_of_them_and_as_evenly_as_can_be() -> None:
    part = dealt(103, InceptionProtocol())
    assert (np.diff(part) >= 0).all() and set(np.bincount(part).tolist()) == {10, 11}
    shuffled = dealt(103, InceptionProtocol(shuffle_seed=0))
    assert (np.bincount(shuffled) == np.bincount(part)).all() and (np.diff(shuffled) < 0).any()
    assert (shuffled == dealt(103, InceptionProtocol(shuffle_seed=0))).all()
    assert (shuffled != dealt(103, InceptionProtocol(shuffle_seed=1))).any()


def test_the_papers_code_drops_the_last_partial_batch_after_shuffling() -> None:
    paper = InceptionProtocol(drop_last_batch_of=64)
    part = dealt(200, paper)
    assert (part[:192] >= 0).all() and (part[192:] == -1).all()
    shuffled = dealt(200, replace(paper, shuffle_seed=0))
    assert (shuffled == -1).sum() == 8 and (shuffled[:192] == -1).any()
    assert (dealt(192, paper) >= 0).all()
    logits = torch.cat([torch.zeros(192, 2), torch.eye(2).repeat(4, 1) * 1000])
    assert score_of(logits, splits=1, drop_last_batch_of=64)[0] == pytest.approx(1)
    assert score_of(logits, splits=1)[0] > 1.01


@pytest.mark.parametrize(
    ("num", "changes"), [(9, {}), (70, {"splits": 65, "drop_last_batch_of": 64}), (5, {"splits": 0})]
)
def test_too_few_images_are_one_line(num: int, changes: dict[str, int]) -> None:
    with pytest.raises(GanvasError, match="score more images") as refused:
        dealt(num, InceptionProtocol(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_score_says_what_fixes_it() -> None:
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    first, second = (
        inception_score(
            pictures(40),
            store=None,  # type: ignore[arg-type]
            protocol=InceptionProtocol(splits=splits, shuffle_seed=0),
            source=table(logits),
        )
        for splits in (2, 4)
    )
    assert first.protocol["data"] == "none" and first.protocol["classifier"] == "table"
    assert differences(first, second) == ["splits: 2 here, 4 there"]
    assert first.facts["num_classes"] == 4 and len(second.facts["splits"]) == 4


def test_the_classifier_that_ships_scores_and_another_head_is_another_score(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data", splits=(2, 2, 20))
    shown = real(store, split="test")
    subject, style = (
        inception_score(shown, store, InceptionProtocol(splits=2, head=head)) for head in (None, "style")
    )
    assert subject.name == "inception score classifier-emoji subject" and style.name.endswith("style")
    assert 1 <= style.value <= 3 and subject.facts["num_classes"] > 1000
    with pytest.raises(GanvasError, match="has no head 'class'"):
        inception_score(shown, store, InceptionProtocol(head="class"))


@pytest.mark.parametrize("name", ["nonsense", "no/where", ".", ".."])
def test_a_classifier_that_is_not_there_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GanvasError, match=r"none of this name ships|holds no model") as refused:
        load_classifier(name)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_no_classifier_is_one_line(undisturbed: Path, store: Store) -> None:
    with pytest.raises(GanvasError, match="holds no classifier"):
        inception_score(real(store, split="test"), store, InceptionProtocol(classifier=str(undisturbed)))


# --- by the protocols of ganvas score


def job_of(store: Store, name: str, tools: dict[str, str]) -> Job:
    """The Inception score of a named protocol over a few real images."""
    named = PROTOCOLS[name]
    settings = next(want.settings for want in named.scores if want.score == "inception score")
    target = Target(name="real", pictures=real(store, split="test"))
    return Job(target=target, store=store, settings=settings, tools=tools, protocol=named)


@pytest.mark.parametrize(("name", "splits"), [("attngan-coco", 10), ("xmcgan-coco", 1)])
def test_on_coco_the_network_is_fixed_and_its_weights_are_those_of_the_fid(
    name: str, splits: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[InceptionProtocol] = []
    monkeypatch.setattr(module, "inception_score", lambda shown, data, protocol: asked.append(protocol))
    MAKERS["inception score"](job_of(store, name, {"weights": "w.pth", "classifier": "emoji"}))
    MAKERS["inception score"](job_of(store, name, {}))
    assert asked == [
        InceptionProtocol(classifier=c, splits=splits) for c in ("inception-fid:w.pth", "inception-fid")
    ]


def test_weights_that_cannot_be_had_are_told_and_other_scores_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("GANVAS_WEIGHTS_INCEPTION_FID", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(Missing, match="could not be fetched"):
        MAKERS["inception score"](job_of(store, "attngan-coco", {}))
    with pytest.raises(Missing, match="give a classifier of this data set"):
        MAKERS["inception score"](job_of(store, "attngan-cub", {}))


# --- ImageNet's own classes


@pytest.fixture(scope="module", params=IMAGENET)
def imagenet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A network's name, and a file like the real one, under whose weights features stay alive."""
    tensorflow = request.param == "inception-fid"
    network = alive(InceptionClassifier(tensorflow=tensorflow))
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    if tensorflow:
        tensors["fc.bias"] = torch.linspace(-500, 500, 1008)  # which the score goes without
    path = tmp_path_factory.mktemp("imagenet") / "inception.pth"
    torch.save(tensors, path)
    return request.param, path


def alive(network: torch.nn.Module) -> torch.nn.Module:
    random = torch.Generator().manual_seed(0)
    for value in network.parameters():
        if value.dim() > 1:
            value.data.normal_(0, (2 / value[0].numel()) ** 0.5, generator=random)
    return network


def few(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)


def test_imagenets_logits_are_its_features_through_the_last_layer(imagenet: tuple[str, Path]) -> None:
    name, path = imagenet
    found = imagenet_classifier(name, weights=str(path), device="cpu").logits(few())
    extractor = Extractor(name, weights=str(path), device="cpu")
    features = torch.from_numpy(np.concatenate(list(extractor.extract([few()]))))
    tensors = torch.load(path, weights_only=True)
    expected = features @ tensors["fc.weight"].T
    if name == "inception-torchvision":
        expected += tensors["fc.bias"]
    assert found.shape == (3, 1008 if name == "inception-fid" else 1000) and found.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_imagenets_score_says_which_weights_and_what_happens_to_pixels(imagenet: tuple[str, Path]) -> None:
    name, path = imagenet
    protocol = InceptionProtocol(classifier=f"{name}:{path}", splits=1)
    score = inception_score(replace(pictures(2), batches=lambda: iter([few()[:2]])), None, protocol)  # type: ignore[arg-type]
    assert score.name == f"inception score {name}" and 1 <= score.value <= 2
    assert score.protocol["classifier"] == name and str(path) not in str(score.protocol)
    assert score.protocol["classifier_size"] == 299
    assert score.protocol["classifier_resize"] == BACKENDS[name].resize
    assert score.protocol["classifier_mean"] == list(BACKENDS[name].mean)
    assert len(score.protocol["classifier_weights"]) == 16


def test_the_last_layer_is_part_of_the_weights_that_a_protocol_names(imagenet: tuple[str, Path]) -> None:
    name, path = imagenet
    tensors = torch.load(path, weights_only=True)
    other = path.with_name("other.pth")
    torch.save({**tensors, "fc.weight": tensors["fc.weight"] * 2}, other)
    first, second = (open_classifier(f"{name}:{file}", device="cpu") for file in (path, other))
    assert first.digest != second.digest and first.about == second.about


def test_weights_of_the_other_inception_are_one_line(imagenet: tuple[str, Path]) -> None:
    name, path = imagenet
    (other,) = set(IMAGENET) - {name}
    with pytest.raises(GanvasError, match=f"holds no weights for features '{other}'") as refused:
        open_classifier(f"{other}:{path}", device="cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(GanvasError, match="no classifier 'inception' of ImageNet"):
        imagenet_classifier("inception")


def test_torchvisions_network_says_the_same_of_the_same_images() -> None:
    models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))
    ours = alive(InceptionClassifier(tensorflow=False)).eval()
    theirs = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(1, 3, 299, 299)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("imagenet", ["inception-fid"], indirect=True)
def test_torch_fidelity_finds_the_same_logits(imagenet: tuple[str, Path]) -> None:
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    name, path = imagenet
    theirs = FeatureExtractorInceptionV3("-", ["logits_unbiased"], feature_extractor_weights_path=str(path))
    expected = theirs(torch.from_numpy(few()).permute(0, 3, 1, 2))[0]
    found = open_classifier(f"{name}:{path}", device="cpu").logits(few())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))
