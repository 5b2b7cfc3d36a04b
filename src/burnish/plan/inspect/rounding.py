"""What rounding weights to few bits loses: formats, granularities and ways to choose the clipping threshold.

Weights (out, in) are cut into blocks that share a scale: all of a tensor, a channel (row), or a group of numbers in a row. A
block is divided by its threshold T over the format's largest code, rounded to the nearest code, and multiplied back.

- absmax: T = max|w|. percentile: T = the 99.9th percentile of |w|.
- mse: T from a grid of shares of max|w|, the one with the least squared error (as in ACIQ and OMSE searches).
- entropy: T whose clipped histogram loses least information (KL divergence) when merged to the format's levels
  (Migacz 2017, "8-bit inference with TensorRT"). Not for groups: a histogram of 64 numbers says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from burnish.plan.inspect.formats import E4M3, NF4_VALUES

Format = Literal["int8", "int4", "nf4", "fp8"]
Granularity = Literal["tensor", "channel", "group"]
Calibration = Literal["absmax", "percentile", "mse", "entropy"]
Array = NDArray[np.float32]

FORMATS: tuple[Format, ...] = ("int8", "fp8", "nf4", "int4")
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")
CALIBRATIONS: tuple[Calibration, ...] = ("absmax", "percentile", "mse", "entropy")
BITS: dict[Format, int] = {"int8": 8, "int4": 4, "nf4": 4, "fp8": 8}
LARGEST: dict[Format, float] = {"int8": 127.0, "int4": 7.0, "nf4": 1.0, "fp8": E4M3.largest}
"""The largest code: int8 and int4 use symmetric codes, the lowest left out."""
LEVELS: dict[Format, int] = {"int8": 128, "int4": 8, "nf4": 8, "fp8": 128}
"""Levels on one side of zero, to which the entropy calibration merges its histogram."""
GROUP = 64
PERCENTILE = 99.9
MSE_SHARES = tuple(round(1.0 - 0.05 * step, 2) for step in range(14))
"""Shares of max|w| that the mse calibration tries: 1.00 down to 0.35."""
ENTROPY_MERGES = (4, 5, 6, 7, 8, 10, 12, 14, 16)
"""Bins merged to a level; the histogram has 16 bins a level, so these are thresholds of 0.25 to 1 of max|w|."""
SCALE_BITS = 32
NF4_MIDDLES = (np.array(NF4_VALUES[:-1]) + np.array(NF4_VALUES[1:])) / 2


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store weights."""

    format: Format
    granularity: Granularity
    calibration: Calibration
    group: int = GROUP

    @property
    def label(self) -> str:
        """How it is called in tables: int4 group absmax."""
        return f"{self.format} {self.granularity} {self.calibration}"

    def bits_per_weight(self, outputs: int, inputs: int) -> float:
        """Bits a weight takes, its share of the float32 scales included."""
        blocks = {"tensor": 1, "channel": outputs, "group": outputs * -(-inputs // self.group)}[self.granularity]
        return BITS[self.format] + SCALE_BITS * blocks / (outputs * inputs)


def schemes() -> Iterator[Scheme]:
    """Yield every scheme that is defined: all but entropy over groups."""
    for form in FORMATS:
        for granularity in GRANULARITIES:
            for calibration in CALIBRATIONS:
                if not (calibration == "entropy" and granularity == "group"):
                    yield Scheme(form, granularity, calibration)


def round_weights(weights: Array, scheme: Scheme) -> Array:
    """Return the weights (out, in) as they are after being stored by the scheme and read back, float32."""
    blocks, mask = _blocks(weights, scheme)
    thresholds = _thresholds(blocks, mask, scheme)
    rounded = _round_blocks(blocks, thresholds, scheme.format)
    rows, columns = weights.shape
    return rounded.reshape(rows, -1)[:, :columns] if scheme.granularity == "group" else rounded.reshape(rows, columns)


def relative_error(weights: Array, rounded: Array) -> float:
    """Return |w - w'| / |w| over the whole matrix: 0 is lossless, and -20 log10 of it is the signal-to-noise ratio in dB."""
    norm = float(np.linalg.norm(weights))
    return float(np.linalg.norm(weights - rounded)) / norm if norm else 0.0


def asymmetric_error(weights: Array, bits: int = 8) -> tuple[float, float]:
    """Return the relative error of whole numbers per tensor without and with a zero point: symmetric, asymmetric."""
    half = 2 ** (bits - 1) - 1
    step = (float(np.max(np.abs(weights))) or 1.0) / half
    plain = np.round(weights / np.float32(step)) * np.float32(step)
    low, top = min(0.0, float(weights.min())), max(0.0, float(weights.max()))
    step = (top - low) / (2**bits - 1) or 1.0
    zero = round(-low / step)
    codes = np.clip(np.round(weights / np.float32(step)) + zero, 0, 2**bits - 1)
    return relative_error(weights, plain), relative_error(weights, (codes - zero) * np.float32(step))


def _blocks(weights: Array, scheme: Scheme) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return (blocks, numbers of a block), and which numbers are padding's opposite when rows do not divide evenly."""
    if scheme.granularity == "tensor":
        return weights.reshape(1, -1), None
    if scheme.granularity == "channel":
        return weights, None
    short = -weights.shape[1] % scheme.group
    if not short:
        return weights.reshape(-1, scheme.group), None
    padded = np.pad(weights, ((0, 0), (0, short)))
    real = np.pad(np.ones_like(weights, dtype=np.bool_), ((0, 0), (0, short)))
    return padded.reshape(-1, scheme.group), real.reshape(-1, scheme.group)


def _thresholds(blocks: Array, real: NDArray[np.bool_] | None, scheme: Scheme) -> Array:
    size = np.abs(blocks)
    high = size.max(axis=1, keepdims=True)
    high = np.where(high > 0, high, np.float32(1.0)).astype(np.float32)
    if scheme.calibration == "absmax":
        return high
    if scheme.calibration == "percentile":
        if real is None:
            cut = np.percentile(size, PERCENTILE, axis=1, keepdims=True)
        else:
            cut = np.nanpercentile(np.where(real, size, np.nan), PERCENTILE, axis=1, keepdims=True)
        return np.where(cut > 0, cut, high).astype(np.float32)
    if scheme.calibration == "mse":
        return _least_squares(blocks, high, scheme.format)
    return _least_divergence(size, high, LEVELS[scheme.format])


def _least_squares(blocks: Array, high: Array, form: Format) -> Array:
    best, best_error = high, np.full((len(blocks), 1), np.inf, dtype=np.float32)
    for share in MSE_SHARES:
        threshold = high * np.float32(share)
        error = ((blocks - _round_blocks(blocks, threshold, form)) ** 2).sum(axis=1, keepdims=True)
        best = np.where(error < best_error, threshold, best)
        best_error = np.minimum(error, best_error)
    return best


def _least_divergence(size: Array, high: Array, levels: int) -> Array:
    """Return thresholds (blocks, 1) by the KL divergence of the clipped histogram from the merged one."""
    bins = levels * ENTROPY_MERGES[-1]
    place = np.minimum((size / high * bins).astype(np.int64), bins - 1)
    flat = place + np.arange(len(size))[:, None] * bins
    counts = np.bincount(flat.ravel(), minlength=len(size) * bins).reshape(len(size), bins).astype(np.float64)
    counts[:, 0] = counts[:, 1]  # exact zeros say nothing about where to clip
    best = np.ones((len(size), 1))
    best_divergence = np.full((len(size), 1), np.inf)
    for merged in ENTROPY_MERGES:
        kept = counts[:, : levels * merged].copy()
        spread = kept.reshape(len(size), levels, merged)
        filled = spread > 0
        mean = spread.sum(axis=2, keepdims=True) / np.maximum(filled.sum(axis=2, keepdims=True), 1)
        model = np.where(filled, mean, 0.0).reshape(kept.shape)
        kept[:, -1] += counts[:, levels * merged :].sum(axis=1)
        divergence = _divergence(kept, model)
        better = divergence < best_divergence
        best = np.where(better, merged / ENTROPY_MERGES[-1], best)
        best_divergence = np.minimum(divergence, best_divergence)
    return (high * best).astype(np.float32)


def _divergence(seen: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    smooth = 1e-6
    p = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1.0)
    q = model / np.maximum(model.sum(axis=1, keepdims=True), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / np.maximum(q, smooth)), 0.0)
    return terms.sum(axis=1, keepdims=True)


def _round_blocks(blocks: Array, thresholds: Array, form: Format) -> Array:
    """Return the blocks rounded to the format's codes; thresholds (blocks, 1) are the values of the largest code."""
    largest = np.float32(LARGEST[form])
    scale = np.maximum(thresholds / largest, np.finfo(np.float32).tiny)
    codes: Array = np.clip(blocks / scale, -largest, largest).astype(np.float32)
    if form in ("int8", "int4"):
        return (np.round(codes) * scale).astype(np.float32)
    if form == "nf4":
        table = np.array(NF4_VALUES, dtype=np.float32)
        return table[np.searchsorted(NF4_MIDDLES, codes)] * scale
    return (round_e4m3(codes) * scale).astype(np.float32)


def round_e4m3(values: Array) -> Array:
    """Return the nearest FP8 E4M3 values, ties to even, saturating at 448."""
    _, exponent = np.frexp(np.abs(values))
    step = np.ldexp(np.float32(1.0), np.maximum(exponent - 1, 1 - E4M3.bias) - E4M3.mantissa_bits)
    return np.clip(np.round(values / step) * step, -E4M3.largest, E4M3.largest).astype(np.float32)
