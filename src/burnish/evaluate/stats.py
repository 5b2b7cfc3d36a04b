"""Intervals and paired tests for scores on a fixed set of rows. numpy only; everything random comes from a seed.

A score is either a share of rows (`wilson`), a mean over rows that lies in [0, 1] (`bounded_mean`), or a ratio of two
sums over rows such as nats per token (`ratio`). Two subjects graded on the same rows are compared by their paired
difference, which cancels how hard the rows are (Miller 2024, arXiv 2411.00640). All intervals are at 95%, all p
values two-sided.

Sources: Wilson 1927, JASA 22:209; Newcombe 1998, Statistics in Medicine 17:2635 (paired proportions, method 10);
McNemar 1947, Psychometrika 12:153, in its exact binomial form; Efron and Tibshirani 1993, An Introduction to the
Bootstrap, chapter 14 (BCa); Phipson and Smyth 2010, SAGMB 9:39 (p values of random permutations are never 0).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.proportions import NORMAL, Estimate, Z, square_and_add, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 10_000
"""Bootstrap resamples, and random sign patterns of the permutation test."""
CELLS_AT_ONCE = 2_000_000
"""Drawn row numbers held at once: bounds the memory (16 MB of indices) however many rows there are."""
MOST_ENUMERATED = 13
"""Up to this many rows all 2^13 = 8,192 sign patterns are tried, fewer than `RESAMPLES` random ones, and p is exact."""


class Difference(NamedTuple):
    """A paired difference a - b with its 95% interval and the two-sided p value of "there is none"."""

    difference: float
    low: float
    high: float
    p: float


def stream(seed: int, *labels: str) -> np.random.Generator:
    """Return the random numbers of one estimate: the same for the same seed and labels, independent for others."""
    digest = hashlib.sha256("\0".join(labels).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


# ---------------------------------------------------------------------------------------------------- proportions


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p value for `only_a` rows that a alone got right and `only_b` that b alone did.

    Under "no difference" each such row is a fair coin: p = 2 P(X <= min) for X ~ Binomial(only_a + only_b, 1/2), at
    most 1. Whole numbers throughout, so that no count is too large.
    """
    flips = only_a + only_b
    ways = tail = 1
    for k in range(min(only_a, only_b)):
        ways = ways * (flips - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**flips)


def paired_binary(a: Bools, b: Bools) -> Difference:
    """Return the difference of two shares on the same rows: Newcombe's interval and McNemar's exact p.

    a, b: right or wrong for each row, the same rows in the same order.
    """
    n = _same_rows(a, b)
    both, only_a = int(np.sum(a & b)), int(np.sum(a & ~b))
    only_b, neither = int(np.sum(~a & b)), int(np.sum(~a & ~b))
    low, high = newcombe(both, only_a, only_b, neither)
    return Difference((only_a - only_b) / n, low, high, mcnemar_p(only_a, only_b))


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Return Newcombe's 95% interval (1998, method 10: square and add) for the difference of two paired shares.

    The Wilson limits of each share are combined as two sides of a triangle whose angle is the correlation phi of the
    pairs; a positive phi is first reduced by a continuity correction of n/2.
    """
    n = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    product = both * neither - only_a * only_b
    corrected = max(product - n / 2, 0.0) if product > 0 else float(product)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    return square_and_add(wilson(both + only_a, n), wilson(both + only_b, n), phi)


# ----------------------------------------------------------------------------------------------- means and ratios


def bounded_mean(values: Floats, rng: np.random.Generator) -> Estimate:
    """Return the mean of values in [0, 1], one for each row, with its BCa bootstrap interval.

    When all rows have the same value a bootstrap sees no spread and would claim certainty; Wilson's interval, which
    is conservative for means of such values, is given instead.

    Raises ValueError when there is no row or a value outside [0, 1].
    """
    if values.size == 0 or values.min() < 0 or values.max() > 1:
        raise ValueError("a bounded mean needs at least one value, all between 0 and 1")
    if values.min() == values.max():
        return wilson(float(values[0]) * values.size, values.size)
    value, low, high = ratio(values, np.ones_like(values), rng)
    return Estimate(value, max(0.0, low), min(1.0, high))


def ratio(sums: Floats, weights: Floats, rng: np.random.Generator) -> Estimate:
    """Return sum(sums) / sum(weights) with the BCa interval of a bootstrap over rows.

    sums, weights: one of each for a row, such as summed nats and the number of tokens they were summed over; rows of
    weight 0 add nothing and are left out. With a single row, or rows that all have the same ratio, the interval is
    the value itself: the rows say nothing about their spread.

    Raises ValueError when no row has a weight.
    """
    counted = weights > 0
    sums, weights = sums[counted], weights[counted]
    if sums.size == 0:
        raise ValueError("a ratio needs at least one row with a weight above 0")
    value = float(sums.sum() / weights.sum())
    per_row = sums / weights
    if np.ptp(per_row) == 0:
        return Estimate(value, value, value)
    without_one = (sums.sum() - sums) / (weights.sum() - weights)
    low, high = bca(value, _resampled_ratios(sums, weights, rng), without_one)
    return Estimate(value, low, high)


def bca(value: float, resampled: Floats, without_one: Floats) -> tuple[float, float]:
    """Return the bias-corrected and accelerated 95% limits (Efron and Tibshirani 1993, equation 14.10).

    value: the estimate; resampled: the same on each bootstrap resample; without_one: the same with each row left out.
    """
    # Ties count half, so that a symmetric discrete distribution has no bias; the ends keep the quantile finite.
    below = float(np.mean(resampled < value) + np.mean(resampled == value) / 2)
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / resampled.size), 1 - 0.5 / resampled.size))
    pull = without_one.mean() - without_one
    spread = float(np.sum(pull**2)) ** 1.5
    acceleration = float(np.sum(pull**3)) / (6 * spread) if spread else 0.0
    levels = [_bca_level(bias, acceleration, z) for z in (-Z, Z)]
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def _bca_level(bias: float, acceleration: float, z: float) -> float:
    shrink = 1 - acceleration * (bias + z)
    # Beyond this pole the corrected level has run past the end of the distribution.
    return NORMAL.cdf(bias + (bias + z) / shrink) if shrink > 0 else float(z > 0)


def paired_bounded(a: Floats, b: Floats, rng: np.random.Generator) -> Difference:
    """Return the difference of two means of values in [0, 1] on the same rows: BCa interval, sign-flip permutation p.

    When every row has the same difference a bootstrap would claim certainty; Wilson's intervals of the two means,
    squared and added as if uncorrelated, are given instead.
    """
    n = _same_rows(a, b)
    if np.ptp(a - b) > 0:
        return paired_ratio(a, b, np.ones_like(a), rng)
    low, high = square_and_add(wilson(float(a.sum()), n), wilson(float(b.sum()), n), phi=0.0)
    return Difference(float(np.mean(a - b)), low, high, sign_flip_p(a - b, rng))


def paired_ratio(a: Floats, b: Floats, weights: Floats, rng: np.random.Generator) -> Difference:
    """Return sum(a) / sum(weights) - sum(b) / sum(weights) on the same rows: BCa interval and sign-flip permutation p.

    a, b: one sum for each row and subject, such as nats; weights: what both are summed over, such as tokens.
    """
    _same_rows(a, b)
    _same_rows(a, weights)
    differences = a - b
    estimate = ratio(differences, weights, rng)
    return Difference(*estimate, p=sign_flip_p(differences, rng))


def sign_flip_p(differences: Floats, rng: np.random.Generator) -> float:
    """Return the two-sided p value of the paired permutation test: how often random signs reach the observed |sum|.

    Under "no difference" swapping the two subjects in a row changes the sign of its difference and nothing else.
    Exact up to 13 rows that differ; above, of 10,000 random patterns, counting the observed one, so that p is never
    0.
    """
    moved = differences[differences != 0]
    if moved.size == 0:
        return 1.0
    # A pattern that gives the observed sum in another order of additions must count as reaching it.
    reach = abs(float(moved.sum())) * (1 - 1e-12)
    if moved.size <= MOST_ENUMERATED:
        patterns = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ moved) >= reach))
    reached = 0
    for size in _chunks(moved.size):
        signs = 2 * rng.integers(0, 2, size=(size, moved.size), dtype=np.int8) - 1
        reached += int(np.sum(np.abs(signs @ moved) >= reach))
    return (reached + 1) / (RESAMPLES + 1)


def _resampled_ratios(sums: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    parts: list[Floats] = []
    for size in _chunks(sums.size):
        rows = rng.integers(0, sums.size, size=(size, sums.size))
        parts.append(sums[rows].sum(axis=1) / weights[rows].sum(axis=1))
    return np.concatenate(parts)


def _chunks(rows: int) -> Sequence[int]:
    """Return how many resamples to draw at once, so that the parts add up to `RESAMPLES` and fit `CELLS_AT_ONCE`."""
    size = max(1, min(RESAMPLES, CELLS_AT_ONCE // rows))
    whole, rest = divmod(RESAMPLES, size)
    return [size] * whole + [rest] * (rest > 0)


def _same_rows(a: NDArray[np.generic], b: NDArray[np.generic]) -> int:
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired values must come from the same rows, at least one: shapes {a.shape} and {b.shape}")
    return int(a.size)
