"""A share with its interval: Wilson's score interval (Wilson 1927, JASA 22:209) at 95%. Standard library only."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.5 + LEVEL / 2)
"""The 97.5% point of the standard normal distribution, 1.95996."""


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, n: int) -> Estimate:
    """Return the share `successes / n` with Wilson's score interval (without continuity correction).

    `successes` may be the sum of values in [0, 1]: for a mean m their variance is at most m(1 - m) (Bhatia and Davis
    2000), so the interval is then wider than it need be, never narrower.

    Raises ValueError when n is 0 or successes does not lie between 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are no proportion: at least one row, and 0 to n successes")
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At 0 and n of n the limit is exactly 0 and 1, which rounding would miss by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return Estimate(share, low, 1.0 if successes == n else min(1.0, centre + half))


def shares_differ(a: int, of_a: int, b: int, of_b: int) -> Estimate:
    """Return the difference a / of_a - b / of_b of two independent shares with Newcombe's 95% interval.

    Method 10 of Newcombe 1998, Statistics in Medicine 17:873: Wilson's limits of both, squared and added.
    """
    low, high = square_and_add(wilson(a, of_a), wilson(b, of_b), 0.0)
    return Estimate(a / of_a - b / of_b, low, high)


def square_and_add(a: Estimate, b: Estimate, phi: float) -> tuple[float, float]:
    """Return the limits of a - b from those of both, whose errors have the correlation phi: third sides of triangles."""
    below = _third_side(a.value - a.low, b.high - b.value, phi)
    above = _third_side(a.high - a.value, b.value - b.low, phi)
    return max(-1.0, a.value - b.value - below), min(1.0, a.value - b.value + above)


def _third_side(x: float, y: float, cosine: float) -> float:
    return math.sqrt(max(0.0, x**2 - 2 * cosine * x * y + y**2))
