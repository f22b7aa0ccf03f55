"""The page that compares models: what is on it, what is compared with what, and how it looks in a browser."""

from __future__ import annotations

import json
import math
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from web_pages import Page, contrast

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.pipeline import Model, load
from ganvas.scores.compare import Layout, compare, model_names
from ganvas.scores.learning_curves import curves, read_log
from ganvas.scores.page.charts import axis, chart, line_style, short, thinned
from ganvas.scores.page.content import Captioned, Comparison, Curve, Fact, Variation
from ganvas.scores.page.layout import write_page
from ganvas.scores.score import Score
from ganvas.scores.score_table import Given, own_files, read_scored, score_rows
from ganvas.scores.word_swaps import find_swaps, read_swap

pytestmark = pytest.mark.usefixtures("single_threaded")

SMALL = Layout(num_captions=2, num_noises=2, num_variations=1, num_betweens=1, num_steps=3)


@pytest.fixture(scope="module")
def runs(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one training; the second has no log."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first", "second"):
        shutil.copytree(undisturbed, folder / name)
    (folder / "second" / "log.csv").unlink()
    return [folder / "first", folder / "second"]


def score(value: float, better: str = "lower", name: str = "fid lite0", **protocol: Any) -> Score:
    return Score(name=name, value=value, better=better, protocol={"num_images": 100} | protocol)  # type: ignore[arg-type]


def write_scores(path: Path, model: str, *scores: Score, images: str = "generated", seen: int = 44) -> Path:
    path.parent.mkdir(exist_ok=True)
    tree = {"model": model, "images": images, "about": {"trained": {"gan": seen}}}
    path.write_text(json.dumps(tree | {"scores": [score.to_dict() for score in scores]}))
    return path


# Which scores are compared


def cells(*columns: list[Score], reals: list[Score] | None = None) -> list[list[tuple[str | None, bool]]]:
    rows = score_rows([list(map(Given, column)) for column in columns], list(map(Given, reals or [])))
    return [[(cell.value, cell.best) for cell in row.cells] for row in rows]


def test_the_best_value_is_the_lowest_or_the_highest_as_the_score_says() -> None:
    assert cells([score(3)], [score(2)]) == [[("3", False), ("2", True)]]
    assert cells([score(3, "higher")], [score(2, "higher")]) == [[("3", True), ("2", False)]]


def test_equal_values_are_both_best_and_a_single_one_is_not() -> None:
    assert cells([score(2)], [score(2)], [score(5)]) == [[("2", True), ("2", True), ("5", False)]]
    assert cells([score(2)], []) == [[("2", False), (None, False)]]
    assert cells([score(math.nan)], [score(2)]) == [[("nan", False), ("2", False)]]


def test_real_images_are_never_the_best() -> None:
    assert cells([score(3)], [score(2)], reals=[score(0.1)]) == [[("3", False), ("2", True), ("0.1", False)]]


def test_a_score_by_another_protocol_says_in_what_it_differs_and_is_not_compared() -> None:
    (row,) = score_rows([[Given(score(3))], [Given(score(1, num_images=50))], [Given(score(2))]])
    assert [cell.best for cell in row.cells] == [False, False, True]
    assert [list(cell.remarks) for cell in row.cells] == [[], ["num_images: 50 here, 100 there"], []]
    assert row.protocol == {"num_images": "100"}


def test_a_row_has_the_protocol_that_most_models_share() -> None:
    rows = score_rows([[Given(score(1, num_images=50))], [Given(score(3))], [Given(score(2))]])
    assert [[bool(cell.remarks) for cell in row.cells] for row in rows] == [[True, False, False]]


def test_two_protocols_that_models_share_make_two_rows() -> None:
    both = [score(1), score(2, num_images=50)]
    assert cells(both, both[::-1]) == [[("1", True), ("1", True)], [("2", True), ("2", True)]]


def test_scores_of_other_weights_are_not_compared() -> None:
    (row,) = score_rows([[Given(score(1), "older")], [Given(score(2))], [Given(score(3))]])
    assert [(cell.best, list(cell.remarks)) for cell in row.cells] == [
        (False, ["older"]),
        (True, []),
        (False, []),
    ]


# Where scores come from


def page_text(path: Path) -> str:
    """All that can be read, its pieces parted by one space."""
    body = Page(path).source.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_scores_stand_in_the_column_of_their_model(runs: list[Path], tmp_path: Path) -> None:
    given = [
        write_scores(tmp_path / "1.json", "first", score(7.5)),
        write_scores(tmp_path / "2.json", str(runs[1] / "model"), score(6.5)),
        write_scores(tmp_path / "3.json", "emoji", score(0.25), images="real"),
    ]
    out = compare(runs, tmp_path / "page.html", captions=["a red ball"], scores=given, layout=SMALL)
    text = page_text(out)
    assert "first 7.5 second 6.5 best real images 0.25" in text


def test_scores_in_the_run_are_found_and_older_ones_are_marked(
    runs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    write_scores(run / "scores" / "a.json", "whatever", score(7.5), seen=12)
    (run / "scores.json").write_text("[]")
    out = compare([run], tmp_path / "page.html", captions=["a red ball"], layout=SMALL)
    assert "trained on 12 images when it was scored, 44 now" in page_text(out)
    assert "scores.json: is no file of scores" in caplog.text
    assert [path.name for path in own_files(run)] == ["scores.json", "a.json"]


@pytest.mark.parametrize(
    ("model", "images", "complaint"),
    [("third", "generated", "belong to 'third'"), ("first", "folder", "holds scores of 'folder' images")],
)
def test_scores_of_nothing_shown_are_refused(
    runs: list[Path], tmp_path: Path, model: str, images: str, complaint: str
) -> None:
    path = write_scores(tmp_path / "s.json", model, score(1), images=images)
    with pytest.raises(GanvasError, match=complaint) as caught:
        compare(runs, tmp_path / "page.html", captions=["a red ball"], scores=[path], layout=SMALL)
    assert "\n" not in str(caught.value)


def test_a_file_of_scores_has_to_name_its_model(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"scores": [score(1).to_dict()]}))
    with pytest.raises(GanvasError, match="does not say which model"):
        read_scored(path)


# Learning curves


def test_curves_have_the_values_of_the_log_and_leave_out_what_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "phase,step,images,images_per_second,d_loss,g_loss\ngan,1,8,3.0,1.5,\ngan,2,16,3.0,1.25,nan\ngan,3,24,3.0,0.5"
    )
    log = read_log(tmp_path)
    assert log == {("gan", "d_loss"): [(8, 1.5), (16, 1.25)]}
    assert curves([{}, log]) == [Curve(phase="gan", term="d_loss", lines={1: [(8, 1.5), (16, 1.25)]})]


def test_a_log_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00phase")
    with pytest.raises(GanvasError, match=r"log\.csv: cannot be read"):
        read_log(tmp_path)


@given(
    st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-12),
    st.floats(0, 1e12),
    st.integers(2, 6),
)
@example(0.0, 0.0, 4)
@example(1e12, 1e-9, 4)
def test_an_axis_holds_its_values_between_few_round_ticks(low: float, width: float, count: int) -> None:
    found = axis(low, low + width, count, whole=True)
    room = 1e-6 * max(abs(low), width, 1e-9)
    assert found.low <= low + room
    assert found.high >= low + width - room
    assert 2 <= len(found.ticks) <= 2 * count + 4
    assert list(found.ticks) == sorted(set(found.ticks))


def test_a_chart_draws_points_where_they_belong() -> None:
    drawn = chart({0: [(0, 0), (50, 1), (100, 2)]}, "rising")
    line = re.search(r'class="line c0 d0" d="M([^"]+)"', drawn)
    assert line is not None
    points = np.array([[float(v) for v in point.split()] for point in line[1].split("L")])
    np.testing.assert_allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0], atol=0.11)
    np.testing.assert_allclose(np.diff(points[:, 1]), points[1, 1] - points[0, 1], atol=0.11)
    assert (np.diff(points[:, 1]) < 0).all()  # up on the page


def test_many_points_become_few_with_the_same_mean_and_the_same_end() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    few = thinned(points, 100)
    assert len(few) <= 100
    assert few[-1] == points[-1]
    assert np.mean([y for _, y in few]) == pytest.approx(3, abs=0.1)
    assert thinned(points[:5], 100) == points[:5]


def test_every_model_has_a_line_of_its_own() -> None:
    assert len({line_style(number) for number in range(16)}) == 16


def test_numbers_on_axes_are_short() -> None:
    assert [short(value) for value in (8000, 1.5e6, 0.05, -2)] == ["8k", "1.5M", "0.05", "\u22122"]


# One word changed


def test_a_swap_is_read_as_the_user_writes_it() -> None:
    swap = read_swap("A Red apple, redder", "red=green, blue")
    assert (swap.word, swap.others) == ("Red", ("green", "blue"))
    assert swap.captions() == ["A Red apple, redder", "A green apple, redder", "A blue apple, redder"]
    assert read_swap("一个红色的苹果", "红=绿").captions()[1] == "一个绿色的苹果"


@pytest.mark.parametrize(
    "text", ["red", "red=", "=blue", "red=red", "plum=blue", "red=" + ",".join("abcdefghi")]
)
def test_a_swap_that_makes_no_sense_is_one_line(text: str) -> None:
    with pytest.raises(GanvasError, match="vary: ") as caught:
        read_swap("a red apple", text)
    assert "\n" not in str(caught.value)


def test_words_that_make_another_caption_of_the_data_come_first() -> None:
    among = ["a red ball", "a blue ball", "a green ball", "a red ball here", "the hat"]
    (swap,) = find_swaps(["the hat", "a red ball"], among, num=3, others=3)
    assert (swap.caption, swap.word, set(swap.others)) == ("a red ball", "red", {"blue", "green"})


def test_a_colour_is_replaced_by_colours_that_the_data_name_most() -> None:
    among = ["a tiny red bird", "one yellow cat", "white dog", "white mouse", "yellow hen", "white hen"]
    (swap,) = find_swaps(["a tiny red bird"], among, num=1, others=2)
    assert (swap.word, swap.others) == ("red", ("white", "yellow"))


def test_a_word_is_replaced_by_others_between_the_same_neighbours() -> None:
    among = ["a bear on ice", "a dog on it", "a dog on top", "a cat on trees", "the sea"]
    (swap,) = find_swaps(["look, a Bear on a big rock"], among, num=1, others=2)
    assert (swap.word, swap.others) == ("Bear", ("Dog", "Cat"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_every_swap_of_any_captions_replaces_one_word_of_one_of_them(captions: list[str]) -> None:
    for swap in find_swaps(captions, captions, num=4, others=3):
        assert swap.caption in captions
        assert swap.before + swap.word + swap.after == swap.caption
        assert len(set(swap.captions())) == len(swap.others) + 1


# Between two captions


@pytest.fixture(scope="module")
def model(undisturbed: Path) -> Model:
    return load(undisturbed, device="cpu")


def test_the_way_between_captions_begins_and_ends_with_their_own_images(model: Model) -> None:
    way = [np.asarray(image) for image in model.interpolate("a red ball", "one hat, blue", 5, n=2, seed=3)]
    first, second = (
        [np.asarray(image) for image in model.generate([caption], n=2, seed=3)]
        for caption in ("a red ball", "one hat, blue")
    )
    np.testing.assert_array_equal(way[0], first[0])
    np.testing.assert_array_equal(way[4], second[0])
    np.testing.assert_array_equal(way[5], first[1])
    np.testing.assert_array_equal(way[9], second[1])


def test_a_way_of_one_step_is_refused(model: Model) -> None:
    with pytest.raises(GanvasError, match="steps=1"):
        model.interpolate("a", "b", 1)


# The whole page


def test_the_page_has_every_part_and_the_images_of_every_model(
    store: Store, runs: list[Path], tmp_path: Path
) -> None:
    out = compare(runs, tmp_path / "new" / "page.html", data=store.path, layout=SMALL)
    page = Page(out)
    parts = [
        attributes["id"]
        for tag, attributes in page.elements
        if tag == "section" and attributes["id"] is not None
    ]
    assert parts == ["models", "same-captions", "one-word-changed", "between-two-captions", "learning-curves"]
    alts = [str(image["alt"]) for image in page.images()]
    assert sum(alt.startswith("Real image for the caption: ") for alt in alts) == 2
    own = [alt.removeprefix("first, ") for alt in alts if alt.startswith("first, ")]
    assert own == [alt.removeprefix("second, ") for alt in alts if alt.startswith("second, ")]
    kinds = {"noise": 2 * 2 + 2 * 4 + 2 * 3, "caption: ": 2 * 2 + 2 * 4, " of the way from: ": 2 * 3}
    assert {kind: sum(kind in alt for alt in own) for kind in kinds} == kinds  # 4: a colour and 3 others
    assert "Without a log: second." in page.text


def test_the_same_models_and_data_give_the_same_page(store: Store, runs: list[Path], tmp_path: Path) -> None:
    pages = [compare(runs, tmp_path / name, data=store.path, layout=SMALL) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_model_folder_alone_is_enough(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0] / "model", tmp_path / "mine")
    text = page_text(compare([tmp_path / "mine"], tmp_path / "p.html", captions=["a red ball"], layout=SMALL))
    assert "mine at a glance" in text
    assert "Learning curves" not in text


def test_settings_in_which_models_differ_are_shown(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    config = other / "model" / "config.json"
    tree = json.loads(config.read_text())
    tree["recipe"]["settings"]["interpolation"] = False
    config.write_text(json.dumps(tree))
    text = page_text(compare([runs[0], other], tmp_path / "p.html", captions=["a red ball"], layout=SMALL))
    assert "settings.interpolation first true other false" in text


def test_names_are_as_long_as_it_takes_to_tell_models_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "y" / "walk"]
    assert model_names(paths) == ["x/run", "y/run", "walk"]


def test_mistakes_are_one_line(runs: list[Path], tmp_path: Path) -> None:
    def complaint(*models: Path, out: str = "p.html", **options: Any) -> str:
        with pytest.raises(GanvasError) as caught:
            compare(list(models), tmp_path / out, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no captions" in complaint(runs[0])
    assert "at least one" in complaint(captions=["a"])
    assert "given twice" in complaint(runs[0], runs[0] / "model", captions=["a"])
    assert "no such folder" in complaint(runs[0], tmp_path / "none", captions=["a"])
    assert "end the name in .html" in complaint(runs[0], captions=["a"], out="p.pdf")
    assert "is empty" in complaint(runs[0], captions=[" "])
    assert "fewer" in complaint(runs[0], captions=["a"], layout=Layout(num_noises=9000))
    assert list(tmp_path.iterdir()) == []


def shown(text: str, num_models: int = 2) -> Comparison:
    """A page on which ``text`` stands wherever a text can stand."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    rows = [[image, image], [image, image]]
    given = [
        [
            Given(
                Score(name=text, value=number, better="lower", protocol={text: text, text + "n": number // 2})
            )
        ]
        for number in range(num_models)
    ]
    return Comparison(
        models=[text] * num_models,
        about={text: text},
        facts=[Fact(name=text, values=[f"{text}{n}" for n in range(num_models)], setting=True)],
        scores=score_rows(given),
        captioned=[Captioned(caption=text, real=image, images=[[image] * 4] * num_models)],
        variations=[Variation(columns=(text, text), images=[rows] * num_models, before=text, after=text)],
        curves=[Curve(phase=text, term=text, lines={n: [(0, n), (9, 2)] for n in range(num_models)})],
        without_log=[text],
    )


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
@example('"><script>alert(1)</script>')
@example("' onload='alert(1)")
@example("</title></style></svg><img src=x>")
@example("$title ${sections} &amp; \ud800 \x00 \x1b[0m")
def test_no_text_becomes_markup(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("page")
    plain = Page(write_page(folder / "plain.html", shown("x"), title="x", lead="x"))
    page = Page(write_page(folder / "page.html", shown(text), title=text, lead=text))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    for (_, attributes), (_, expected) in zip(page.elements, plain.elements, strict=True):
        assert list(attributes) == list(expected)
    assert page.open == []
    assert "default-src 'none'" in page.source
    assert not re.search(r"(?i)@import|url\(|<script|<link|<iframe", page.source)


def test_large_images_are_compressed_and_small_ones_keep_every_pixel(tmp_path: Path) -> None:
    kinds = []
    for side in (64, 256):
        image = np.zeros((side, side, 3), np.uint8)
        entry = Captioned(caption="c", real=None, images=[[image]])
        page = Comparison(models=["m"], about={}, facts=[Fact(name="f", values=["v"])], captioned=[entry])
        (shown_image,) = Page(write_page(tmp_path / "p.html", page, title="t", lead="l")).images()
        kinds.append(str(shown_image["src"]).split(";")[0])
    assert kinds == ["data:image/png", "data:image/webp"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_marks_stand_out(scheme: str) -> None:
    look = {"page": "page.css", "own": "compare.html"}
    source = {k: files("ganvas").joinpath(f"assets/{v}").read_text(encoding="utf-8") for k, v in look.items()}
    place = ("light", "dark").index(scheme)

    def colour(name: str, where: str = "own") -> str:
        return re.findall(rf"--{name}: (#\w{{6}});", source[where])[place]

    for number in range(8):
        assert contrast(colour(f"c{number}"), colour("card", "page")) >= 4.5
    assert contrast(colour("best-ink"), colour("best")) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("num_models", [1, 2, 7])
def test_the_page_fits_the_screen(
    tmp_path: Path, browser: Any, width: int, scheme: str, num_models: int
) -> None:
    shown_texts = shown("a-long-name-of-a-run " + "x" * 50, num_models)
    path = write_page(tmp_path / "page.html", shown_texts, title="y" * 90, lead="l")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate("[...document.images].map(i => [i.clientWidth, i.clientHeight])")
    assert all(across == down >= 40 for across, down in sizes)
    assert complaints == []
    page.close()
