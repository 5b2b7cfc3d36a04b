"""The page about a base model: tables and plots of what `burnish inspect` found."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from burnish.core.units import format_count, format_decimal
from burnish.page.charts import Point, Series, lines, points, small_histograms
from burnish.page.plots import Bar, bars
from burnish.page.svg import both_widths
from burnish.page.template import render_page

LAYER_SCHEMES = (
    "int4 tensor absmax",
    "int4 group absmax",
    "nf4 group absmax",
    "fp8 channel absmax",
    "int8 tensor absmax",
    "int8 channel absmax",
)
"""Schemes whose error is drawn layer by layer."""


def inspection_page(found: dict[str, Any]) -> str:
    """Return a self-contained HTML page about what was found."""
    weights, perplexity = found["weights"], found["perplexity"]
    return render_page(
        "burnish.plan.inspect",
        "page.html.j2",
        found=found,
        ladder=both_widths(lambda width: _ladder(found["ladder"], width)),
        ranks=both_widths(lambda width: _ranks(found, width)),
        methods=both_widths(lambda width: _methods(found, width)),
        histograms=None if weights is None else both_widths(lambda width: _histograms(weights, width)),
        layers=None if weights is None else both_widths(lambda width: _layers(weights, width)),
        schemes=[] if weights is None else sorted(weights["schemes"], key=lambda row: row["relative_error"]),
        tails=[] if weights is None else sorted(weights["matrices"], key=lambda m: -m["kurtosis"])[:8],
        perplexity=None if perplexity is None else both_widths(lambda width: _perplexity(perplexity, width)),
        shape=_shape,
        count=format_count,
        size=format_decimal,
    )


def _shape(sides: list[int]) -> str:
    return " × ".join(f"{side:,}" for side in sides)


def _ladder(rows: list[dict[str, Any]], width: int) -> Markup:
    return bars(
        [Bar(row["precision"], row["predicted_bytes"], format_decimal(row["predicted_bytes"]), "kept") for row in rows],
        width,
        "Bytes of the base by precision",
    )


def _ranks(found: dict[str, Any], width: int) -> Markup:
    series = [
        Series(name, [(row["rank"], row["parameters"][name]) for row in found["ranks"]])
        for name in found["target_sets"]
    ]
    return lines(series, width, 260, "rank", "numbers trained", doubling=True)


def _methods(found: dict[str, Any], width: int) -> Markup:
    names = {"lora": "LoRA", "dora": "DoRA", "houlsby": "Houlsby adapters", "prefix": "prefix", "ia3": "(IA)3"}
    series = [Series(label, [(row["size"], row[name]) for row in found["methods"]]) for name, label in names.items()]
    return lines(series, width, 260, "rank, bottleneck or virtual tokens", "numbers trained", doubling=True)


def _histograms(weights: dict[str, Any], width: int) -> Markup:
    rows = [(f"layer {row['layer']}", row["histogram"]) for row in weights["layers"]]
    return small_histograms(rows, width, "Histograms of the weights of each layer, in standard deviations from -5 to 5")


def _layers(weights: dict[str, Any], width: int) -> Markup:
    series = [
        Series(label, [(row["layer"], row["errors"][label]) for row in weights["layers"]]) for label in LAYER_SCHEMES
    ]
    return lines(series, width, 320, "layer", "relative error")


def _perplexity(rows: list[dict[str, Any]], width: int) -> Markup:
    close = [row for row in rows if row["difference"] < 1.0]
    return points(
        [Point(row["format"], row["bytes"] / 1e6, row["difference"], row["low"], row["high"]) for row in close],
        width,
        360,
        "size of the model, MB",
        "loss beyond fp32, nats a token",
    )
