"""The plots of the report, as inline SVG. Each takes plain numbers and a width in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from burnish.page.svg import Scale, box, dot, drawing, line, path, round_ticks, text, tick_label, x_axis, y_axis

POINTS_SHOWN = 600
"""A curve with more points is thinned to the lowest and highest of each stretch, which is all a screen can show."""


class Dot(NamedTuple):
    """One subject's value with its interval."""

    subject: str
    value: float
    low: float
    high: float


class DotRow(NamedTuple):
    """One line of a dot plot: a label, what it says at the right, and one dot for each subject."""

    label: str
    says: str
    dots: Sequence[Dot]


class DotGroup(NamedTuple):
    """Lines under one heading."""

    heading: str
    rows: Sequence[DotRow]


def dot_plot(groups: Sequence[DotGroup], width: int, axis: str, high: float | None = None) -> Markup:
    """Return dots with 95% interval bars, one line for each score, on one axis from 0; on a phone below its label.

    high: the end of the axis; by default the highest interval.
    """
    most = max(d.high for group in groups for row in group.rows for d in row.dots)
    roomy = width > 500
    ticks = round_ticks(0.0, most if high is None else high, 5)
    scale = Scale(0.0, ticks[-1], 148, width - 128) if roomy else Scale(0.0, ticks[-1], 8, width - 8)
    step, to_dots = (30, 13) if roomy else (44, 32)
    parts: list[Markup] = []
    y = 4.0
    for group in groups:
        parts.append(text(0, y + 14, group.heading, "heading"))
        y += 24
        for row in group.rows:
            parts += [text(0, y + 17, row.label, "label"), text(width, y + 17, row.says, "number", "end")]
            parts += _dots(row, scale, y + to_dots)
            y += step
        y += 8 if roomy else 14
    grid = x_axis(scale, ticks, 24, y, axis)
    return drawing(width, y + 42, f"Dot plot: {axis}", [grid, *parts])


def _dots(row: DotRow, scale: Scale, middle: float) -> list[Markup]:
    parts: list[Markup] = []
    for place, each in enumerate(row.dots):
        y = middle + 9 * (place - (len(row.dots) - 1) / 2)
        note = f"{each.subject}: {each.value:.3f}, 95% interval {each.low:.3f} to {each.high:.3f}"
        parts.append(line(scale(each.low), y, scale(each.high), y, f"interval {each.subject}"))
        parts.append(dot(scale(each.value), y, 4.5, f"dot {each.subject}", note))
    return parts


def curve(
    raw: Sequence[tuple[float, float]], smooth: Sequence[tuple[float, float]], width: int, height: int, x: str, y: str
) -> Markup:
    """Return a line plot of points (step, value): the raw line thin, the smooth one over it, both axes from 0."""
    last = max(point[0] for point in raw)
    x_ticks = [tick for tick in round_ticks(0, last, 8 if width > 500 else 5) if tick <= last]
    y_ticks = round_ticks(0, max(point[1] for point in raw), 4)
    left = 12 + 7 * max(len(tick_label(tick)) for tick in y_ticks)
    across = Scale(0, last, left, width - 6)
    down = Scale(0, y_ticks[-1], height - 42, 26)
    parts = [
        y_axis(down, y_ticks, left, width - 6, y),
        x_axis(across, x_ticks, height - 46, height - 42, x),
        path(((across(at), down(value)) for at, value in thin(raw)), "raw" if smooth else "smooth"),
    ]
    if smooth:
        parts.append(path(((across(at), down(value)) for at, value in thin(smooth)), "smooth"))
    return drawing(width, height, f"Line plot: {y} by {x}", parts)


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most about `POINTS_SHOWN` points: of each stretch the lowest and the highest, in their order."""
    if len(points) <= POINTS_SHOWN:
        return list(points)
    size = -(-2 * len(points) // POINTS_SHOWN)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Return the mean over `window` points around each, fewer at the ends so that both sides stay even."""
    half = window // 2
    smooth: list[tuple[float, float]] = []
    for place, (at, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        near = [value for _, value in points[place - reach : place + reach + 1]]
        smooth.append((at, sum(near) / len(near)))
    return smooth


def histogram(edges: Sequence[int], counts: Sequence[int], width: int, x: str, y: str, most: int) -> Markup:
    """Return columns, one for each bin, all equally wide, so that bins that grow with the value can be read too.

    most: the count that fills the height, so that several histograms can share it.
    """
    height = 190
    ticks = round_ticks(0, max(1, most), 4)
    left = 12 + 7 * max(len(tick_label(tick)) for tick in ticks)
    down = Scale(0, ticks[-1], height - 42, 26)
    column = (width - 6 - left) / max(1, len(counts))
    parts = [y_axis(down, ticks, left, width - 6, y)]
    for place, count in enumerate(counts):
        at = left + place * column
        note = f"{edges[place]} to {edges[place + 1]}: {count}"
        parts.append(box(at + 1, down(count), column - 2, down(0) - down(count), "column", note))
    every = max(1, -(-len(edges) * 34 // int(width - left)))
    for place in range(0, len(edges), every):
        parts.append(text(left + place * column, height - 26, tick_label(edges[place]), "tick", "middle"))
    parts.append(text((left + width) / 2, height - 8, x, "axis", "middle"))
    return drawing(width, height, f"Histogram: {y} by {x}", parts)


class Bar(NamedTuple):
    """One bar: its label, length, what it says at the right, and the class that colours it."""

    label: str
    value: float
    says: str
    style: str


def bars(rows: Sequence[Bar], width: int, what: str) -> Markup:
    """Return horizontal bars on one scale from 0, each label before its bar, or above it on a narrow screen."""
    high = max((row.value for row in rows), default=1.0) or 1.0
    roomy = width > 500
    left, step = (220, 26) if roomy else (0, 40)
    scale = Scale(0, high, left, width - 92)
    parts: list[Markup] = []
    for place, row in enumerate(rows):
        y = place * step
        if roomy:
            parts.append(text(left - 10, y + 16, row.label, "label", "end"))
        else:
            parts.append(text(0, y + 13, row.label, "label"))
        top = y + 5 if roomy else y + 19
        length = max(1.5 if row.value else 0.0, scale(row.value) - left)
        parts.append(box(left, top, length, 15, row.style, f"{row.label}: {row.says}"))
        parts.append(text(left + length + 7, top + 12, row.says, "number"))
    return drawing(width, max(1, len(rows)) * step + 4, what, parts)


class Forecast(NamedTuple):
    """One quantity that was predicted and then measured. `low` and `high` are the predicted band, if there was one."""

    label: str
    predicted: float
    low: float | None
    high: float | None
    measured: float
    predicted_says: str
    measured_says: str


def forecast_plot(rows: Sequence[Forecast], width: int) -> Markup:
    """Return two bars for each quantity, predicted over measured, each pair on a scale of its own."""
    parts: list[Markup] = []
    step = 84
    for place, row in enumerate(rows):
        y = place * step
        scale = Scale(0, max(row.predicted, row.high or 0.0, row.measured) or 1.0, 0, width - 2)
        says = f"{row.measured / row.predicted:.2f}× predicted" if row.predicted else ""
        parts += [text(0, y + 14, row.label, "heading"), text(width, y + 14, says, "number", "end")]
        for top, value, style, label in (
            (y + 22, row.predicted, "predicted", f"predicted {row.predicted_says}"),
            (y + 48, row.measured, "measured", f"measured {row.measured_says}"),
        ):
            parts.append(box(0, top, scale(value), 18, style, label))
            parts.append(text(8, top + 13.5, label, "inside"))
        if row.low is not None and row.high is not None:
            parts.append(_band(scale(row.low), scale(row.high), y + 44))
    return drawing(width, len(rows) * step, "Bars: predicted and measured", parts)


def _band(low: float, high: float, y: float) -> Markup:
    ends = (line(at, y - 3, at, y + 3, "band") for at in (low, high))
    return Markup().join([line(low, y, high, y, "band"), *ends])
