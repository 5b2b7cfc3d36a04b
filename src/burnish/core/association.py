"""Whether two properties of rows go together, and how strongly: chi-square, Fisher's exact test, effect sizes.

With many rows every difference is significant, so each test comes with an effect size that does not grow with them: Cramer's
V (0.1 is called small, 0.3 medium, 0.5 large for two categories) and Cohen's h (0.2, 0.5, 0.8); both after Cohen 1988,
Statistical Power Analysis for the Behavioral Sciences, chapters 6 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEAST_EXPECTED, MOST_SMALL = 5.0, 0.2
"""The chi-square approximation is trusted where at most a fifth of the cells expects fewer than 5, and none fewer than 1 (Cochran
1954, Biometrics 10:417)."""


class Association(NamedTuple):
    """How two properties go together: Pearson's chi-square, degrees of freedom, p value, Cramer's V from 0 to 1."""

    statistic: float
    df: int
    p: float
    v: float


NONE = Association(0.0, 0, 1.0, 0.0)
"""Of a table that has fewer than two rows or two columns with anything in them."""


def association(table: Sequence[Sequence[int]]) -> Association:
    """Return whether the columns' shares differ between the rows of a table of counts.

    Columns that are too small for the approximation are taken together, smallest first. A table of two by two that is still too
    small gets the p value of Fisher's exact test. Raises ValueError when rows have different lengths or a count is below 0.
    """
    if len({len(row) for row in table}) > 1 or any(count < 0 for row in table for count in row):
        raise ValueError("a table of counts has rows of one length and no count below 0")
    rows = [list(row) for row in table if sum(row)]
    columns = _pooled([list(column) for column in zip(*rows, strict=True) if sum(column)])
    if len(rows) < 2 or len(columns) < 2:
        return NONE
    of_rows = [sum(column[number] for column in columns) for number in range(len(rows))]
    total = sum(of_rows)
    statistic = 0.0
    for column in columns:
        for count, of_row in zip(column, of_rows, strict=True):
            expected = sum(column) * of_row / total
            statistic += (count - expected) ** 2 / expected
    df = (len(rows) - 1) * (len(columns) - 1)
    v = math.sqrt(statistic / (total * (min(len(rows), len(columns)) - 1)))
    p = chi_square_p(statistic, df)
    if df == 1 and min(_expected(columns)) < LEAST_EXPECTED:
        p = fisher_p(columns[0][0], columns[0][1], columns[1][0], columns[1][1])
    return Association(statistic, df, p, min(1.0, v))


def chi_square_p(statistic: float, df: int) -> float:
    """Return P(X >= statistic) for X with the chi-square distribution of a whole number of degrees of freedom.

    For whole df the tail is a finite sum (Abramowitz and Stegun 26.4.4 and 26.4.5).
    """
    if df < 1 or statistic < 0:
        raise ValueError(f"chi-square has 1 degree of freedom or more and is 0 or more: {statistic}, {df}")
    half = statistic / 2
    if df % 2:
        tail = math.erfc(math.sqrt(half))
        term = math.sqrt(half) / math.gamma(1.5) * math.exp(-half) if half < 700 else 0.0
        steps, first = (df - 1) // 2, 1.5
    else:
        tail = 0.0
        term = math.exp(-half) if half < 700 else 0.0
        steps, first = df // 2, 1.0
    for step in range(steps):
        tail += term
        term *= half / (first + step)
    return min(1.0, tail)


def fisher_p(a: int, b: int, c: int, d: int) -> float:
    """Return the two-sided p value of Fisher's exact test for the table [[a, b], [c, d]].

    The sum of the chances of all tables with the same margins that are no more likely than this one.
    """
    first, column, total = a + b, a + c, a + b + c + d
    low, high = max(0, first + column - total), min(first, column)

    def log_chance(x: int) -> float:
        return _log_choose(first, x) + _log_choose(total - first, column - x) - _log_choose(total, column)

    own = log_chance(a)
    found = sum(math.exp(chance) for x in range(low, high + 1) if (chance := log_chance(x)) <= own + 1e-7)
    return min(1.0, found)


def cohen_h(a: float, b: float) -> float:
    """Return the effect size of two shares: the difference of their arcsines, from -pi to pi."""
    return 2 * math.asin(math.sqrt(a)) - 2 * math.asin(math.sqrt(b))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted for how many were looked at (Holm 1979, Scandinavian Journal of Statistics 6:65), in their order."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted = [1.0] * len(ps)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def _pooled(columns: list[list[int]]) -> list[list[int]]:
    """Take the two smallest columns together until the approximation is to be trusted, or two columns are left."""
    while len(columns) > 2 and not _trusted(columns):
        columns.sort(key=sum, reverse=True)
        last = columns.pop()
        columns[-1] = [x + y for x, y in zip(columns[-1], last, strict=True)]
    return columns


def _trusted(columns: Sequence[Sequence[int]]) -> bool:
    expected = _expected(columns)
    return min(expected) >= 1 and sum(each < LEAST_EXPECTED for each in expected) <= MOST_SMALL * len(expected)


def _expected(columns: Sequence[Sequence[int]]) -> list[float]:
    rows = [sum(column[number] for column in columns) for number in range(len(columns[0]))]
    return [row * sum(column) / sum(rows) for row in rows for column in columns]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
