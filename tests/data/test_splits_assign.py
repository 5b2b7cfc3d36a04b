"""A row's side depends on its own key; clusters stay whole; shares hold."""

from __future__ import annotations

import datetime
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.data.splits import told
from burnish.data.splits.assign import (
    TEST,
    TRAIN,
    VALIDATION,
    Shares,
    assign,
    cluster_positions,
    counts,
    crossing,
    named,
    short_strata,
    stratified,
)
from burnish.data.splits.positions import (
    MOST_UNITS,
    below,
    components,
    joined,
    kept_together,
    mix,
    position,
    positions,
    unmix,
)

KEYS = [f"row {number}" for number in range(20_000)]
ROWS = positions(KEYS)
WORDS = st.lists(st.text(max_size=3), max_size=40)


def within_noise(found: int, rows: int, share: float) -> bool:
    return abs(found - rows * share) <= 4 * (rows * share * (1 - share)) ** 0.5


def test_shares_hold_within_four_standard_deviations() -> None:
    found = counts(assign(ROWS, Shares(test=0.1, validation=0.05)))
    assert within_noise(found["test"], 20_000, 0.1)
    assert within_noise(found["validation"], 20_000, 0.05)
    assert sum(found.values()) == 20_000


@given(keys=WORDS, more=WORDS, test=st.floats(0, 0.5), validation=st.floats(0, 0.5))
def test_rows_never_move_when_others_come(keys: list[str], more: list[str], test: float, validation: float) -> None:
    shares = Shares(test, validation)
    assert np.array_equal(assign(positions(keys + more), shares)[: len(keys)], assign(positions(keys), shares))


@given(keys=WORDS, share=st.floats(0, 1))
def test_the_test_side_is_the_one_that_earlier_versions_held_out(keys: list[str], share: float) -> None:
    assert (assign(positions(keys), Shares(share)) == TEST).tolist() == [position(key) < share * 2**64 for key in keys]


@given(test=st.floats(0, 0.5), less=st.floats(0, 0.5), validation=st.floats(0, 0.5))
def test_changing_the_test_share_moves_rows_between_train_and_test_only_and_one_way(
    test: float, less: float, validation: float
) -> None:
    low, high = sorted((test, less))
    rows = ROWS[:500]
    before, after = assign(rows, Shares(low, validation)), assign(rows, Shares(high, validation))
    moved = before != after
    assert (before[moved] == TRAIN).all()
    assert (after[moved] == TEST).all()


def test_changing_one_share_moves_no_more_rows_than_it_must() -> None:
    before, after = assign(ROWS, Shares(0.1, 0.1)), assign(ROWS, Shares(0.15, 0.1))
    assert within_noise(int((before != after).sum()), 20_000, 0.05)


def test_a_salt_gives_another_split_and_the_same_salt_the_same() -> None:
    shares = Shares(0.5)
    a, b = assign(positions(KEYS, "a"), shares), assign(positions(KEYS, "b"), shares)
    assert within_noise(int((a == b).sum()), 20_000, 0.5)
    assert np.array_equal(a, assign(positions(KEYS, "a"), shares))


def test_positions_are_the_documented_bytes() -> None:
    # printf b | sha256sum begins 3e23e8160039594a
    assert position("b") == 0x3E23E8160039594A
    assert position("\ud800") == position("\ud800")


def test_all_and_nothing_are_shares_too() -> None:
    assert set(assign(ROWS, Shares(1.0))) == {TEST}
    assert set(assign(ROWS, Shares(0.0, 1.0))) == {VALIDATION}
    assert set(assign(ROWS, Shares(0.0))) == {TRAIN}


@pytest.mark.parametrize(("test", "validation"), [(-0.1, 0), (1.1, 0), (0.6, 0.6), (float("nan"), 0)])
def test_impossible_shares_are_errors(test: float, validation: float) -> None:
    with pytest.raises(DataError):
        Shares(test, validation)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_mix_is_a_bijection(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    assert np.array_equal(unmix(mix(array)), array)


def test_mix_is_split_mix() -> None:
    # SplitMix64 seeded with 0 gives first the finaliser of the golden gamma: e220a8397b1dcdaf.
    assert int(mix(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF


@given(count=st.integers(1, 30), pairs=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60))
@settings(max_examples=300)
def test_components_are_those_that_a_search_finds(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    lowest = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            lowest[a] = lowest[b] = min(lowest[a], lowest[b])
    assert components(count, np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist() == lowest


def test_a_long_chain_of_pairs_is_one_component_in_few_rounds() -> None:
    order = np.argsort(mix(np.arange(200_000, dtype=np.uint64)))
    began = time.perf_counter()
    assert not components(200_000, np.stack([order[:-1], order[1:]], axis=1)).any()
    assert time.perf_counter() - began < 20


def test_rows_joined_by_either_label_are_together() -> None:
    documents = np.array(["a", "a", "b", "b", "c"])
    near = np.array([1, 2, 2, 3, 4])  # a's second piece and b's first are near duplicates
    assert joined(documents, near).tolist() == [0, 0, 0, 0, 4]


@given(data=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 6)), max_size=60))
def test_clusters_never_cross(data: list[tuple[int, int]]) -> None:
    rows = np.array([row for row, _ in data], dtype=np.uint64)
    clusters = np.array([cluster for _, cluster in data], dtype=np.int64)
    strata = clusters % 2
    for sides in (
        assign(rows, Shares(0.3, 0.3), clusters=clusters),
        stratified(rows, strata, Shares(0.3, 0.3), clusters=clusters, exact=True),
    ):
        assert crossing(sides, clusters) == 0


def test_clusters_of_ten_are_tested_as_often_as_single_rows() -> None:
    sides = assign(ROWS, Shares(0.1), clusters=np.arange(20_000) // 10)
    assert within_noise(counts(sides)["test"] // 10, 2_000, 0.1)


def test_a_cluster_of_one_lies_where_its_row_lies() -> None:
    assert np.array_equal(cluster_positions(ROWS, np.arange(20_000)[::-1]), ROWS)


def test_a_cluster_moves_only_for_a_new_first_member() -> None:
    clusters = np.arange(20_000) % 2_000
    before = cluster_positions(ROWS[:18_000], clusters[:18_000])[:2_000]
    after = cluster_positions(ROWS, clusters)[:2_000]
    assert within_noise(int((before != after).sum()), 2_000, 0.1)  # one of ten members is new


@given(data=st.lists(st.integers(0, 4), max_size=80), test=st.floats(0, 0.5), validation=st.floats(0, 0.5))
def test_exact_strata_are_right_to_half_a_row(data: list[int], test: float, validation: float) -> None:
    strata = np.array(data, dtype=np.int64)
    sides = stratified(ROWS[: len(data)], strata, Shares(test, validation), exact=True)
    for label in set(data):
        mine = sides[strata == label]
        assert abs((mine == TEST).sum() - test * len(mine)) <= 0.5 + 1e-9
        if test + validation < 0.99:
            assert abs((mine == VALIDATION).sum() - validation * len(mine)) <= 1.0


def test_strata_hold_within_noise_by_position_and_those_that_do_not_are_named() -> None:
    strata = np.where(np.arange(20_000) < 19_990, "common", "rare")
    sides = stratified(ROWS, strata, Shares(0.1))
    assert np.array_equal(sides, assign(ROWS, Shares(0.1)))
    rare = int((sides[strata == "rare"] == TEST).sum())
    assert ("rare" in short_strata(sides, strata, Shares(0.1))) == (rare != 1)
    exact = stratified(ROWS, strata, Shares(0.1), exact=True)
    assert short_strata(exact, strata, Shares(0.1)) == {}


def days(*dates: str) -> np.ndarray:
    return np.array(dates, dtype="datetime64[D]")


def test_dates_cut_with_an_embargo_by_hand() -> None:
    sides = told.temporal(
        days("2025-01-01", "2025-01-28", "2025-01-31", "2025-02-01", "2025-02-27", "2025-03-01"),
        validation_from=datetime.date(2025, 2, 1),
        test_from=datetime.date(2025, 3, 1),
        embargo_days=3,
    )
    assert sides.tolist() == [TRAIN, TRAIN, told.EMBARGO, VALIDATION, told.EMBARGO, TEST]
    assert named(sides) == ["train", "train", None, "validation", None, "test"]


@given(
    dates=st.lists(st.dates(datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)), min_size=1),
    cut=st.dates(datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)),
    embargo=st.integers(0, 40),
)
def test_every_training_row_is_older_than_every_test_row_by_the_embargo(
    dates: list[datetime.date], cut: datetime.date, embargo: int
) -> None:
    array = np.array(dates, dtype="datetime64[D]")
    sides = told.temporal(array, test_from=cut, embargo_days=embargo)
    train, test = array[sides == TRAIN], array[sides == TEST]
    assert (test >= np.datetime64(cut)).all()
    assert (train < np.datetime64(cut) - np.timedelta64(embargo, "D")).all()
    assert len(test) == sum(day >= cut for day in dates)


def test_shares_of_time_cut_at_a_date() -> None:
    array = np.datetime64("2025-01-01") + np.arange(100)
    sides = told.temporal(array, shares=Shares(0.1, 0.2))
    assert counts(sides) == {"train": 70, "validation": 20, "test": 10}
    assert sides.tolist() == sorted(sides.tolist())


def test_rows_without_a_date_are_counted() -> None:
    with pytest.raises(DataError, match=r"2 of 3 rows have no date \(the first is row 2\)"):
        told.temporal(days("2025-01-01", "NaT", "NaT"), shares=Shares(0.1))


def test_a_training_row_gives_way_to_its_near_duplicate_that_is_tested() -> None:
    clusters = np.array([7, 8, 7])
    sides = told.temporal(
        days("2025-01-01", "2025-01-02", "2025-03-01"), test_from=datetime.date(2025, 2, 1), clusters=clusters
    )
    assert sides.tolist() == [told.CROSSED, TRAIN, TEST]
    assert crossing(sides, clusters) == 0


def test_two_ways_to_cut_or_none_are_errors() -> None:
    day = datetime.date(2025, 1, 1)
    said: list[dict[str, Any]] = [
        {},
        {"shares": Shares(0.1), "test_from": day},
        {"validation_from": day, "test_from": day},
    ]
    for arguments in said:
        with pytest.raises(DataError):
            told.temporal(days("2025-01-01"), **arguments)


@pytest.mark.parametrize(
    ("path", "held_out"),
    [
        ("data/test/a.jsonl", True),
        ("dev-00000-of-00001.parquet", True),
        ("train.jsonl", False),
        ("test/train.jsonl", True),
        ("contest.jsonl", False),
        ("train_and_test.jsonl", False),
        ("a\\valid.csv", True),
    ],
)
def test_a_file_may_say_by_its_name_that_it_is_held_out(path: str, held_out: bool) -> None:
    assert told.is_held_out(path) == held_out


@pytest.mark.parametrize(
    ("file", "location", "name"),
    [
        ("/home/ann/docs/a/1.md", "/home/ann/docs", "a/1.md"),
        ("/home/ann/docs/a/1.md", "/home/ann/docs/", "a/1.md"),
        ("docs/a/1.md", "./docs", "a/1.md"),
        ("docs/1.md", "docs/*.md", "1.md"),
        ("docs/a/1.md", "docs/**/*.md", "a/1.md"),
        ("rows.jsonl", "rows.jsonl", "rows.jsonl"),
        ("/x/rows.jsonl", "/x/rows.jsonl", "rows.jsonl"),
        ("a.md", "*.md", "a.md"),
        ("a/b.md", ".", "a/b.md"),
    ],
)
def test_a_file_is_called_by_its_name_below_the_source(file: str, location: str, name: str) -> None:
    assert below(file, location) == name


def test_a_million_rows_take_seconds() -> None:
    began = time.perf_counter()
    rows = positions(str(number) for number in range(1_000_000))
    clusters = np.arange(1_000_000) // 3
    assign(rows, Shares(0.1, 0.1), clusters=clusters)
    stratified(rows, clusters % 50, Shares(0.1, 0.1), exact=True)
    assert time.perf_counter() - began < 30  # 3 seconds on a quiet core


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_units_stay_whole_and_few_units_that_share_a_cluster_stay_together(rows: list[tuple[int, int]]) -> None:
    units, clusters = (np.array(column) for column in zip(*rows, strict=True))
    together = kept_together(units, clusters)
    assert all(len(set(together[units == unit])) == 1 for unit in set(units))
    shared = [c for c in set(clusters) if len(set(units[clusters == c])) <= MOST_UNITS]
    apart = len(set(together)) == len(set(units))  # nothing joins, or joining would have put most rows in one place
    assert apart or all(len(set(together[clusters == c])) == 1 for c in shared)


def test_units_that_a_chain_of_pairs_would_make_one_are_left_apart() -> None:
    units = np.repeat(np.arange(10), 4)
    pairs = np.arange(40)
    pairs[4::4] = pairs[3:-1:4]  # the first row of each unit is alike to the last of the one before
    assert len(set(kept_together(units, pairs))) == 10
    assert len(set(kept_together(units, np.where(np.arange(40) < 8, pairs, np.arange(40) + 100)))) == 9
