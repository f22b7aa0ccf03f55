"""Statistics of reference images: computed once, kept, and never mistaken for others."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from feature_stand_ins import TINY, tiny_features
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_runs import write_store

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.scores.distances import GaussianStatistics
from ganvas.scores.features import Extractor
from ganvas.scores.reference import FOLDER, Reference, summarize


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    return write_store(tmp_path / "data", splits=(30, 5, 5))


def opened(seed: int = 0) -> Extractor:
    with tiny_features(seed):
        return Extractor(TINY, device="cpu")


def forbid_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("ganvas.scores.reference.summarize", refuse)


def test_a_summary_is_that_of_the_splits_images(own_store: Store) -> None:
    extractor = opened()
    found = Reference(own_store, extractor, split="train").summary()
    features = np.concatenate(list(extractor.extract([own_store.images[own_store.rows("train")]])))
    expected = GaussianStatistics(24)
    expected.add(features)
    assert found.gaussian.num == 30
    np.testing.assert_allclose(found.gaussian.mean, expected.result().mean, rtol=1e-9)
    np.testing.assert_allclose(found.gaussian.covariance, expected.result().covariance, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(found.sample, features)


def test_it_is_computed_once(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(own_store, opened(), split="train")
    first = reference.summary()
    assert reference.path.parent == own_store.path / FOLDER
    assert [path.name for path in reference.path.parent.iterdir()] == [reference.path.name]
    forbid_computing(monkeypatch)
    again = Reference(Store(own_store.path), opened(), split="train").summary()
    np.testing.assert_array_equal(first.gaussian.covariance, again.gaussian.covariance)
    np.testing.assert_array_equal(first.sample, again.sample)
    assert again.gaussian.num == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "test"}, "reference_split is train, not test"),
        ({"num": 20}, "reference_num_images is 30, not 20"),
        ({"size": 8}, "reference_size is 16, not 8"),
        ({"sample": 4}, "sample is 10000, not 4"),
        ({"weights": 1}, "features_weights is"),
    ],
)
def test_statistics_of_another_reference_are_refused(
    own_store: Store, change: dict[str, object], said: str
) -> None:
    extractor = opened()
    written = Reference(own_store, extractor, split="train")
    written.summary()
    other = Reference(
        own_store,
        opened(1) if change.pop("weights", 0) else extractor,
        **{"split": "train", **change},  # type: ignore[arg-type]
    )
    assert other.path != written.path
    with pytest.raises(GanvasError, match=said) as error:
        other.summary(written.path)
    assert "\n" not in str(error.value)
    other.path.write_bytes(written.path.read_bytes())  # a file under a name that is not its own
    with pytest.raises(GanvasError, match=said):
        other.summary()


def test_statistics_of_another_data_set_are_refused(own_store: Store, tmp_path: Path) -> None:
    extractor = opened()
    other = Reference(write_store(tmp_path / "other", splits=(29, 5, 5)), extractor, split="train")
    other.summary()
    with pytest.raises(GanvasError, match=r"statistics of another reference .*reference_data is"):
        Reference(own_store, extractor, split="train").summary(other.path)


@pytest.mark.parametrize("damage", ["empty", "cut", "a changed byte", "text", "no header", "a shape"])
def test_damaged_statistics_are_made_again_but_not_where_they_were_named(
    own_store: Store, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference(own_store, opened(), split="train")
    first = reference.summary()
    whole = reference.path.read_bytes()
    if damage == "a changed byte":
        reference.path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif damage in ("no header", "a shape"):
        with safe_open(reference.path, "np") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors["mean"] = tensors["mean"][:-1]
        save_file(tensors, reference.path, header if damage == "a shape" else {})
    else:
        content = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no statistics " * 9}[damage]
        reference.path.write_bytes(content)
    with pytest.raises(GanvasError, match="delete") as error:
        reference.summary(reference.path)
    assert "\n" not in str(error.value)
    again = reference.summary()
    np.testing.assert_array_equal(first.gaussian.mean, again.gaussian.mean)
    forbid_computing(monkeypatch)
    reference.summary()


def test_a_folder_that_cannot_be_written_to_costs_time_only(own_store: Store) -> None:
    (own_store.path / FOLDER).write_text("in the way")
    reference = Reference(own_store, opened(), split="train")
    assert reference.summary().gaussian.num == 30


def test_nothing_is_left_of_a_file_that_could_not_be_finished(
    own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ganvas.scores.reference.os.fsync", full)
    reference = Reference(own_store, opened(), split="train")
    reference.summary()
    assert list((own_store.path / FOLDER).iterdir()) == []


def _make(path: str) -> bytes:
    return Reference(Store(path), opened(), split="train").summary().gaussian.mean.tobytes()


def test_two_processes_that_need_the_same_statistics_both_get_them(own_store: Store) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_make, [str(own_store.path)] * 4, chunksize=1)
    assert len(found) == 4 and len(set(found)) == 1
    assert len(list((own_store.path / FOLDER).iterdir())) == 1


def test_a_sample_is_part_of_the_images_and_follows_from_the_seed(own_store: Store) -> None:
    extractor = opened()
    whole = Reference(own_store, extractor, split="train").summary().sample
    parts = [
        Reference(own_store, extractor, split="train", sample=8, seed=seed).summary().sample
        for seed in (0, 1)
    ]
    rows = [[int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in part] for part in parts]
    assert all(len(set(chosen)) == 8 and chosen == sorted(chosen) for chosen in rows)
    assert rows[0] != rows[1]


def test_smaller_reference_images_are_scaled_and_say_so(own_store: Store) -> None:
    extractor = opened()
    plain = Reference(own_store, extractor, split="train")
    small = Reference(own_store, extractor, split="train", size=8)
    assert (plain.about["reference_resize"], small.about["reference_resize"]) == (
        "none",
        "bilinear, antialiased, rounded",
    )
    assert np.abs(plain.summary().gaussian.mean - small.summary().gaussian.mean).max() > 0


def test_everything_about_a_reference_is_plain(own_store: Store) -> None:
    about = dict(Reference(own_store, opened(), split="train").about)
    assert json.loads(json.dumps(about)) == about
    assert about["reference_data"] == own_store.info.fingerprint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"split": "train", "num": 31}, "31 reference images: split 'train' has 30"),
        ({"split": "train", "num": 1}, "1 reference images"),
        ({"split": "train", "size": 17}, "17 px"),
    ],
)
def test_a_reference_that_cannot_be_is_one_line(
    own_store: Store, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(GanvasError, match=said):
        Reference(own_store, opened(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("promised", [20, 40])
def test_another_number_of_images_than_promised_is_refused(own_store: Store, promised: int) -> None:
    images = own_store.images[own_store.rows("train")]
    with pytest.raises(GanvasError, match="were promised"):
        summarize([images], promised, opened(), sample=10, seed=0, what="images")


def test_features_that_are_not_finite_are_refused(own_store: Store) -> None:
    with tiny_features(std=(1e-38,) * 3):
        extractor = Extractor(TINY, device="cpu")
    with pytest.raises(GanvasError, match="not finite"):
        Reference(own_store, extractor, split="train").summary()
