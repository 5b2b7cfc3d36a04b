"""Orders keep ratios over every window, use a source up before they repeat it, and follow from the seed alone."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.data.mixing import Curriculum, mix_epochs, permutation, shares

SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=1)


def source_of(rows: dict[str, int], order: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(list(rows.values())), order, side="right")


def test_temperatures_by_hand() -> None:
    rows = {"a": 900, "b": 100}
    assert shares(rows) == {"a": 0.9, "b": 0.1}
    assert shares(rows, temperature=2) == pytest.approx({"a": 0.75, "b": 0.25})  # square roots: 30 and 10
    assert shares(rows, temperature=math.inf) == {"a": 0.5, "b": 0.5}
    assert shares(rows, ratios={"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}


def test_turns_by_hand() -> None:
    # Strides: a at 2/3, 2, 10/3, ...; b at 2, 6, ...; a comes first where both fall together.
    (order,) = mix_epochs({"a": 100, "b": 100}, seed=0, ratios={"a": 3, "b": 1}, epoch_rows=8)
    assert source_of({"a": 100, "b": 100}, order).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]


@given(rows=SIZES, seed=st.integers(0, 5), epochs=st.sampled_from([0.3, 1.0, 1.5, 3.0]))
def test_without_ratios_every_epoch_has_each_row_once(rows: dict[str, int], seed: int, epochs: float) -> None:
    total = sum(rows.values())
    orders = list(mix_epochs(rows, seed=seed, epochs=epochs))
    assert sum(map(len, orders)) == max(1, round(epochs * total))
    for order in orders:
        assert len(set(order.tolist())) == len(order)
        if len(order) == total:
            assert set(order.tolist()) == set(range(total))


@given(
    rows=SIZES,
    weights=st.lists(st.floats(0.05, 1), min_size=5, max_size=5),
    seed=st.integers(0, 5),
    epoch_rows=st.integers(1, 60),
)
def test_a_source_is_used_up_before_any_of_its_rows_repeats(
    rows: dict[str, int], weights: list[float], seed: int, epoch_rows: int
) -> None:
    ratios = dict(zip(rows, weights, strict=False))
    order = np.concatenate(list(mix_epochs(rows, seed=seed, epochs=3, ratios=ratios, epoch_rows=epoch_rows)))
    source = source_of(rows, order)
    for number, count in enumerate(rows.values()):
        mine = order[source == number]
        for start in range(0, len(mine), count):
            part = mine[start : start + count].tolist()
            assert len(set(part)) == len(part)


@given(
    rows=SIZES,
    weights=st.lists(st.floats(0.05, 1), min_size=5, max_size=5),
    epoch_rows=st.integers(1, 60),
    window=st.integers(1, 100),
)
def test_ratios_hold_over_every_window(
    rows: dict[str, int], weights: list[float], epoch_rows: int, window: int
) -> None:
    ratios = dict(zip(rows, weights, strict=False))
    order = np.concatenate(list(mix_epochs(rows, seed=1, epochs=4, ratios=ratios, epoch_rows=epoch_rows)))
    source = source_of(rows, order)
    for number, share in enumerate(shares(rows, ratios=ratios).values()):
        drawn = np.concatenate([[0], np.cumsum(source == number)])
        found = drawn[window:] - drawn[:-window]
        assert (np.abs(found - share * window) <= len(rows) * share + 1 + 1e-6).all()


def test_epochs_differ_and_follow_from_the_seed() -> None:
    rows = {"a": 50, "b": 20}
    one, two = mix_epochs(rows, seed=7, epochs=2)
    assert one.tolist() != two.tolist()
    assert [order.tolist() for order in mix_epochs(rows, seed=7, epochs=2)] == [one.tolist(), two.tolist()]
    assert next(mix_epochs(rows, seed=8)).tolist() != one.tolist()


def test_the_order_is_the_one_written_down_here() -> None:
    # Golden: an order that changes makes runs that nobody can repeat.
    assert permutation(10, "0/a/0").tolist() == GOLDEN
    code = "from burnish.data.mixing import permutation; print(permutation(10, '0/a/0').tolist())"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(GOLDEN)


def test_permutations_are_even() -> None:
    first = np.bincount([permutation(6, str(number))[0] for number in range(6_000)], minlength=6)
    assert (np.abs(first - 1_000) < 4 * (6_000 / 6 * 5 / 6) ** 0.5).all()


@given(rows=SIZES, stages=st.integers(1, 8), data=st.data())
def test_stages_by_score_rise_and_lose_nothing(rows: dict[str, int], stages: int, data: st.DataObject) -> None:
    total = sum(rows.values())
    scores = np.array(data.draw(st.lists(st.integers(0, 9), min_size=total, max_size=total)))
    (order,) = mix_epochs(rows, seed=3, curriculum=Curriculum(scores=scores, stages=stages))
    assert sorted(order.tolist()) == list(range(total))
    cuts = [-(-total * stage // stages) for stage in range(stages + 1)]
    parts = [scores[order[low:high]] for low, high in itertools.pairwise(cuts) if high > low]
    if stages <= total:
        assert all(easy.max() <= hard.min() for easy, hard in itertools.pairwise(parts))
    (sorted_order,) = mix_epochs(rows, seed=3, curriculum=Curriculum(scores=scores, stages=total))
    assert (np.diff(scores[sorted_order]) >= 0).all()


def test_two_stages_by_length_by_hand() -> None:
    lengths = [10, 40, 20, 30]
    (order,) = mix_epochs({"a": 4}, seed=0, curriculum=Curriculum(scores=lengths, stages=2))
    assert (set(order[:2].tolist()), set(order[2:].tolist())) == ({0, 2}, {1, 3})


def test_stages_by_source_and_only_in_the_first_epoch() -> None:
    rows = {"hard": 10, "easy": 10, "rest": 5}
    one, two = mix_epochs(rows, seed=0, epochs=2, curriculum=Curriculum(sources=(("easy",), ("hard",)), epochs=1))
    assert source_of(rows, one).tolist() == [1] * 10 + [0] * 10 + [2] * 5
    assert sorted(two.tolist()) == list(range(25))
    assert source_of(rows, two).tolist() != sorted(source_of(rows, two).tolist())


@pytest.mark.parametrize(
    "arguments",
    [
        {"rows": {}},
        {"rows": {"a": 0}},
        {"rows": {"a": 1}, "ratios": {"b": 1}},
        {"rows": {"a": 1}, "ratios": {"a": 0}},
        {"rows": {"a": 1}, "temperature": 0},
        {"rows": {"a": 1}, "epochs": 0},
        {"rows": {"a": 1}, "epoch_rows": 0},
        {"rows": {"a": 2}, "curriculum": Curriculum(scores=[1.0])},
        {"rows": {"a": 2}, "curriculum": Curriculum(scores=[1.0, math.nan])},
        {"rows": {"a": 2}, "curriculum": Curriculum(stages=0)},
        {"rows": {"a": 2}, "curriculum": Curriculum(sources=(("b",),))},
        {"rows": {"a": 2}, "curriculum": Curriculum(sources=(("a",), ("a",)))},
    ],
)
def test_what_cannot_be_mixed_is_an_error(arguments: dict) -> None:
    with pytest.raises(DataError):
        list(mix_epochs(arguments.pop("rows"), seed=0, **arguments))


GOLDEN = [0, 6, 7, 2, 1, 8, 4, 9, 3, 5]
