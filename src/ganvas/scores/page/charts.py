"""Small line charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ganvas.gallery import escaped

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 340.0, 196.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 8.0, 8.0, 24.0
_MAX_POINTS = 160
_OUTLIERS = 0.02  # share of the values at either end that may be cut off, if the rest then fills the chart
_FINEST = 1e-9  # of the values: a smaller range would be noise of their last digits
_STRETCH = 2.5  # how much larger the whole range has to be for that


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From where to where values are drawn, and where the grid lines are."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, start: float, end: float) -> float:
        """Where between two edges a value lies; one beyond the axis lies on its edge."""
        share = (value - self.low) / (self.high - self.low)
        return start + min(max(share, 0.0), 1.0) * (end - start)


def line_style(number: int) -> str:
    """The class names of a model's line: colour and dashes together tell it from all others."""
    return f"line c{number % 8} d{(number + number // 8) % 4}"


def key(number: int) -> str:
    """A short piece of a model's line, for legends."""
    return (
        f'<svg class="key" viewBox="0 0 28 10" width="28" height="10" aria-hidden="true" focusable="false">'
        f'<path class="{line_style(number)}" d="M1 5H27"/></svg>'
    )


def chart(lines: Mapping[int, Points], label: str) -> str:
    """A line chart.

    Args:
        lines: by the model's number, points in ascending order of x; values are finite.
        label: what it shows, in words, for those who do not see it.
    """
    drawn = {number: thinned(points, _MAX_POINTS) for number, points in lines.items() if points}
    xs = [x for points in drawn.values() for x, _ in points]
    ys = sorted(y for points in drawn.values() for _, y in points)
    across = axis(min(0.0, *xs), max(xs), 4)
    low, high = _range(ys)
    up = axis(low, high, 4, whole=True)
    parts = [_grid(across, up)]
    parts += [f'<path class="{line_style(n)}" d="{_path(p, across, up)}"/>' for n, p in drawn.items()]
    size = f'viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}" height="{_HEIGHT:g}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escaped(label)}">{"".join(parts)}</svg>'


def _range(ys: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value to draw: a few outliers may not flatten everything else."""
    cut = int(len(ys) * _OUTLIERS)
    inner, whole = ys[-1 - cut] - ys[cut], ys[-1] - ys[0]
    return (ys[cut], ys[-1 - cut]) if 0 < inner * _STRETCH < whole else (ys[0], ys[-1])


def axis(low: float, high: float, count: int, *, whole: bool = False) -> Axis:
    """An axis with about ``count`` steps of 1, 2 or 5 times a power of ten.

    Args:
        low: the smallest value.
        high: the largest; it may be the same.
        count: grid lines wished for.
        whole: the axis begins and ends at a grid line.
    """
    if high - low <= _FINEST * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 12) for index in range(first, last + 1)]
    if whole:
        return Axis(low=ticks[0], high=ticks[-1], ticks=tuple(ticks))
    return Axis(low=low, high=high, ticks=tuple(tick for tick in ticks if low <= tick <= high))


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of as many neighbours; the last one is kept as it is."""
    group = -(-len(points) // most)
    if group <= 1:
        return list(points)
    means = []
    for start in range(0, len(points), group):
        part = points[start : start + group]
        means.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return [*means[: most - 1], points[-1]]


def short(number: float) -> str:
    """A number for an axis: ``8k`` for 8,000, and no needless digits."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{sign}"
    return f"{number:.3g}".replace("-", "\u2212")


def _path(points: Points, across: Axis, up: Axis) -> str:
    places = [
        f"{across.place(x, _LEFT, _WIDTH - _RIGHT):.1f} {up.place(y, _HEIGHT - _BOTTOM, _TOP):.1f}"
        for x, y in points
    ]
    if len(places) == 1:
        return f"M{places[0]}h.1"  # a dot, by the line's round ends
    return "M" + "L".join(places)


def _grid(across: Axis, up: Axis) -> str:
    parts = []
    for tick in up.ticks:
        y = up.place(tick, _HEIGHT - _BOTTOM, _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>')
        parts.append(f'<text class="up" x="{_LEFT - 7:g}" y="{y + 4:.1f}">{short(tick)}</text>')
    for tick in across.ticks:
        x = across.place(tick, _LEFT, _WIDTH - _RIGHT)
        anchor = ' class="last"' if x > _WIDTH - _RIGHT - 14 else ""
        parts.append(f'<text{anchor} x="{x:.1f}" y="{_HEIGHT - 6:g}">{short(tick)}</text>')
    return f'<g aria-hidden="true">{"".join(parts)}</g>'
