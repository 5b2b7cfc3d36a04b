"""What the weights of a base look like, matrix by matrix and layer by layer, and what rounding them loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burnish.core.errors import BaseModelError
from burnish.plan.inspect.rounding import Array, Scheme, asymmetric_error, relative_error, round_weights, schemes

BINS = 41
SPAN = 5.0
"""The histogram reaches from -5 to 5 standard deviations; what lies beyond is counted in the outermost bins."""
SAMPLE = 32_768
"""Weights of a matrix whose rounding is measured: whole rows, evenly spaced. Statistics and histograms take all."""
GAIN_FOR_ZERO_POINT = 0.2
"""A zero point fits when it takes away at least this share of the error: a third of a bit. The extremes of symmetric weights
differ by chance, which gains up to a tenth; weights all on one side gain a half, one bit."""


@dataclass
class Matrix:
    """One weight matrix: its distribution, and the relative error of every scheme. `power` is the sum of squares."""

    name: str
    layer: int
    shape: tuple[int, int]
    mean: float
    deviation: float
    low: float
    high: float
    kurtosis: float
    histogram: list[int]
    symmetric_error: float
    asymmetric_error: float
    power: float
    errors: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def fits(self) -> str:
        """Whether whole numbers fit better with a zero point, or as well without one."""
        gains = self.asymmetric_error < (1 - GAIN_FOR_ZERO_POINT) * self.symmetric_error
        return "asymmetric" if gains else "symmetric"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "layer": self.layer,
            "shape": list(self.shape),
            "mean": self.mean,
            "deviation": self.deviation,
            "low": self.low,
            "high": self.high,
            "kurtosis": self.kurtosis,
            "histogram": self.histogram,
            "fits": self.fits,
            "symmetric_error": self.symmetric_error,
            "asymmetric_error": self.asymmetric_error,
            "errors": self.errors,
        }


def look(
    matrices: Iterable[tuple[str, Array]],
    layer_of: Callable[[str], int | None],
    *,
    sample: int = SAMPLE,
    progress: Callable[[int], None] | None = None,
) -> list[Matrix]:
    """Return a Matrix for each (name, weights). `progress` is told how many are done.

    Raises BaseModelError for values that are not finite.
    """
    found: list[Matrix] = []
    for name, weights in matrices:
        if not np.isfinite(weights).all():
            raise BaseModelError(f"{name} holds values that are not finite: the weights are damaged.")
        found.append(_look_at(name, layer_of(f"{name}.weight") or 0, weights, sample))
        if progress is not None:
            progress(len(found))
    return found


def _look_at(name: str, layer: int, weights: Array, sample: int) -> Matrix:
    mean, deviation = float(weights.mean()), float(weights.std())
    standard = (weights - mean) / deviation if deviation else np.zeros_like(weights)
    edges = np.linspace(-SPAN, SPAN, BINS + 1)
    counts = np.histogram(np.clip(standard, -SPAN, SPAN), edges)[0]
    rows = sampled_rows(weights, sample)
    plain, shifted = asymmetric_error(rows)
    matrix = Matrix(
        name,
        layer,
        (weights.shape[0], weights.shape[1]),
        mean,
        deviation,
        float(weights.min()),
        float(weights.max()),
        float((standard.astype(np.float64) ** 4).mean()),
        [int(count) for count in counts],
        plain,
        shifted,
        float((rows.astype(np.float64) ** 2).sum()),
    )
    for scheme in schemes():
        matrix.errors[scheme.label] = relative_error(rows, round_weights(rows, scheme))
    return matrix


def sampled_rows(weights: Array, sample: int) -> Array:
    """Return evenly spaced whole rows that hold about `sample` weights; 0 returns all."""
    rows = weights.shape[0]
    wanted = max(1, sample // weights.shape[1]) if sample else rows
    if wanted >= rows:
        return np.ascontiguousarray(weights)
    places = [round(place * (rows - 1) / max(1, wanted - 1)) for place in range(wanted)]
    return np.ascontiguousarray(weights[places])


def layer_rows(matrices: Sequence[Matrix]) -> list[dict[str, Any]]:
    """Return a row for each layer: its histogram, how its weights fit, and the error of each scheme over all its matrices."""
    rows: list[dict[str, Any]] = []
    for layer in sorted({matrix.layer for matrix in matrices}):
        own = [matrix for matrix in matrices if matrix.layer == layer]
        rows.append(
            {
                "layer": layer,
                "histogram": [sum(counts) for counts in zip(*(m.histogram for m in own), strict=True)],
                "deviation": math.sqrt(sum(m.deviation**2 for m in own) / len(own)),
                "kurtosis": max(m.kurtosis for m in own),
                "asymmetric": [m.name for m in own if m.fits == "asymmetric"],
                "errors": pooled_errors(own),
            }
        )
    return rows


def pooled_errors(matrices: Sequence[Matrix]) -> dict[str, float]:
    """Return the relative error of each scheme over several matrices together: sqrt(sum |e|^2 / sum |w|^2)."""
    power = sum(matrix.power for matrix in matrices)
    if not power:
        return dict.fromkeys(matrices[0].errors, 0.0)
    return {
        label: math.sqrt(sum(m.errors[label] ** 2 * m.power for m in matrices) / power) for label in matrices[0].errors
    }


def scheme_rows(matrices: Sequence[Matrix]) -> list[dict[str, Any]]:
    """Return a row for each scheme over the whole model: bits a weight, relative error, signal to noise in dB."""
    errors = pooled_errors(matrices)
    weights = sum(m.shape[0] * m.shape[1] for m in matrices)
    rows: list[dict[str, Any]] = []
    for scheme in schemes():
        bits = sum(scheme.bits_per_weight(*m.shape) * m.shape[0] * m.shape[1] for m in matrices) / weights
        error = errors[scheme.label]
        rows.append(
            {
                "format": scheme.format,
                "granularity": scheme.granularity,
                "calibration": scheme.calibration,
                "bits_per_weight": bits,
                "relative_error": error,
                "decibels": -20 * math.log10(error) if error else None,
            }
        )
    return rows


PERPLEXITY_SCHEMES = (
    Scheme("int8", "tensor", "absmax"),
    Scheme("int8", "channel", "absmax"),
    Scheme("fp8", "channel", "absmax"),
    Scheme("nf4", "group", "absmax"),
    Scheme("int4", "group", "mse"),
    Scheme("int4", "group", "absmax"),
    Scheme("int4", "channel", "mse"),
    Scheme("int4", "channel", "absmax"),
)
"""Schemes whose perplexity is measured, beside fp32, bf16 and NF4 with double quantisation."""
