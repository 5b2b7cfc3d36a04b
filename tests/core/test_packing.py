from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.packing import WINDOW_ROWS, count_steps, pack, pack_order, packed_tokens, spread_evenly, step_rows

PREFIX = {"a": 0, "b": 3, "c": 9}
SAMPLES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 23)), min_size=1, max_size=60).map(
    lambda drawn: [(key, PREFIX[key], tail) for key, tail in drawn]
)
SEEDS = st.integers(0, 2**31 - 1)


@given(SAMPLES, st.integers(32, 100), SEEDS)
def test_every_sample_is_in_exactly_one_row_and_no_row_is_too_long(
    lengths: list[tuple[str, int, int]], row_tokens: int, seed: int
) -> None:
    rows = pack(lengths, row_tokens, seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < packed_tokens(lengths, row) <= row_tokens for row in rows)
    assert rows == pack(lengths, row_tokens, seed)


@given(SAMPLES, st.integers(32, 100), SEEDS)
def test_no_more_rows_than_first_fit_would_guarantee(
    lengths: list[tuple[str, int, int]], row_tokens: int, seed: int
) -> None:
    rows = pack(lengths, row_tokens, seed)
    alone = sum(prefix + tail for _, prefix, tail in lengths)
    # two rows that could be put together would not both be there: all but one are more than half full, prefixes repeated
    assert len(rows) <= math.ceil(2 * alone / row_tokens) + 1


def test_a_shared_prefix_is_counted_once_a_row() -> None:
    lengths = [("s", 10, 5)] * 4
    assert len(pack(lengths, 30, 0)) == 1
    assert packed_tokens(lengths, [0, 1, 2, 3]) == 30


def test_a_group_larger_than_a_row_repeats_its_prefix() -> None:
    lengths = [("s", 10, 5)] * 6
    rows = pack(lengths, 20, 0)
    assert [packed_tokens(lengths, row) for row in rows] == [20, 20, 20]


def test_groups_fill_each_others_rows() -> None:
    lengths = [("a", 4, 10), ("a", 4, 10), ("b", 2, 4), ("c", 0, 4)]
    assert sorted(map(sorted, pack(lengths, 34, 0))) == [[0, 1, 2, 3]]


def test_the_fullest_row_that_still_fits_is_taken() -> None:
    # tails 7, 6, 4, 3 into rows of 10: 7 + 3 and 6 + 4
    lengths = [("", 0, tail) for tail in (7, 6, 4, 3)]
    assert sorted(map(sorted, pack(lengths, 10, 0))) == [[0, 3], [1, 2]]


def test_samples_without_prefix_share_rows_whatever_their_key() -> None:
    assert len(pack([(index, 0, 5) for index in range(4)], 20, 0)) == 1


def test_a_sample_longer_than_a_row_is_named() -> None:
    with pytest.raises(ValueError, match=r"sample 1 has 3 \+ 9 tokens; a row holds up to 10"):
        pack([("a", 3, 4), ("a", 3, 9)], 10, 0)


def test_one_key_with_two_prefix_lengths_is_an_error() -> None:
    with pytest.raises(ValueError, match="different length"):
        pack([("a", 3, 4), ("a", 2, 4)], 10, 0)


@given(st.integers(1, 50), st.sampled_from([0.3, 1.0, 1.5, 2.0, 3.0]), st.integers(1, 9), SEEDS)
def test_steps_see_each_row_once_an_epoch_in_even_portions(rows: int, epochs: float, per_step: int, seed: int) -> None:
    steps = list(step_rows(rows, epochs, per_step, seed))
    assert len(steps) == count_steps(rows, epochs, per_step)
    sizes = {len(step) for step in steps}
    assert max(sizes) <= per_step
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    order = [row for step in steps for row in step]
    assert len(order) == max(1, round(rows * epochs))
    for epoch in range(math.ceil(len(order) / rows)):
        part = order[epoch * rows : (epoch + 1) * rows]
        assert len(set(part)) == len(part)


def test_each_epoch_has_an_order_of_its_own() -> None:
    order = [row for step in step_rows(20, 2.0, 4, seed=1) for row in step]
    assert order[:20] != order[20:]
    assert order != [row for step in step_rows(20, 2.0, 4, seed=2) for row in step]


def test_many_rows_are_packed_with_less_than_one_percent_left_empty() -> None:
    lengths = [("s", 100, 20 + index * 37 % 400) for index in range(20_000)]
    rows = pack(lengths, 2048, 0)
    assert sum(packed_tokens(lengths, row) for row in rows) / (len(rows) * 2048) > 0.99


@given(SAMPLES, st.data(), st.integers(32, 60), SEEDS)
def test_an_order_keeps_its_blocks_and_loses_no_draw(
    lengths: list[tuple[str, int, int]], data: st.DataObject, row_tokens: int, seed: int
) -> None:
    blocks = data.draw(st.lists(st.lists(st.integers(0, len(lengths) - 1), min_size=1), min_size=1, max_size=5))
    packed = pack_order(lengths, blocks, row_tokens, seed)
    assert packed == pack_order(lengths, blocks, row_tokens, seed)
    assert all(0 < sum(lengths[index][2] for index in row) <= row_tokens for row in packed)
    drawn = iter(index for row in packed for index in row)
    for block in blocks:
        assert sorted(next(drawn) for _ in block) == sorted(block)
    steps = list(spread_evenly(packed, 3))
    assert [row for step in steps for row in step] == packed
    assert {len(step) for step in steps} <= {len(steps[0]), len(steps[0]) - 1, len(steps[0]) + 1}


def test_a_long_order_is_packed_in_windows_so_that_rows_stay_near_their_place() -> None:
    lengths = [("", 0, 5 + number % 3) for number in range(4000)]
    packed = pack_order(lengths, [range(4000)], 12, 0)
    at = [index for row in packed for index in row]
    window = 4000 // (sum(tail for _, _, tail in lengths) // (12 * WINDOW_ROWS)) + 1
    assert max(abs(place - index) for place, index in enumerate(at)) <= window
    assert len(packed) <= 1.02 * len(pack(lengths, 12, 0))
