"""The few pieces of SVG that our plots are made of: a scale with round ticks, text, lines, and the frame around them.

Coordinates are CSS pixels. Colours and type come from the page's style sheet by class, so that one drawing serves
light, dark and paper. All text is escaped by `Markup.format`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDE_PX = 912
NARROW_PX = 340
HALF_PX = 410
"""A plot over the whole page is drawn twice, for a desk and for a phone: text keeps its size and only the space for
data shrinks. One of half the page is drawn once."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in `low`..`high` linearly to pixels in `start`..`end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside are held at the ends."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return up to `most` + 1 multiples of 1, 2 or 5 times a power of ten that span `low`..`high`, ends included."""
    if high <= low:
        high = low + 1.0
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def tick_label(value: float) -> str:
    """Write a tick as short as it can be: 0.5, 20, 15k, 2M, 1G, 5e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> Markup:
    """Return one line of text whose baseline is at y."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", style, anchor, content
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """Return a straight line."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        *(f"{value:.1f}" for value in (x1, y1, x2, y2)), style
    )


def box(x: float, y: float, width: float, height: float, style: str, note: str = "") -> Markup:
    """Return a filled box; `note` is shown when the pointer rests on it."""
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"><title>{}</title></rect>').format(
        *(f"{value:.1f}" for value in (x, y, max(0.0, width), max(0.0, height))), style, note
    )


def dot(x: float, y: float, radius: float, style: str, note: str) -> Markup:
    """Return a dot; `note` is shown when the pointer rests on it."""
    return Markup('<circle cx="{}" cy="{}" r="{}" class="{}"><title>{}</title></circle>').format(
        f"{x:.1f}", f"{y:.1f}", f"{radius:.1f}", style, note
    )


def path(points: Iterable[tuple[float, float]], style: str) -> Markup:
    """Return a line through points."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline points="{}" class="{}"/>').format(joined, style)


def x_axis(
    scale: Scale, ticks: Sequence[float], top: float, bottom: float, label: str,
    write: Callable[[float], str] = tick_label,
) -> Markup:  # fmt: skip
    """Return the vertical grid lines from `top` to `bottom`, their numbers below, and the axis label with its unit."""
    parts: list[Markup] = []
    for tick in ticks:
        parts.append(line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(text(scale(tick), bottom + 16, write(tick), "tick", "middle"))
    parts.append(text((scale.start + scale.end) / 2, bottom + 34, label, "axis", "middle"))
    return Markup().join(parts)


def y_axis(scale: Scale, ticks: Sequence[float], left: float, right: float, label: str) -> Markup:
    """Return the horizontal grid lines from `left` to `right`, their numbers, and the axis label above the top one."""
    parts: list[Markup] = []
    for tick in ticks:
        parts.append(line(left, scale(tick), right, scale(tick), "grid"))
        parts.append(text(left - 6, scale(tick) + 4, tick_label(tick), "tick", "end"))
    parts.append(text(0, scale(ticks[-1]) - 12, label, "axis"))
    return Markup().join(parts)


def drawing(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """Return a whole SVG that says `label` to those who cannot see it."""
    return Markup('<svg viewBox="0 0 {0} {1}" style="max-width:{0}px" role="img" aria-label="{2}">{3}</svg>').format(
        f"{width:.0f}", f"{height:.0f}", label, Markup().join(parts)
    )


def both_widths(draw: Callable[[int], Markup]) -> Markup:
    """Return a plot drawn for wide and for narrow screens; the style sheet shows one of them."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(draw(WIDE_PX), draw(NARROW_PX))
