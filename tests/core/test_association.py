"""Tests of independence against scipy, against hand arithmetic, and their effect sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from burnish.core.association import NONE, association, chi_square_p, cohen_h, fisher_p, holm

COUNT = st.integers(0, 60)


@settings(deadline=None)
@given(st.floats(0, 900), st.integers(1, 60))
def test_the_tail_of_chi_square_is_scipys(statistic: float, df: int) -> None:
    assert chi_square_p(statistic, df) == pytest.approx(stats.chi2.sf(statistic, df), rel=1e-9, abs=1e-290)


@settings(deadline=None)
@given(COUNT, COUNT, COUNT, COUNT)
def test_fishers_exact_test_is_scipys(a: int, b: int, c: int, d: int) -> None:
    assert fisher_p(a, b, c, d) == pytest.approx(stats.fisher_exact([[a, b], [c, d]]).pvalue, rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(40, 400), min_size=3, max_size=3), min_size=2, max_size=4))
def test_a_table_with_large_counts_gives_pearsons_chi_square(table: list[list[int]]) -> None:
    found = association(table)
    expected = stats.chi2_contingency(np.array(table), correction=False)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert found.df == expected.dof
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.v == pytest.approx(stats.contingency.association(np.array(table), method="cramer"), abs=1e-9)


def test_small_columns_are_taken_together_and_a_small_table_gets_the_exact_p() -> None:
    found = association([[3, 0, 0, 1], [0, 2, 1, 1]])
    assert found.df == 1
    assert found.p == pytest.approx(stats.fisher_exact([[3, 1], [0, 4]]).pvalue)


def test_tables_that_say_nothing() -> None:
    assert association([[5, 0], [7, 0]]) == NONE
    assert association([[5, 2]]) == NONE
    assert association([[0, 0], [3, 4]]) == NONE
    with pytest.raises(ValueError, match="rows of one length"):
        association([[1, 2], [1]])
    with pytest.raises(ValueError, match="below 0"):
        association([[1, -2], [1, 1]])


def test_perfect_association_has_effect_size_one() -> None:
    assert association([[50, 0], [0, 50]]).v == pytest.approx(1.0)
    assert cohen_h(0.5, 0.5) == 0
    assert cohen_h(1, 0) == pytest.approx(math.pi)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_are_no_smaller_and_keep_their_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= a <= 1 for p, a in zip(ps, adjusted, strict=True))
    assume(len(set(ps)) == len(ps))
    order = sorted(range(len(ps)), key=ps.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)
