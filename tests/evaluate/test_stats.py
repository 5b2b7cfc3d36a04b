"""Intervals and tests against hand arithmetic, published tables and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from burnish.evaluate import stats

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def rng() -> np.random.Generator:
    return stats.stream(7, "test")


def test_wilson_of_8_in_10_is_the_hand_computed_interval() -> None:
    # z = 1.96: centre = (0.8 + 0.19208) / 1.38416 = 0.71674; half = 1.96 / 1.38416 * sqrt(0.016 + 0.009604) = 0.22658
    assert stats.wilson(8, 10) == pytest.approx((0.8, 0.49016, 0.94332), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert stats.wilson(successes, n)[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_lies_in_the_unit_interval_around_its_value(counts: tuple[int, int]) -> None:
    value, low, high = stats.wilson(*counts)
    assert 0 <= low <= value <= high <= 1
    assert low < high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        stats.wilson(successes, n)


def test_mcnemar_of_five_to_one_is_fourteen_in_sixty_four() -> None:
    # P(X <= 1) for six fair coins is (1 + 6) / 64; twice that.
    assert stats.mcnemar_p(5, 1) == 14 / 64


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_the_binomial_test_of_scipy_and_is_symmetric(only_a: int, only_b: int) -> None:
    if only_a + only_b == 0:
        assert stats.mcnemar_p(0, 0) == 1.0
        return
    expected = scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert stats.mcnemar_p(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert stats.mcnemar_p(only_a, only_b) == stats.mcnemar_p(only_b, only_a)


def test_mcnemar_of_many_thousand_rows_does_not_overflow() -> None:
    assert 0 <= stats.mcnemar_p(9_000, 8_000) < 1e-10


def test_newcombe_gives_the_published_interval_of_the_consolidation_trial() -> None:
    # Cavo et al. 2012 in Fagerland, Lydersen, Laake 2017, chapter 8: -0.0621 (-0.1186 to -0.0046).
    both, only_a, only_b, neither = 59, 6, 16, 80
    assert (only_a - only_b) / 161 == pytest.approx(-0.0621, abs=5e-5)
    assert stats.newcombe(both, only_a, only_b, neither) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


CELLS = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0)


@given(CELLS)
def test_newcombe_holds_the_difference_and_mirrors_when_the_subjects_are_swapped(
    cells: tuple[int, int, int, int],
) -> None:
    both, only_a, only_b, neither = cells
    difference = (only_a - only_b) / sum(cells)
    low, high = stats.newcombe(both, only_a, only_b, neither)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    swapped = stats.newcombe(both, only_b, only_a, neither)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)


def test_paired_binary_counts_each_row_once() -> None:
    a = np.array([True, True, True, False, True, True, True, False])
    b = np.array([True, False, False, False, False, False, False, True])
    # both 1, only a 5, only b 1, neither 1
    found = stats.paired_binary(a, b)
    assert found.difference == 0.5
    assert found[1:3] == stats.newcombe(1, 5, 1, 1)
    assert found.p == 14 / 64


def test_pairs_from_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        stats.paired_binary(np.array([True]), np.array([True, False]))


def test_bca_limits_equal_scipys_on_the_same_resamples() -> None:
    values = np.random.default_rng(1).exponential(size=40)
    start = scipy.stats.bootstrap((values,), np.mean, method="BCa", n_resamples=5_000, rng=2)
    without_one = (values.sum() - values) / 39
    found = stats.bca(float(values.mean()), start.bootstrap_distribution, without_one)
    assert found == pytest.approx(tuple(start.confidence_interval), rel=1e-9)


def test_a_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).beta(2, 1, size=60)
    expected = scipy.stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=4).confidence_interval
    found = stats.bounded_mean(values, rng())
    assert found.value == pytest.approx(values.mean())
    # Two independent sets of resamples: the limits differ by their Monte Carlo error, 1.2% of the interval.
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.06 * (expected.high - expected.low))


def test_a_bootstrap_of_a_ratio_agrees_with_scipy() -> None:
    source = np.random.default_rng(5)
    tokens = source.integers(5, 50, size=80).astype(float)
    nats = tokens * source.gamma(4.0, 0.5, size=80)
    expected = scipy.stats.bootstrap(
        (nats, tokens),
        lambda s, w, axis: s.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=20_000,
        rng=6,
    ).confidence_interval
    found = stats.ratio(nats, tokens, rng())
    assert found.value == pytest.approx(nats.sum() / tokens.sum())
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.06 * (expected.high - expected.low))


def test_bca_limits_of_a_skewed_sample_are_shifted_toward_the_long_tail() -> None:
    values = np.random.default_rng(8).exponential(size=30)
    value, low, high = stats.ratio(values, np.ones(30), rng())
    assert high - value > value - low


@pytest.mark.slow
def test_bootstrap_intervals_hold_the_truth_about_95_times_in_100() -> None:
    source = np.random.default_rng(9)
    held = 0
    for repeat in range(200):
        tokens = source.integers(5, 50, size=100).astype(float)
        low, high = stats.ratio(tokens * source.gamma(4.0, 0.5, size=100), tokens, stats.stream(repeat, "coverage"))[1:]
        held += low <= 2.0 <= high
    assert 180 <= held <= 199


@given(SHARES)
def test_a_bounded_mean_lies_in_an_interval_within_0_and_1(values: list[float]) -> None:
    value, low, high = stats.bounded_mean(np.array(values), rng())
    assert 0 <= low <= high <= 1
    assert value == pytest.approx(float(np.mean(values)))


@pytest.mark.parametrize("same", [0.0, 0.5, 1.0])
def test_rows_that_are_all_alike_do_not_claim_certainty(same: float) -> None:
    value, low, high = stats.bounded_mean(np.full(60, same), rng())
    assert (value, low, high) == stats.wilson(60 * same, 60)
    assert high - low > 0.05


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [-0.1]])
def test_a_bounded_mean_refuses_values_outside_0_and_1(values: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.bounded_mean(np.array(values), rng())


def test_a_ratio_weighs_rows_by_their_tokens_and_ignores_rows_without_any() -> None:
    value, low, high = stats.ratio(np.array([2.0, 30.0, 0.0]), np.array([1.0, 10.0, 0.0]), rng())
    assert value == 32 / 11
    assert 2.0 <= low <= value <= high <= 3.0


def test_a_ratio_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        stats.ratio(np.array([0.0]), np.array([0.0]), rng())


def test_one_row_says_nothing_about_its_spread() -> None:
    assert stats.ratio(np.array([6.0]), np.array([3.0]), rng()) == (2.0, 2.0, 2.0)


def test_sign_flips_of_three_rows_are_counted_by_hand() -> None:
    # Sums of +-1 +-2 +-4: all eight differ; |sum| >= 7 holds for +++ and ---.
    assert stats.sign_flip_p(np.array([1.0, 2.0, 4.0]), rng()) == 2 / 8
    # Observed -1 + 2 + 4 = 5: the sums 7, 5, -5 and -7 reach it.
    assert stats.sign_flip_p(np.array([-1.0, 2.0, 4.0]), rng()) == 4 / 8


@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=9))
def test_exact_sign_flips_equal_scipys_permutation_test(differences: list[float]) -> None:
    values = np.array(differences)
    if not values.any():
        assert stats.sign_flip_p(values, rng()) == 1.0
        return
    expected = scipy.stats.permutation_test(
        (values, np.zeros_like(values)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    assert stats.sign_flip_p(values, rng()) == pytest.approx(expected)


def test_random_sign_flips_agree_with_the_t_test_on_normal_differences() -> None:
    values = np.random.default_rng(10).normal(0.25, 1.0, size=80)
    expected = scipy.stats.ttest_1samp(values, 0.0).pvalue
    # The standard error of a share of 10,000 patterns is below 0.005.
    assert stats.sign_flip_p(values, rng()) == pytest.approx(expected, abs=0.01)


def test_a_permutation_p_is_never_zero() -> None:
    assert stats.sign_flip_p(np.ones(200), rng()) == 1 / 10_001


def test_pairing_finds_a_small_steady_gain_that_unpaired_intervals_hide() -> None:
    source = np.random.default_rng(11)
    hard = source.uniform(0.1, 0.8, size=100)
    a, b = hard + 0.05 + source.normal(0, 0.02, size=100), hard
    apart = stats.bounded_mean(a, rng()).low < stats.bounded_mean(b, rng()).high
    found = stats.paired_bounded(a, b, rng())
    assert apart
    assert 0.04 < found.low < found.difference < found.high < 0.06
    assert found.p < 0.001


def test_a_steady_difference_of_bounded_means_does_not_claim_certainty() -> None:
    found = stats.paired_bounded(np.ones(60), np.zeros(60), rng())
    assert found.difference == found.high == 1.0
    assert 0.9 < found.low < 0.95
    same = stats.paired_bounded(np.ones(60), np.ones(60), rng())
    assert (same.difference, same.p) == (0.0, 1.0)
    assert same.low == pytest.approx(-same.high)
    assert 0.05 < same.high < 0.1


def test_a_paired_ratio_is_the_difference_of_the_two_ratios() -> None:
    source = np.random.default_rng(12)
    tokens = source.integers(5, 40, size=50).astype(float)
    a, b = tokens * source.gamma(4.0, 0.5, size=50), tokens * source.gamma(4.0, 0.7, size=50)
    found = stats.paired_ratio(a, b, tokens, rng())
    assert found.difference == pytest.approx(a.sum() / tokens.sum() - b.sum() / tokens.sum())
    assert found.low < found.difference < found.high < 0
    mirrored = stats.paired_ratio(b, a, tokens, rng())
    assert mirrored.p == found.p
    assert mirrored[:3] == pytest.approx((-found.difference, -found.high, -found.low), abs=0.01)


def test_everything_random_comes_from_the_seed_and_the_labels() -> None:
    values = np.random.default_rng(13).uniform(size=50)
    once = stats.bounded_mean(values, stats.stream(1, "test", "field_f1", "base"))
    assert once == stats.bounded_mean(values, stats.stream(1, "test", "field_f1", "base"))
    assert once != stats.bounded_mean(values, stats.stream(2, "test", "field_f1", "base"))
    assert once != stats.bounded_mean(values, stats.stream(1, "test", "field_f1", "tuned"))


def test_many_rows_are_resampled_in_parts_that_add_up() -> None:
    values = np.random.default_rng(14).uniform(size=3_000)
    value, low, high = stats.bounded_mean(values, rng())
    half = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.1 * half)
