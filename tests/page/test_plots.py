"""Plots as SVG: where the marks lie, what they say, and that text cannot break out."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.page import charts, plots, svg

SVG = "{http://www.w3.org/2000/svg}"


def parse(drawing: str) -> ET.Element:
    """Parse as the XML that a strict reader would see."""
    return ET.fromstring(str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def marks(root: ET.Element, kind: str, style: str) -> list[ET.Element]:
    return [mark for mark in root.iter(SVG + kind) if style in (mark.get("class") or "").split()]


def says(root: ET.Element) -> list[str]:
    return [mark.text or "" for mark in root.iter(SVG + "text")]


def test_a_scale_maps_linearly_and_holds_outliers_at_its_ends() -> None:
    scale = svg.Scale(0.0, 2.0, 100.0, 300.0)
    assert [scale(value) for value in (-1.0, 0.0, 0.5, 2.0, 9.0)] == [100.0, 100.0, 150.0, 300.0, 300.0]
    assert svg.Scale(1.0, 1.0, 0.0, 10.0)(1.0) == 0.0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 112, [0, 20, 40, 60, 80, 100, 120]),
        (0, 0.00095, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        (3, 3, [3, 3.2, 3.4, 3.6, 3.8, 4]),
    ],
)
def test_ticks_are_round_and_span_the_values(low: float, high: float, ticks: list[float]) -> None:
    assert svg.round_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(0, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
def test_there_are_never_many_ticks(low: float, size: float, most: int) -> None:
    ticks = svg.round_ticks(low, low + size, most)
    assert 2 <= len(ticks) <= most + 2
    assert ticks[0] <= low + size * 1e-6 + math.ulp(low)
    assert ticks[-1] >= (low + size) * (1 - 1e-6)


def test_dots_lie_where_their_values_are_and_bars_span_the_intervals() -> None:
    row = plots.DotRow("exact match", "0 → 0.5", [plots.Dot("base", 0, 0, 0.25), plots.Dot("tuned", 0.5, 0.25, 1)])
    root = parse(plots.dot_plot([plots.DotGroup("test", [row])], 912, "share", 1.0))
    base, tuned = marks(root, "circle", "base")[0], marks(root, "circle", "tuned")[0]
    (bar,) = marks(root, "line", "tuned")
    left, right = float(base.get("cx", "")), float(bar.get("x2", ""))
    assert float(tuned.get("cx", "")) == pytest.approx((left + right) / 2, abs=0.2)
    assert float(bar.get("x1", "")) == pytest.approx(left + (right - left) / 4, abs=0.2)
    assert float(base.get("cy", "")) < float(tuned.get("cy", ""))
    assert {"test", "exact match", "0 → 0.5", "share", "0", "1"} <= set(says(root))
    assert "tuned: 0.500, 95% interval 0.250 to 1.000" in ET.tostring(root, encoding="unicode")


@pytest.mark.parametrize("width", [svg.WIDE_PX, svg.NARROW_PX])
def test_marks_stay_inside_the_drawing(width: int) -> None:
    rows = [plots.DotRow(f"score {n}", "", [plots.Dot("tuned", n / 3, 0, n / 2)]) for n in range(4)]
    bars = [plots.Bar(f"reason {n}", 10**n, str(10**n), "rejected") for n in range(6)]
    forecast = [plots.Forecast("time", 10, 5, 50, 20, "10 s", "20 s")]
    points = [(float(n), math.exp(-n / 50)) for n in range(200)]
    for drawing in (
        plots.dot_plot([plots.DotGroup("a", rows)], width, "share"),
        plots.bars(bars, width, "bars"),
        plots.forecast_plot(forecast, width),
        plots.curve(points, points, width, 200, "step", "loss"),
        plots.histogram(range(0, 110, 10), [3] * 10, width, "tokens", "rows", 3),
        charts.lines(
            [charts.Series(f"line {n}", [(x, 10.0**-n * (x + 1)) for x in range(9)]) for n in range(7)],
            width,
            300,
            "x",
            "y",
        ),
        charts.points(
            [charts.Point(f"point {n}", n % 3, n / 50, n / 60, n / 40) for n in range(9)], width, 300, "x", "y"
        ),
        charts.small_histograms([(f"layer {n}", [n, 3, 9, 0]) for n in range(14)], width, "shares"),
    ):
        root = parse(drawing)
        _, _, right, bottom = map(float, root.get("viewBox", "").split())
        for mark in root.iter():
            xs = [float(mark.get(name, 0)) for name in ("x", "x1", "x2", "cx")]
            ys = [float(mark.get(name, 0)) for name in ("y", "y1", "y2", "cy")]
            for pair in mark.get("points", "0,0").split():
                x, y = map(float, pair.split(","))
                xs.append(x)
                ys.append(y)
            assert 0 <= min(xs) <= max(xs) + float(mark.get("width", 0) if mark is not root else 0) <= right
            assert 0 <= min(ys) <= max(ys) <= bottom


def test_a_falling_loss_is_drawn_falling() -> None:
    points = [(float(n), 2.0 - n / 100) for n in range(1, 101)]
    root = parse(plots.curve(points, [], 912, 270, "step", "loss"))
    ((line,), ()) = marks(root, "polyline", "smooth"), marks(root, "polyline", "raw")
    drawn = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert len(drawn) == 100
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(drawn))


def test_a_long_curve_keeps_its_peaks() -> None:
    points = [(float(n), 1.0) for n in range(100_000)]
    points[77_777] = (77_777.0, 9.0)
    kept = plots.thin(points)
    assert len(kept) <= plots.POINTS_SHOWN + 2
    assert (77_777.0, 9.0) in kept
    assert kept == sorted(kept)
    assert plots.thin(points[:50]) == points[:50]


def test_a_running_mean_is_even_on_both_sides() -> None:
    points = [(float(n), float(value)) for n, value in enumerate([8, 2, 5, 2, 8])]
    assert plots.running_mean(points, 3) == [(0, 8), (1, 5), (2, 3), (3, 5), (4, 8)]


def test_columns_are_as_high_as_their_counts() -> None:
    root = parse(plots.histogram([0, 10, 20, 40], [4, 0, 2], svg.HALF_PX, "tokens", "rows", 4))
    heights = [float(mark.get("height", "")) for mark in marks(root, "rect", "column")]
    assert heights[0] == pytest.approx(2 * heights[2], abs=0.2)
    assert heights[1] == 0
    assert "20 to 40: 2" in ET.tostring(root, encoding="unicode")


def test_bars_are_as_long_as_their_values() -> None:
    rows = [
        plots.Bar("kept", 80, "80", "kept"),
        plots.Bar("broken", 20, "20", "rejected"),
        plots.Bar("no", 0, "0", "x"),
    ]
    root = parse(plots.bars(rows, 912, "ledger"))
    kept, broken, none = (float(mark.get("width", "")) for mark in root.iter(SVG + "rect"))
    assert kept == pytest.approx(4 * broken, abs=0.2)
    assert none == 0
    assert root.get("aria-label") == "ledger"


def test_predicted_and_measured_share_a_scale() -> None:
    root = parse(plots.forecast_plot([plots.Forecast("time of training", 60, 40, 90, 120, "1 min", "2 min")], 912))
    (predicted,), (measured,) = marks(root, "rect", "predicted"), marks(root, "rect", "measured")
    assert float(measured.get("width", "")) == pytest.approx(2 * float(predicted.get("width", "")), abs=0.2)
    assert len(marks(root, "line", "band")) == 3
    assert {"time of training", "2.00× predicted", "predicted 1 min", "measured 2 min"} <= set(says(root))


def test_text_cannot_break_out_of_a_plot() -> None:
    hostile = '</text></svg><script>alert("1")</script>'
    group = plots.DotGroup(hostile, [plots.DotRow(hostile, hostile, [plots.Dot("tuned", 1, 1, 1)])])
    drawings = (
        plots.dot_plot([group], 912, hostile),
        plots.bars([plots.Bar(hostile, 1, hostile, "kept")], 340, hostile),
        plots.forecast_plot([plots.Forecast(hostile, 1, None, None, 1, hostile, hostile)], 912),
    )
    for drawing in drawings:
        assert "<script" not in drawing
        assert hostile in says(parse(drawing))


def test_lines_are_logarithmic_leave_zeros_out_and_name_each_series() -> None:
    series = [charts.Series("one", [(0, 1.0), (1, 10.0), (2, 100.0)]), charts.Series("two", [(0, 0.0), (1, 1.0)])]
    root = parse(charts.lines(series, 912, 300, "layer", "error"))
    assert {"one", "two", "layer", "error"} <= set(says(root))
    first, second = (line.get("points", "").split() for line in root.iter(SVG + "polyline"))
    heights = [float(point.split(",")[1]) for point in first]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert len(second) == 1


def test_labels_of_points_that_share_a_place_do_not_touch() -> None:
    rows = [charts.Point(f"format {n}", 100.0, 0.001 * n, 0.0, 1.0) for n in range(8)]
    root = parse(charts.points(rows, 912, 360, "size", "loss"))
    labels = [mark for mark in root.iter(SVG + "text") if (mark.text or "").startswith("format")]
    assert len(labels) == 8
    places = [(float(mark.get("x", "")), float(mark.get("y", ""))) for mark in labels]
    for (x, y), (other_x, other_y) in itertools.combinations(places, 2):
        assert abs(y - other_y) >= 12.9 or abs(x - other_x) >= 6.4 * len("format 0")


def test_an_axis_that_doubles_names_its_steps_and_large_numbers_are_short() -> None:
    series = [charts.Series("all linear", [(2**power, 10_000 * 2**power) for power in range(9)])]
    said = says(parse(charts.lines(series, 912, 300, "rank", "numbers", doubling=True)))
    assert said[said.index("1") :][:9] == ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
    assert {"10k", "100k", "1M", "10M"} <= set(said)


def test_labels_lie_on_no_other_point() -> None:
    rows = [charts.Point("nf4 group absmax", 116.4, 0.19, 0.1, 0.27), charts.Point("nf4+dq", 111.7, 0.19, 0.1, 0.28)]
    rows += [charts.Point("fp32", 538.0, 0.0, 0.0, 0.0), charts.Point("int4 channel absmax", 110.4, 0.84, 0.6, 1.0)]
    root = parse(charts.points(rows, 912, 360, "size", "loss"))
    dots = [(float(dot.get("cx") or 0), float(dot.get("cy") or 0)) for dot in marks(root, "circle", "dot")]
    names = {row.label for row in rows}
    for label in root.iter(SVG + "text"):
        if label.text in names:
            start, base = float(label.get("x") or 0), float(label.get("y") or 0)
            end = start + charts.LETTER * len(label.text)
            assert not [at for at in dots if start < at[0] < end and abs(at[1] + 4 - base) < 13], label.text
