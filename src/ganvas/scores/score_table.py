"""Scores of several models beside each other: compared where their protocols are equal, and only there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganvas.errors import GanvasError
from ganvas.scores.page.content import Cell, ScoreRow
from ganvas.scores.score import Score, differences, read_scores

_MAX_FILES = 200  # files of scores looked for in a run
_MAX_REMARKS = 5
_MAX_PROTOCOL = 300  # characters of a value of a protocol


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a file of ``ganvas score`` holds, as far as a comparison needs it."""

    path: Path
    model: str
    """Name or folder of the model, as the file has it."""
    images: str
    """``generated``, ``real`` or another kind."""
    scores: Sequence[Score]
    num_trained: int | None
    """Images that the model had seen when it was scored."""


def read_scored(path: Path) -> Scored:
    """Read a file that ``ganvas score`` wrote.

    Raises:
        GanvasError: it is no such file, or does not say whose scores it holds.
    """
    scores = read_scores(path)
    tree = json.loads(path.read_bytes())
    model = tree.get("model")
    if not isinstance(model, str) or not model:
        raise GanvasError(
            f"{path}: does not say which model its scores belong to; write it by 'ganvas score'"
        )
    about = tree.get("about")
    trained = about.get("trained") if isinstance(about, dict) else None
    values = list(trained.values()) if isinstance(trained, dict) else []
    counted = bool(values) and all(isinstance(value, int) for value in values)
    return Scored(
        path=path,
        model=model,
        images=str(tree.get("images", "generated")),
        scores=scores,
        num_trained=sum(values) if counted else None,
    )


def own_files(run: Path) -> list[Path]:
    """Files of scores that lie in a run: ``scores.json``, ``scores-*.json`` and those in ``scores/``."""
    found = [*sorted(run.glob("scores.json")), *sorted(run.glob("scores-*.json"))]
    return [*found, *sorted((run / "scores").glob("*.json"))][:_MAX_FILES]


@dataclass(frozen=True)
class Given:
    """A score for the table."""

    score: Score
    stale: str | None = None
    """Why it is not one of the model that is shown."""


def score_rows(models: Sequence[Sequence[Given]], reals: Sequence[Given] = ()) -> list[ScoreRow]:
    """The table of scores.

    A row has the scores of one name and one protocol. A model that was scored by another protocol, which no
    other model shares, stands in the same row with what is different, and is not compared. The best value of
    at least two is marked; the real images are for orientation and never the best.

    Args:
        models: the scores of each.
        reals: those of the real images; with any, each row gets a cell for them.
    """
    columns = [list(scores) for scores in models] + ([list(reals)] if reals else [])
    names = dict.fromkeys(given.score.name for column in columns for given in column)
    rows = []
    for name in names:
        left = [[given for given in column if given.score.name == name] for column in columns]
        while any(left):
            rows.append(_take_row(left, len(models)))
    return rows


def _take_row(left: list[list[Given]], num_models: int) -> ScoreRow:
    """Take the scores of one row out of those that are left."""
    leader = _most_shared(left)
    taken: list[Given | None] = []
    for column in left:
        same = [given for given in column if not differences(given.score, leader)]
        apart = [given for given in column if _owners(given.score, left) == 1]
        taken.append(next(iter([*same, *apart]), None))
    for column, given in zip(left, taken, strict=True):
        if given is not None:
            column.remove(given)
    cells = [_cell(given, leader) for given in taken]
    compared = {
        number: given.score.value
        for number, (given, cell) in enumerate(zip(taken[:num_models], cells, strict=False))
        if given is not None and not cell.remarks and math.isfinite(given.score.value)
    }
    if len(compared) > 1:
        best = (max if leader.better == "higher" else min)(compared.values())
        cells = [
            replace(cell, best=number in compared and compared[number] == best)
            for number, cell in enumerate(cells)
        ]
    return ScoreRow(
        name=leader.name,
        higher_is_better=leader.better == "higher",
        protocol={key: _in_words(value) for key, value in leader.protocol.items()},
        cells=cells,
    )


def _most_shared(left: Sequence[Sequence[Given]]) -> Score:
    """A score whose protocol most columns have; of equals, the first."""
    scores = (given.score for column in left for given in column)
    return max(scores, key=lambda score: _owners(score, left))


def _owners(score: Score, left: Sequence[Sequence[Given]]) -> int:
    """How many columns have a score by the same protocol."""
    return sum(any(not differences(score, given.score) for given in column) for column in left)


def _cell(given: Given | None, leader: Score) -> Cell:
    if given is None:
        return Cell()
    remarks = [given.stale] if given.stale else []
    remarks += differences(given.score, leader)
    if len(remarks) > _MAX_REMARKS:
        more = len(remarks) - _MAX_REMARKS + 1
        remarks = [*remarks[: _MAX_REMARKS - 1], f"and in {more} more"]
    return Cell(value=str(given.score), remarks=tuple(remarks))


def _in_words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_PROTOCOL else f"{text[: _MAX_PROTOCOL - 1]}\u2026"
