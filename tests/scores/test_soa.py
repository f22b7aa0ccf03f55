"""Semantic object accuracy: closed forms, the captions, which images are made, going on, real images."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ganvas.data.store import Record, Store
from ganvas.data.store_writer import StoreWriter
from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.scores.detectors import COCO_CATEGORIES, Detections, Detector
from ganvas.scores.score import differences
from ganvas.scores.soa import (
    SoaProtocol,
    agreement,
    planned,
    soa,
    soa_from_detections,
    soa_of_real,
    soa_values,
)
from ganvas.scores.soa_captions import CaptionLists, read_caption_lists, with_people
from ganvas.scores.soa_state import STATE_FILE, ClassResult, model_fingerprint

SHARED = Path(__file__).parents[3] / "shared" / "data"
SHOWN = 7
NOTHING = len(COCO_CATEGORIES)


def saw(*labels: str) -> Detections:
    count = len(labels)
    return Detections(labels, np.ones(count, np.float32), np.zeros((count, 4), np.float32))


class Eye(Detector):
    """Finds the category whose number an image's first pixel has."""

    def __init__(self, categories: tuple[str, ...] = COCO_CATEGORIES) -> None:
        self.categories, self.about = categories, {"detector": "eye"}

    def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
        numbers = images[:, 0, 0, 0]
        return [saw(*COCO_CATEGORIES[n : n + 1]) for n in numbers.tolist()]


class Painter:
    """Draws the category whose number is the last word of a caption, on every ``every``-th image."""

    def __init__(self, every: int = 1, stop_after: int | None = None) -> None:
        self.every, self.stop_after = every, stop_after
        self.calls: list[tuple[tuple[str, ...], int, int]] = []

    def generate_arrays(
        self, captions: Sequence[str], n: int = 1, seed: int = 0, *, same_noise: bool = True
    ) -> Iterator[npt.NDArray[np.uint8]]:
        assert not same_noise
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((tuple(captions), n, seed))
        numbers = [int(caption.split()[-1]) for caption in captions for _ in range(n)]
        numbers = [number if i % self.every == 0 else NOTHING for i, number in enumerate(numbers)]
        images = np.zeros((len(numbers), 4, 4, 3), np.uint8)
        images[:, 0, 0, 0] = numbers
        for first in range(0, len(images), SHOWN):
            yield images[first : first + SHOWN]


def tree(counts: dict[int, int]) -> dict[str, list[dict[str, Any]]]:
    return {
        f"{number:02d}_{COCO_CATEGORIES[number].replace(' ', '')}": [
            {"image_id": 1000 * number + i, "id": i, "caption": f"picture {i} of {number}"}
            for i in range(count)
        ]
        for number, count in counts.items()
    }


def lists(tmp_path: Path, counts: dict[int, int]) -> CaptionLists:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(tree(counts)))
    return read_caption_lists(path)


# Closed forms


def test_soa_c_is_the_mean_over_categories_and_soa_i_the_mean_over_images() -> None:
    values = soa_from_detections(
        {
            "cat": [saw("cat"), saw("dog", "cat"), saw("dog"), saw()],  # 1 / 2
            "dog": [saw("dog")] * 9 + [saw("cat")],  # 9 / 10
            "hot dog": [saw("dog"), saw("dog")],  # 0
        }
    )
    assert values.by_class == pytest.approx((0.5 + 0.9 + 0) / 3)
    assert values.by_image == pytest.approx((2 + 9 + 0) / 16)


def test_an_object_found_twice_counts_once() -> None:
    assert soa_from_detections({"cat": [saw("cat", "cat"), saw()]}).by_class == 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_top_40_are_the_categories_with_the_most_images_whatever_their_accuracy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.permutation(80) + 1
    found = [int(rng.integers(0, size + 1)) for size in sizes]
    results = {
        name: ClassResult(hits, int(size), int(size))
        for name, hits, size in zip(COCO_CATEGORIES, found, sizes, strict=True)
    }
    values = soa_values(results)
    large = [name for name in COCO_CATEGORIES if results[name].images > 40]
    small = [name for name in COCO_CATEGORIES if results[name].images <= 40]
    assert list(values.top_40_classes) == large and len(large) == 40
    assert values.top_40 == pytest.approx(np.mean([results[name].accuracy for name in large]))
    assert values.bottom_40 == pytest.approx(np.mean([results[name].accuracy for name in small]))
    assert values.by_class == pytest.approx((values.top_40 + values.bottom_40) / 2)


def test_equally_frequent_categories_are_split_in_the_order_of_coco() -> None:
    results = {name: ClassResult(1, 1, 1) for name in reversed(COCO_CATEGORIES)}
    assert soa_values(results).top_40_classes == COCO_CATEGORIES[40:]


def test_of_an_odd_number_of_categories_the_middle_one_is_in_the_lower_half() -> None:
    values = soa_from_detections({"cat": [saw("cat")], "dog": [saw()] * 2, "cow": [saw("cow")] * 3})
    assert values.top_40_classes == ("cow",) and values.top_40 == 1 and values.bottom_40 == 0.5
    assert soa_from_detections({"cat": [saw("cat")]}).top_40 is None


@pytest.mark.parametrize("found", [{}, {"cat": []}, {"unicorn": [saw()]}])
def test_nothing_to_score_is_refused(found: dict[str, list[Detections]]) -> None:
    with pytest.raises(GanvasError, match=r"^SOA: "):
        soa_from_detections(found)


# Captions


def test_categories_are_known_by_their_number_and_their_order_is_that_of_coco(tmp_path: Path) -> None:
    content = {
        "62_monitor": [{"image_id": 1, "id": 2, "caption": "a tv"}],
        "04_plane": [{"image_id": 3, "id": 4, "caption": "a plane"}],
    }
    path = tmp_path / "lists.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    found = read_caption_lists(path)
    assert list(found.captions) == ["airplane", "tv"] and found.people is None
    assert asdict(found.captions["tv"][0]) == {"image_id": 1, "id": 2, "caption": "a tv"}


def test_the_official_folder_of_pickles_holds_the_same_as_one_json(tmp_path: Path) -> None:
    content = tree({0: 3, 5: 2, 79: 1})
    folder = tmp_path / "captions"
    folder.mkdir()
    for key, entries in content.items():
        official = [{**entry, "idx": [7, entry["id"]]} for entry in entries]
        (folder / f"label_{key}.pkl").write_bytes(pickle.dumps(official, protocol=2))
    (folder / "README.md").write_text("not a list")
    found, same = read_caption_lists(folder), lists(tmp_path, {79: 1, 0: 3, 5: 2})
    assert found == same and found.digest == same.digest and found.people == "listed"
    assert lists(tmp_path, {79: 1, 0: 3, 5: 3}).digest != same.digest


ENTRY = {"image_id": 1, "id": 2, "caption": "a bus"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\x1f\x8b broken", "cannot be unpacked"),
        (gzip.compress(b'{"05_bus": []}')[:-9], "cannot be unpacked"),
        (b'{"05_bus": [', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "should hold"),
        (b"{}", "should hold"),
        ({"80_unicorn": [ENTRY]}, "'80_unicorn' names no category"),
        ({"bus": [ENTRY]}, "'bus' names no category"),
        ({"../05_bus": [ENTRY]}, "names no category"),
        ({"05_bus": [ENTRY], "05_coach": [ENTRY]}, r"two lists for category 05 \(bus\)"),
        ({"05_bus": []}, "'05_bus' should be a list of captions"),
        ({"05_bus": {"a": 1}}, "'05_bus' should be a list of captions"),
        ({"05_bus": [ENTRY, "a bus"]}, "'05_bus', caption 1: should have image_id"),
        ({"05_bus": [{**ENTRY, "id": "2"}]}, "caption 0: image_id and id should be whole numbers"),
        ({"05_bus": [{**ENTRY, "id": True}]}, "caption 0: image_id and id should be whole numbers"),
        ({"05_bus": [{**ENTRY, "image_id": -1}]}, "caption 0: image_id and id should be whole numbers"),
        ({"05_bus": [{**ENTRY, "caption": " \n"}]}, "caption 0: is empty"),
        ({"05_bus": [{"image_id": 1, "id": 2}]}, "caption 0: is a NoneType"),
    ],
)
def test_broken_lists_say_where(tmp_path: Path, content: object, line: str) -> None:
    path = tmp_path / "lists.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(GanvasError, match=line) as error:
        read_caption_lists(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganvas.scores.soa_captions._MAX_TEXT_BYTES", 1000)
    path = tmp_path / "lists.json.gz"
    path.write_bytes(gzip.compress(b" " * 2000))
    with pytest.raises(GanvasError, match="unpacks to more than 1,000 bytes"):
        read_caption_lists(path)


def test_a_folder_or_file_without_lists_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match=r"looked for label_\*\.pkl"):
        read_caption_lists(tmp_path)
    with pytest.raises(GanvasError, match="cannot be read"):
        read_caption_lists(tmp_path / "none.json")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_real_lists_are_79_categories_whose_files_are_named_in_the_order_of_coco() -> None:
    found = read_caption_lists(SHARED / "soa_captions.json.gz")
    assert list(found.captions) == list(COCO_CATEGORIES[1:]) and found.people is None
    assert sum(map(len, found.captions.values())) == 130_124
    assert len(found.captions["dining table"]) == 7678  # 60_table
    plans = planned(found, SoaProtocol())
    assert sum(plan.num_images for plan in plans.values()) == 3 * 130_124
    zebras = [one.caption for one in found.captions["zebra"]]
    assert np.mean(["zebra" in caption.lower() for caption in zebras]) > 0.99


# Which images


def test_every_caption_gives_three_images_and_people_one(tmp_path: Path) -> None:
    plans = planned(lists(tmp_path, {0: 50, 3: 5}), SoaProtocol(person_captions=20))
    person, motorcycle = plans["person"], plans["motorcycle"]
    assert (len(person.captions), person.num_images, person.weight) == (20, 20, 20)
    assert (len(motorcycle.captions), motorcycle.num_images, motorcycle.weight) == (5, 15, 15)
    assert len({one.id for one in person.captions}) == 20


def test_an_approximation_draws_captions_by_seed_and_keeps_the_weights(tmp_path: Path) -> None:
    given = lists(tmp_path, {0: 50, 3: 30, 4: 2})
    few = SoaProtocol(max_captions_per_class=4)
    plans = planned(given, few)
    assert [plan.num_images for plan in plans.values()] == [4, 12, 6]
    assert [plan.weight for plan in plans.values()] == [50, 90, 6]
    assert planned(given, few) == plans
    others = planned(given, SoaProtocol(max_captions_per_class=4, seed=1))
    assert others["motorcycle"].captions != plans["motorcycle"].captions
    assert others["airplane"] == plans["airplane"]


def test_soa_i_of_an_approximation_weights_as_the_whole_lists_would(tmp_path: Path) -> None:
    given = lists(tmp_path, {3: 30, 4: 10})

    class Blind(Eye):
        def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
            return [found if "airplane" in found.labels else saw() for found in super().detect(images)]

    by_class, by_image = soa(Painter(), given, Blind(), SoaProtocol(max_captions_per_class=10))
    assert by_class.value == 0.5 and by_image.value == 0.25


@pytest.mark.parametrize(
    "wrong",
    [
        {"images_per_caption": 0},
        {"person_captions": -1},
        {"max_captions_per_class": 0},
        {"seed": -1},
        {"images_per_caption": 99_999},
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(GanvasError):
        planned(lists(tmp_path, {3: 5}), SoaProtocol(**wrong))


# A model


def test_a_perfect_and_a_half_good_model_score_what_they_should(tmp_path: Path) -> None:
    given = lists(tmp_path, {1: 4, 2: 10})
    by_class, by_image = soa(Painter(), given, Eye(), SoaProtocol())
    assert (by_class.name, by_class.value, by_image.name, by_image.value) == ("soa-c", 1, "soa-i", 1)
    half, _ = soa(Painter(every=2), given, Eye(), SoaProtocol())
    assert half.value == 0.5 and not differences(half, by_class)
    assert half.facts["num_images"] == {"bicycle": 12, "car": 30}
    assert half.protocol["without"] == [name for name in COCO_CATEGORIES if name not in ("bicycle", "car")]
    json.dumps(half.to_dict())


def test_each_category_has_noise_of_its_own(tmp_path: Path) -> None:
    painter = Painter()
    soa(painter, lists(tmp_path, {1: 2, 2: 2}), Eye(), SoaProtocol(seed=3))
    assert [call[1:] for call in painter.calls] == [(3, 241), (3, 242)]


def test_other_captions_protocols_and_detectors_are_not_comparable(tmp_path: Path) -> None:
    base, _ = soa(Painter(), lists(tmp_path, {1: 4}), Eye(), SoaProtocol())
    other = Eye()
    other.about = {"detector": "eye", "confidence": 0.3}
    for painted in (
        soa(Painter(), lists(tmp_path, {1: 5}), Eye(), SoaProtocol()),
        soa(Painter(), lists(tmp_path, {1: 4}), Eye(), SoaProtocol(max_captions_per_class=2)),
        soa(Painter(), lists(tmp_path, {1: 4}), Eye(), SoaProtocol(seed=1)),
        soa(Painter(), lists(tmp_path, {1: 4}), other, SoaProtocol()),
    ):
        assert differences(painted[0], base)


def test_a_detector_that_does_not_know_a_category_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="does not know the category 'car'"):
        soa(Painter(), lists(tmp_path, {2: 1}), Eye(("person",)), SoaProtocol())


# Going on


def test_a_stopped_work_goes_on_without_making_finished_categories_again(tmp_path: Path) -> None:
    given, folder, protocol = lists(tmp_path, {1: 3, 2: 4, 3: 5}), tmp_path / "work", SoaProtocol()
    with pytest.raises(KeyboardInterrupt):
        soa(Painter(2, stop_after=2), given, Eye(), protocol, folder=folder, fingerprint="m")
    painter = Painter(2)
    resumed = soa(painter, given, Eye(), protocol, folder=folder, fingerprint="m")
    assert [len(call[0]) for call in painter.calls] == [5]
    assert resumed == soa(Painter(2), given, Eye(), protocol)
    finished = Painter(2)
    assert soa(finished, given, Eye(), protocol, folder=folder, fingerprint="m") == resumed
    assert finished.calls == []


def test_results_of_another_model_or_protocol_are_not_taken_over(tmp_path: Path) -> None:
    given, folder = lists(tmp_path, {1: 3}), tmp_path / "work"
    soa(Painter(), given, Eye(), SoaProtocol(), folder=folder, fingerprint="m")
    with pytest.raises(GanvasError, match="holds results of another model; give another folder"):
        soa(Painter(), given, Eye(), SoaProtocol(), folder=folder, fingerprint="n")
    with pytest.raises(GanvasError, match="holds results of another protocol"):
        soa(Painter(), given, Eye(), SoaProtocol(seed=1), folder=folder, fingerprint="m")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"detected": 9', '"detected": 10'),
        lambda text: text.replace('"detected": 9', '"detected": "all"'),
        lambda text: text.replace('"images": 9', '"images": 8'),
        lambda text: text.replace('"bicycle": {', '"unicorn": {'),
    ],
)
def test_a_damaged_file_of_results_is_named(tmp_path: Path, spoil: Any) -> None:
    given, folder = lists(tmp_path, {1: 3}), tmp_path / "work"
    soa(Painter(), given, Eye(), SoaProtocol(), folder=folder, fingerprint="m")
    text = (folder / STATE_FILE).read_text()
    assert spoil(text) != text
    (folder / STATE_FILE).write_text(spoil(text))
    with pytest.raises(GanvasError, match=STATE_FILE) as error:
        soa(Painter(), given, Eye(), SoaProtocol(), folder=folder, fingerprint="m")
    assert "\n" not in str(error.value)


def test_results_are_kept_only_for_a_model_that_can_be_told_from_others(tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="give its fingerprint"):
        soa(Painter(), lists(tmp_path, {1: 1}), Eye(), SoaProtocol(), folder=tmp_path)


@pytest.mark.usefixtures("single_threaded")
def test_a_trained_model_is_scored_and_known_again(undisturbed: Path, tmp_path: Path) -> None:
    model, again = load(undisturbed, device="cpu"), load(undisturbed, device="cpu")
    assert model_fingerprint(model) == model_fingerprint(again)
    given = lists(tmp_path, {1: 3, 2: 2})
    scores = soa(model, given, Eye(), SoaProtocol(), folder=tmp_path / "work")
    assert scores == soa(again, given, Eye(), SoaProtocol(), folder=tmp_path / "work")
    assert scores[0].facts["num_images"] == {"bicycle": 9, "car": 6}
    parameters = dict(again.system.named_parameters())
    names = [name for name in parameters if name.split(".")[0] not in again.system.training_only]
    parameters[names[-1]].flatten()[0].add_(1)
    assert model_fingerprint(model) != model_fingerprint(again)


# Real images


@pytest.fixture
def photos(tmp_path: Path) -> Store:
    """A bicycle that is seen, a car that is not, a photo of which no objects are known, one without any."""
    with StoreWriter(tmp_path / "photos", name="p", size=4, source="drawn", licence="CC0-1.0") as writer:
        shown = (("1000", 1, "bicycle, dog"), ("2000", 79, "car"), ("2001", 2, None), ("2999", 5, ""))
        for name, number, objects in shown:
            image = np.zeros((4, 4, 3), np.uint8)
            image[0, 0, 0] = number
            captions = ("a man on it", "the manor") if name == "1000" else ("nothing",)
            attributes = {} if objects is None else {"objects": objects}
            writer.add(Record(id=name, split="val", captions=captions, attributes=attributes), image)
        writer.finish()
    return Store(tmp_path / "photos")


def test_real_images_are_scored_where_the_store_holds_them(photos: Store, tmp_path: Path) -> None:
    given = lists(tmp_path, {1: 3, 2: 5, 3: 2})  # images 1000 to 1002, 2000 to 2004, 3000 and 3001
    by_class, by_image = soa_of_real(photos, given, Eye(), SoaProtocol())
    assert by_class.facts["accuracy"] == {"bicycle": 1.0, "car": 0.5}
    assert by_class.facts["annotated"] == {"bicycle": 1.0, "car": 1.0}
    assert by_class.value == 0.75 and by_image.value == pytest.approx(2 / 3)
    generated, _ = soa(Painter(), given, Eye(), SoaProtocol())
    assert any(line.startswith("captions:") for line in differences(by_class, generated))


def test_a_store_without_the_images_is_refused(photos: Store, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="none of the images"):
        soa_of_real(photos, lists(tmp_path, {9: 4}), Eye(), SoaProtocol())


def test_agreement_counts_pairs_of_image_and_category(photos: Store) -> None:
    found = agreement(Eye(), photos, "val")
    assert (found.precision, found.recall, found.num_images) == (1 / 3, 1 / 3, 3)


def test_captions_of_people_come_from_a_store_where_the_lists_have_none(
    photos: Store, tmp_path: Path
) -> None:
    given = lists(tmp_path, {1: 1})
    more = with_people(given, photos, "val")
    assert [one.caption for one in more.captions["person"]] == ["a man on it"]
    assert list(more.captions) == ["person", "bicycle"] and more.people == "words of a store"
    with pytest.raises(GanvasError, match="already"):
        with_people(more, photos, "val")
