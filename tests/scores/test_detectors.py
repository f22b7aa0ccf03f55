"""Detectors: Darknet's layers, files and boxes; agreement with OpenCV; torchvision; a real network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganvas.data.prepare import prepare
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.scores import detectors
from ganvas.scores.darknet import Darknet, load_darknet
from ganvas.scores.darknet_layers import Convolution, MaxPool, Yolo, layers_of, parsed, yolov3, yolov3_tiny
from ganvas.scores.detectors import COCO_CATEGORIES, DETECTORS, DetectorSettings, load_detector
from ganvas.scores.soa import agreement

SHARED = Path(__file__).parents[3] / "shared" / "data"
TINY = os.environ.get("GANVAS_YOLO_TINY", "")
"""The path of yolov3-tiny.weights, for tests with a real network."""

pytestmark = pytest.mark.usefixtures("single_threaded")
SMALL = """
[net]
width=64
height=64

[convolutional]  # 0
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[shortcut]
from=-2
activation=linear

[maxpool]
size=2
stride=1

[upsample]
stride=2

[route]
layers=-1, 0

[convolutional]
size=1
stride=1
pad=1
filters=14
activation=linear

[yolo]
mask=1,2
anchors=8,8, 10,14, 30,20
classes=2
num=3
"""


def tiny_config() -> str:
    """YOLOv3-tiny as a cfg."""
    anchors = "anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319\nclasses=80\nnum=6\n"

    def convolution(filters: int, size: int) -> str:
        plain = f"[convolutional]\nfilters={filters}\nsize={size}\nstride=1\npad=1\n"
        return plain + ("activation=linear\n" if filters == 255 else "batch_normalize=1\nactivation=leaky\n")

    text = "[net]\nwidth=416\nheight=416\nchannels=3\n"
    for width in (16, 32, 64, 128, 256, 512):
        text += convolution(width, 3) + f"[maxpool]\nsize=2\nstride={1 if width == 512 else 2}\n"
    text += convolution(1024, 3) + convolution(256, 1) + convolution(512, 3) + convolution(255, 1)
    text += f"[yolo]\nmask=3,4,5\n{anchors}[route]\nlayers=-4\n{convolution(128, 1)}[upsample]\nstride=2\n"
    text += f"[route]\nlayers=-1, 8\n{convolution(256, 3)}{convolution(255, 1)}[yolo]\nmask=0,1,2\n{anchors}"
    return text


def write_weights(
    path: Path, count: int, *, seed: int = 0, version: tuple[int, int, int] = (0, 2, 0)
) -> Path:
    """Numbers that no batch normalisation divides by nothing with."""
    numbers = np.random.default_rng(seed).uniform(0.05, 0.5, count).astype("<f4")
    seen = bytes(8 if version[0] * 10 + version[1] >= 2 else 4)
    path.write_bytes(np.array(version, "<i4").tobytes() + seen + numbers.tobytes())
    return path


def small(tmp_path: Path, text: str = SMALL) -> tuple[Path, Path]:
    config = tmp_path / "small.cfg"
    config.write_text(text)
    count = Darknet(layers_of(str(config))).num_weights
    return config, write_weights(tmp_path / "small.weights", count)


def images(count: int = 2, size: int = 64) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


# Layers


def test_the_layers_known_by_name_are_as_many_and_hold_as_many_weights_as_published() -> None:
    with torch.device("meta"):
        large, tiny = Darknet(yolov3()), Darknet(yolov3_tiny())
    assert len(large.layers) == 107 and len(tiny.layers) == 24
    assert sum(isinstance(layer, Convolution) for layer in large.layers) == 75
    assert 20 + 4 * large.num_weights == 248_007_048  # bytes of yolov3.weights
    assert 20 + 4 * tiny.num_weights == 35_434_956  # bytes of yolov3-tiny.weights


def test_yolov3_tiny_by_name_is_what_its_cfg_says() -> None:
    assert parsed(tiny_config(), "tiny") == yolov3_tiny()


@pytest.mark.parametrize(("network", "places"), [("yolov3", 3), ("yolov3-tiny", 2)])
def test_a_network_gives_three_boxes_at_every_place_of_every_head(network: str, places: int) -> None:
    with torch.device("meta"):
        found = Darknet(layers_of(network))(torch.empty(2, 3, 96, 96))
    assert found.shape == (2, sum(3 * (3 * 2**scale) ** 2 for scale in range(places)), 85)


def test_a_cfg_is_read_into_layers() -> None:
    layers = parsed(SMALL, "small")
    assert layers[0] == Convolution(filters=8, size=3, stride=2, padding=1)
    assert layers[4] == MaxPool(size=2, stride=1, margin=1)
    assert layers[7] == Convolution(filters=14, size=1, normalised=False, leaky=False)
    assert layers[8] == Yolo(((10, 14), (30, 20)), 2)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[net]", "[convolutional]", "does not begin with"),
        ("filters=8", "filters=many", "filters=many should be a whole number"),
        ("filters=8", "filters=0", "filters=0 should be a whole number of 1 or more"),
        ("filters=8", "filters=99999999", "should be a whole number"),
        ("filters=8", "filters", "is neither"),
        ("activation=leaky", "activation=mish", "activation 'mish' is not read here; known: leaky, linear"),
        ("size=3", "size=3\ngroups=2", "groups=2 is not read here"),
        ("[upsample]", "[gru]", r"layer \[gru\] is not read here; known: convolutional"),
        ("from=-2", "from=-9", "names a layer that is not before"),
        ("from=-2", "from=-2,-3", "a shortcut from 2 layers"),
        ("from=-2", "form=-2", r"\[shortcut\] has no from"),
        ("layers=-1, 0", "layers=-1, last", "should be numbers"),
        ("layers=-1, 0", "layers=-1, 6", "names a layer that is not before"),
        ("mask=1,2", "mask=1,3", "beyond the 3 given"),
        ("anchors=8,8, 10,14, 30,20", "anchors=8,8, 10", "pairs of numbers"),
        ("anchors=8,8, 10,14, 30,20", "anchors=8,8, nan,14, 30,20", "pairs of numbers"),
    ],
)
def test_a_cfg_that_cannot_be_read_says_in_which_line(old: str, new: str, line: str) -> None:
    assert old in SMALL
    with pytest.raises(GanvasError, match=line) as error:
        parsed(SMALL.replace(old, new), "small.cfg")
    assert re.match(r"small\.cfg(, line \d+)?: ", str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("filters=14", "filters=15", "2 anchors and 2 classes need 14 channels, and there are 15"),
        ("filters=8\nsize=1", "filters=9\nsize=1", "adds 8 channels to 9"),
        ("[upsample]\nstride=2", "[upsample]\nstride=3", "do not fit together for 64 px"),
        (SMALL[SMALL.index("[yolo]") :], "", r"has no \[yolo\] layer"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in SMALL
    config = tmp_path / "bad.cfg"
    config.write_text(SMALL.replace(old, new))
    with pytest.raises(GanvasError, match=line):
        load_darknet(str(config), tmp_path / "none.weights", 64)


def test_a_network_that_asks_for_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    config = tmp_path / "huge.cfg"
    config.write_text(SMALL.replace("filters=8", "filters=99999").replace("size=1", "size=9"))
    with pytest.raises(GanvasError, match="at most 500,000,000"):
        load_darknet(str(config), tmp_path / "none.weights", 64)


@pytest.mark.parametrize("network", ["yolo3", "nowhere/yolov9"])
def test_an_unknown_network_is_refused(network: str) -> None:
    with pytest.raises(GanvasError, match="no network of Darknet is called so"):
        layers_of(network)


# Weights


@pytest.mark.parametrize("change", [-1, 1])
def test_weights_of_another_network_are_refused(tmp_path: Path, change: int) -> None:
    config, weights = small(tmp_path)
    count = Darknet(layers_of(str(config))).num_weights
    write_weights(weights, count + change)
    with pytest.raises(GanvasError, match=f"holds {count + change:,} weights, but .* asks for {count:,}"):
        load_darknet(str(config), weights, 64)


def test_damaged_or_missing_weights_are_refused(tmp_path: Path) -> None:
    config, weights = small(tmp_path)
    content = bytearray(weights.read_bytes())
    content[40:44] = np.array([np.nan], "<f4").tobytes()
    weights.write_bytes(content)
    with pytest.raises(GanvasError, match="not finite"):
        load_darknet(str(config), weights, 64)
    weights.write_bytes(b"short")
    with pytest.raises(GanvasError, match="too short"):
        load_darknet(str(config), weights, 64)
    weights.unlink()
    with pytest.raises(GanvasError, match="cannot be read"):
        load_darknet(str(config), weights, 64)


def test_files_of_old_versions_have_a_shorter_header(tmp_path: Path) -> None:
    config, weights = small(tmp_path)
    count = Darknet(layers_of(str(config))).num_weights
    old = write_weights(tmp_path / "old.weights", count, version=(0, 1, 0))
    pair = [load_darknet(str(config), path, 64).state_dict() for path in (weights, old)]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_weights_are_normalisation_then_kernel_layer_by_layer(tmp_path: Path) -> None:
    text = """[net]
[convolutional]
batch_normalize=1
filters=1
activation=linear
[convolutional]
filters=6
activation=linear
[yolo]
anchors=10,20
classes=1
"""
    config = tmp_path / "one.cfg"
    config.write_text(text)
    normal = [3.0, 2.0, 5.0, 4.0, 1.0, 0.0, 0.0]  # bias, gain, mean, variance, kernel
    numbers = [*normal, 0.5, 0.25, 0.0, 1.0, -1.0, 2.0, *[0.0] * 6]
    weights = tmp_path / "one.weights"
    weights.write_bytes(np.array([0, 2, 0], "<i4").tobytes() + bytes(8) + np.array(numbers, "<f4").tobytes())
    network = load_darknet(str(config), weights, 32)
    first = network.convolutions[0]
    assert torch.allclose(first.weight.flatten(), torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(first.bias, torch.tensor([3.0 - 2 * 5 / 2]), atol=1e-5)
    places = network(torch.rand(1, 3, 32, 32))  # the kernels are 0: the biases are the outputs
    column, row = 7, 30

    def sigmoid(x: float) -> float:
        return float(1 / (1 + np.exp(-x)))

    expected = [(column + sigmoid(0.5)) / 32, (row + sigmoid(0.25)) / 32, 10 / 32, np.e * 20 / 32]
    expected += [sigmoid(-1), sigmoid(2)]
    assert torch.allclose(places[0, row * 32 + column], torch.tensor(expected, dtype=torch.float32))


def opencv() -> Any:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, pip install 'opencv-python-headless<5'")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV does not read Darknet's files: pip install 'opencv-python-headless<5'")
    return cv2


def by_opencv(config: str, weights: str, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes with class scores (0 where low), at each head row by row, column by column, anchor by anchor."""
    network = opencv().dnn.readNetFromDarknet(config, weights)
    network.setInput(pixels)
    heads = network.forward(network.getUnconnectedOutLayersNames())
    return np.concatenate([head.reshape(len(pixels), -1, head.shape[-1]) for head in heads], axis=1)


def as_opencv(places: torch.Tensor, anchors: list[int], grids: list[int]) -> npt.NDArray[np.float32]:
    parts, first = [], 0
    for num, grid in zip(anchors, grids, strict=True):
        part = places[:, first : first + num * grid * grid]
        parts.append(part.unflatten(1, (num, grid * grid)).transpose(1, 2).flatten(1, 2))
        first += num * grid * grid
    return torch.cat(parts, dim=1).numpy()


def test_every_layer_computes_what_opencv_computes(tmp_path: Path) -> None:
    config, weights = small(tmp_path)
    pixels = (images().transpose(0, 3, 1, 2) / 255).astype(np.float32)
    theirs = by_opencv(str(config), str(weights), pixels)
    ours = as_opencv(load_darknet(str(config), weights, 64)(torch.from_numpy(pixels)), [2], [32])
    assert np.allclose(ours[..., :5], theirs[..., :5], rtol=1e-3, atol=1e-4)
    scores = ours[..., 5:] * ours[..., 4:5]
    shown = theirs[..., 5:] > 0  # OpenCV drops what is below its own threshold
    assert shown.any() and np.allclose(scores[shown], theirs[..., 5:][shown], atol=1e-3)


# Detections


def detector(tmp_path: Path, **settings: Any) -> detectors.Detector:
    config, weights = small(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("aeroplane\nghost\n\n")
    given = {"network": str(config), "weights": str(weights), "names": str(names), "input_size": 64}
    return load_detector(DetectorSettings(**{**given, "device": "cpu", **settings}))


def test_detections_are_names_scores_and_boxes_as_fractions(tmp_path: Path) -> None:
    found = detector(tmp_path, confidence=0.1).detect(images(3, 50))
    assert len(found) == 3
    for one in found:
        count = len(one.labels)
        assert count and one.scores.shape == (count,) and one.boxes.shape == (count, 4)
        assert set(one.labels) <= {"airplane", "ghost"}
        assert (np.diff(one.scores) <= 0).all() and (one.scores >= 0).all() and (one.scores <= 1).all()
        assert (one.boxes >= 0).all() and (one.boxes[:, :2] + one.boxes[:, 2:] <= 1 + 1e-6).all()


def test_an_image_is_detected_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    eye = detector(tmp_path, confidence=0.1)
    many = images(70)
    together = eye.detect(many)
    for index in (0, 33, 69):
        alone = eye.detect(many[index : index + 1])[0]
        assert alone.labels == together[index].labels
        assert np.allclose(alone.boxes, together[index].boxes, atol=1e-5)


@pytest.mark.parametrize(("threshold_on", "num"), [("objectness", 2), ("score", 1)])
def test_confidence_is_compared_with_objectness_or_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold_on: str, num: int
) -> None:
    eye = detector(tmp_path, threshold_on=threshold_on)
    places = [
        [0.2, 0.2, 0.1, 0.1, 0.9, 0.9, 0.1],
        [0.8, 0.8, 0.1, 0.1, 0.5, 0.3, 0.6],  # objectness 0.5, score 0.3
        [0.5, 0.5, 0.1, 0.1, 0.49, 1.0, 0.0],
    ]
    monkeypatch.setattr(eye, "_network", lambda pixels: torch.tensor([places]))
    found = eye.detect(images(1))[0]
    assert found.labels == ("airplane", "ghost")[:num]
    assert np.allclose(found.scores, [0.81, 0.3][:num])
    assert np.allclose(found.boxes, [[0.15, 0.15, 0.1, 0.1], [0.75, 0.75, 0.1, 0.1]][:num], atol=1e-6)


def test_overlapping_boxes_of_one_category_are_one_object() -> None:
    corners = torch.tensor([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.5], [0, 0, 0.4, 0.4], [0.2, 0, 0.6, 0.4]])
    scores, classes = torch.tensor([0.6, 0.9, 0.7, 0.5]), torch.tensor([0, 0, 1, 0])
    found = detectors._distinct(corners, scores, classes, ("cat", "dog"), 0.4)
    assert found.labels == ("cat", "dog", "cat")
    assert np.allclose(found.scores, [0.9, 0.7, 0.5])  # overlaps of the first with the last: 0.08 / 0.28
    assert len(detectors._distinct(corners, scores, classes, ("cat", "dog"), 0.2).labels) == 2


def test_what_fixes_detections_is_in_about_and_where_files_lie_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert detector(tmp_path / "a").about == detector(tmp_path / "b").about
    base = detector(tmp_path).about
    changes: list[dict[str, Any]] = [
        {"confidence": 0.4},
        {"overlap": 0.5},
        {"input_size": 96},
        {"threshold_on": "score"},
    ]
    assert all(detector(tmp_path, **change).about != base for change in changes)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"detector": "darknt"}, "no such detector; did you mean 'darknet'"),
        ({"input_size": 100}, "multiple of 32"),
        ({"input_size": 0}, "multiple of 32"),
        ({"confidence": 1.5}, "confidence=1.5: should be from 0 to 1"),
        ({"overlap": -1}, "overlap=-1: should be from 0 to 1"),
        ({"threshold_on": "luck"}, "should be 'objectness' or 'score'"),
        ({"weights": "/nowhere.weights"}, "weights cannot be read"),
        ({"names": None}, "COCO has 80"),
        ({"names": "/nowhere.names"}, "cannot be read"),
        ({"names": __file__}, "names, and the network tells 2 classes apart"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(GanvasError, match=line) as error:
        detector(tmp_path, **settings)
    assert "\n" not in str(error.value)


def test_categories_are_those_of_coco_in_its_order() -> None:
    assert len(set(COCO_CATEGORIES)) == 80 and set(DETECTORS) == {"darknet", "torchvision"}
    numbers = detectors._NUMBER_OF_ID
    known = {
        1: "person",
        11: "fire hydrant",
        13: "stop sign",
        44: "bottle",
        67: "dining table",
        90: "toothbrush",
    }
    assert {number: COCO_CATEGORIES[int(numbers[number])] for number in known} == known
    assert sorted(numbers[numbers >= 0].tolist()) == list(range(80)) and (numbers < 0).sum() == 11


def test_torchvision_that_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models.detection", None)
    weights = tmp_path / "any.pth"
    weights.write_bytes(b"any")
    with pytest.raises(GanvasError, match=r"ganvas\[soa\]"):
        load_detector(DetectorSettings(detector="torchvision", weights=str(weights)))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_detector_of_torchvision_gives_names_of_coco(tmp_path: Path, suffix: str) -> None:
    detection = pytest.importorskip("torchvision.models.detection", reason="needs torchvision")
    from safetensors.torch import save_file

    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    state = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91).state_dict()
    path = tmp_path / f"any.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    settings = {"detector": "torchvision", "network": name, "weights": str(path), "device": "cpu"}
    found = load_detector(DetectorSettings(**settings, confidence=0.0)).detect(images(2, 64))
    assert len(found) == 2 and set(found[0].labels) <= set(COCO_CATEGORIES)
    assert load_detector(DetectorSettings(**settings, confidence=1.0)).detect(images(1))[0].labels == ()
    with pytest.raises(GanvasError, match="holds no weights of fcos_resnet50_fpn"):
        load_detector(DetectorSettings(**{**settings, "network": "fcos_resnet50_fpn"}))
    with pytest.raises(GanvasError, match="did you mean"):
        load_detector(DetectorSettings(**{**settings, "network": "fcos_resnet50"}))


# A real network


needs_tiny = pytest.mark.skipif(not TINY, reason="needs GANVAS_YOLO_TINY, the path of yolov3-tiny.weights")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("photos") / "coco"
    prepare("coco", path, place=SHARED / "coco_mini", size=256, allow_rejects=True, progress=False)
    return Store(path)


@needs_tiny
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("settings", "precision", "recall"),
    [
        ({}, 0.886, 0.218),  # the official SOA settings
        ({"threshold_on": "score", "confidence": 0.25}, 0.879, 0.306),
        ({"threshold_on": "score", "confidence": 0.25, "input_size": 416}, 0.903, 0.327),
    ],
)
def test_yolov3_tiny_finds_what_photos_are_annotated_with(
    photos: Store, settings: dict[str, Any], precision: float, recall: float
) -> None:
    eye = load_detector(DetectorSettings(network="yolov3-tiny", weights=TINY, device="cpu", **settings))
    found = agreement(eye, photos, "val")
    assert found.num_images == 79
    assert abs(found.precision - precision) < 0.03 and abs(found.recall - recall) < 0.03


@needs_tiny
@pytest.mark.parametrize("size", [256, 416])
def test_yolov3_tiny_computes_what_opencv_computes(tmp_path: Path, size: int) -> None:
    config = tmp_path / "tiny.cfg"
    config.write_text(tiny_config())
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (2, 3, 8, 8)).astype(np.float32).repeat(size // 8, 2).repeat(size // 8, 3)
    theirs = by_opencv(str(config), TINY, blobs / 255)
    places = load_darknet("yolov3-tiny", Path(TINY), size)(torch.from_numpy(blobs / 255))
    ours = as_opencv(places, [3, 3], [size // 32, size // 16])
    assert np.allclose(ours[..., :5], theirs[..., :5], rtol=1e-3, atol=1e-3)
