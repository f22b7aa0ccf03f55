"""What the page of a comparison shows, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ganvas.sheets import Picture


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A row of the table of models: one value a model."""

    name: str
    values: Sequence[str]
    setting: bool = False
    """It is a key of the recipe, in which the models differ."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A place of the table of scores."""

    value: str | None = None
    best: bool = False
    remarks: Sequence[str] = ()
    """Why it is not compared with the others of its row."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One score of several models by one protocol."""

    name: str
    higher_is_better: bool
    protocol: Mapping[str, str]
    cells: Sequence[Cell]
    """One a model, then the real images, where any row has them."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One loss term of one phase in all models."""

    phase: str
    term: str
    lines: Mapping[int, Sequence[tuple[float, float]]]
    """By the model's number: images seen, and the value."""


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A caption with the images of every model."""

    caption: str
    real: Picture | None
    """The data set's own image."""
    images: Sequence[Sequence[Picture]]
    """``[model][noise]``."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Images along one change of the text, noise held still."""

    columns: Sequence[str]
    """What each image has of the change: a word, or a share."""
    images: Sequence[Sequence[Sequence[Picture]]]
    """``[model][noise][column]``."""


@dataclass(frozen=True, kw_only=True)
class Variation(Series):
    """A caption with one of its words replaced."""

    before: str
    """The caption up to the word."""
    after: str
    """The caption behind it."""


@dataclass(frozen=True, kw_only=True)
class Between(Series):
    """The way from one caption to another."""

    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that the page shows."""

    models: Sequence[str]
    """Names, short and different."""
    about: Mapping[str, str]
    facts: Sequence[Fact]
    scores: Sequence[ScoreRow] = ()
    real_scores: bool = False
    """The last cell of every row of scores is that of the real images."""
    captioned: Sequence[Captioned] = ()
    variations: Sequence[Variation] = ()
    betweens: Sequence[Between] = ()
    curves: Sequence[Curve] = ()
    without_log: Sequence[str] = field(default=())
    """Models that have no learning curves."""
