"""The demo, small: everything it promises lies in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import SMALL_SYSTEM

from ganvas.demo import run_demo
from ganvas.scores import retrieval
from ganvas.scores.score import read_scores


@pytest.mark.usefixtures("single_threaded")
def test_the_demo_writes_gallery_scores_and_model_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as many images as the score needs are enough here
    real = retrieval.Store.rows
    monkeypatch.setattr(retrieval.Store, "rows", lambda self, split: real(self, split)[:120])
    overrides = [
        *SMALL_SYSTEM,
        "training.images={text: 32, gan: 32}",
        "data.image_size=32",
        "training.batch_size=16",
        "training.batch_sizes={}",
    ]
    run_demo(tmp_path / "demo", overrides)
    said = capsys.readouterr().out
    for name in ("gallery.html", "gallery.png", "scores.json", "beside.png"):
        assert str(tmp_path / "demo" / name) in said
    scores = read_scores(tmp_path / "demo" / "scores.json")
    shown = {score.facts["images"]: score for score in scores}
    assert shown["generated"].protocol["num_images"] == 120
    assert shown["generated"].value < 0.2 < shown["real"].value
    page = (tmp_path / "demo" / "gallery.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 24 * 4 and "http://" not in page.replace("http://www.w3.org", "")
    with Image.open(tmp_path / "demo" / "gallery.png") as picture:
        assert picture.width > 300 and picture.height > 300
    with Image.open(tmp_path / "demo" / "beside.png") as picture:
        assert picture.width > 7 * 64 and picture.height > 8 * 64

    run_demo(tmp_path / "demo", overrides)
    assert "is trained already" in capsys.readouterr().err
    assert read_scores(tmp_path / "demo" / "scores.json") == scores
