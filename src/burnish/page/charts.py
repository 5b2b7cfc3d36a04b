"""More plots as inline SVG: several lines over one axis, labelled points, and small histograms side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from burnish.page.svg import Scale, box, dot, drawing, line, path, round_ticks, text, tick_label, x_axis, y_axis

STYLES = ("c1", "c2", "c3", "c4", "c5", "c6")
"""Classes that colour the series, in their order."""


LETTER = 7.0
"""Width of a letter of a label in pixels, in the widest of the fonts that a browser may choose."""


class Series(NamedTuple):
    """A line: its name and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def lines(series: Sequence[Series], width: int, height: int, x: str, y: str, *, doubling: bool = False) -> Markup:
    """Return several lines over one x axis, the y axis logarithmic in powers of ten, names in a legend above.

    doubling: each step of the x axis is twice the last. Values must be positive: zero has no place on a logarithmic axis, and
    its point is left out.
    """
    place_of = math.log2 if doubling else float
    kept = [Series(each.name, [(place_of(at), value) for at, value in each.points if value > 0]) for each in series]
    values = [value for each in kept for _, value in each.points] or [1.0]
    places = [at for each in kept for at, _ in each.points] or [0.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    top = 26 + 16 * -(-len(series) // _columns(width))
    x_ticks = [tick for tick in round_ticks(min(places), max(places), 8 if width > 500 else 5) if tick <= max(places)]
    left = 52
    across, down = Scale(min(places), max(places), left, width - 8), Scale(low, max(high, low + 1), height - 42, top)
    parts = [_legend([each.name for each in series], width), text(0, top - 10, y, "axis")]
    for power in range(low, max(high, low + 1) + 1):
        parts.append(line(left, down(power), width - 8, down(power), "grid"))
        parts.append(text(left - 6, down(power) + 4, _power(power), "tick", "end"))
    parts.append(x_axis(across, x_ticks, height - 46, height - 42, x, _twofold if doubling else tick_label))
    for place, each in enumerate(kept):
        points = [(across(at), down(math.log10(value))) for at, value in each.points]
        parts.append(path(points, f"series {STYLES[place % len(STYLES)]}"))
    return drawing(width, height, f"Line plot: {y} by {x}", parts)


def _power(power: int) -> str:
    return tick_label(10.0**power) if -4 <= power <= 11 else f"1e{power}"


def _twofold(power: float) -> str:
    return tick_label(2.0**power)


def _columns(width: int) -> int:
    return max(1, int(width // 190))


def _legend(names: Sequence[str], width: int) -> Markup:
    parts: list[Markup] = []
    columns = _columns(width)
    for place, name in enumerate(names):
        at, y = (place % columns) * (width / columns), 12 + 16 * (place // columns)
        parts.append(line(at, y - 4, at + 18, y - 4, f"series {STYLES[place % len(STYLES)]}"))
        parts.append(text(at + 24, y, name, "tick"))
    return Markup().join(parts)


class Point(NamedTuple):
    """A labelled point with an interval of its y value."""

    label: str
    x: float
    y: float
    low: float
    high: float


def points(rows: Sequence[Point], width: int, height: int, x: str, y: str) -> Markup:
    """Return labelled points with vertical interval bars; labels keep clear of each other."""
    left = 52
    x_ticks = round_ticks(0.0, max(row.x for row in rows), 6 if width > 500 else 4)
    y_ticks = round_ticks(min(row.low for row in rows), max(row.high for row in rows), 5)
    across = Scale(x_ticks[0], x_ticks[-1], left, width - 8)
    down = Scale(y_ticks[0], y_ticks[-1], height - 42, 26)
    parts = [y_axis(down, y_ticks, left, width - 8, y), x_axis(across, x_ticks, height - 46, height - 42, x)]
    taken = [(across(row.x) - 6, across(row.x) + 6, down(row.y) + 4) for row in rows]
    for row in sorted(rows, key=lambda row: -row.y):
        at, middle = across(row.x), down(row.y)
        parts.append(line(at, down(row.low), at, down(row.high), "interval tuned"))
        parts.append(
            dot(
                at, middle, 4.0, "dot tuned", f"{row.label}: {row.x:.4g}, {row.y:.4g} ({row.low:.4g} to {row.high:.4g})"
            )
        )
        wide = LETTER * len(row.label)
        start, place = _free(at, middle + 4, wide, (left, float(width), height - 48.0), taken)
        taken.append((start, start + wide, place))
        parts.append(text(start, place, row.label, "tick"))
    return drawing(width, height, f"Points: {y} by {x}", parts)


def _free(
    at: float,
    middle: float,
    wide: float,
    edges: tuple[float, float, float],
    taken: Sequence[tuple[float, float, float]],
) -> tuple[float, float]:
    """Return where a label of a point begins and its baseline: nearest to the point, right of it before left, on no other.

    edges: the least and the largest x, and the largest y. taken: (begin, end, baseline) of points and of labels that lie already.
    """
    for step in range(40):
        for place in (middle + 4 * step, middle - 4 * step):
            for start in (at + 8, at - 8 - wide):
                inside = start >= edges[0] and start + wide <= edges[1] and 12 <= place <= edges[2]
                near = ((begin, end) for begin, end, other in taken if abs(place - other) < 13)
                if inside and not any(start < end and begin < start + wide for begin, end in near):
                    return start, place
    return max(edges[0], min(at + 8, edges[1] - wide)), min(middle, edges[2])


def small_histograms(rows: Sequence[tuple[str, Sequence[int]]], width: int, note: str) -> Markup:
    """Return a grid of histograms on one scale of shares, each under its label. All have the same bins."""
    columns = 6 if width > 500 else 3
    cell, height = width / columns, 78
    most = max(max(counts) / max(1, sum(counts)) for _, counts in rows)
    parts: list[Markup] = []
    for place, (label, counts) in enumerate(rows):
        left, top = (place % columns) * cell, (place // columns) * height
        scale = Scale(0.0, most, 0.0, height - 26.0)
        bar = (cell - 12) / len(counts)
        total = max(1, sum(counts))
        for index, count in enumerate(counts):
            tall = scale(count / total)
            parts.append(box(left + index * bar, top + height - 10 - tall, max(0.5, bar - 0.5), tall, "column"))
        parts.append(line(left, top + height - 10, left + cell - 12, top + height - 10, "grid"))
        parts.append(text(left, top + 11, label, "tick"))
    return drawing(width, -(-len(rows) // columns) * height, note, parts)
