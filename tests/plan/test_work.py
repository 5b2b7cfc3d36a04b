"""Data is cut into rows and steps as training cuts it, and a small dataset still gets enough steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import DataError, RecipeError
from burnish.core.packing import count_steps, pack, packed_tokens
from burnish.core.recipe import Recipe
from burnish.core.recipe_file import parse_recipe
from burnish.plan.work import (
    LARGEST_STEP,
    SMALLEST_STEP,
    Dataset,
    attended_pairs,
    cut,
    read_dataset,
    wanted_step_tokens,
)


def recipe(**train: Any) -> Recipe:
    return parse_recipe({"name": "a", "base": "b", "data": "c", "method": "lora", "train": train}, source="test")


def dataset(tails: list[int], prefix: int = 0) -> Dataset:
    lengths = [("same", prefix, tail) for tail in tails]
    return Dataset(len(tails), prefix + sum(tails), sum(tails) // 2, prefix + max(tails), lengths, "")


@pytest.mark.parametrize(
    ("tokens", "step"),
    [
        (5_000, 256),
        (45_000, 512),
        (80_000, 1_024),
        (600_000, 8_192),
        (3_000_000, 16_384),
        (20_000_000, 32_768),
        (10**9, 65_536),
    ],
)
def test_tokens_of_a_step_grow_with_the_data(tokens: int, step: int) -> None:
    assert wanted_step_tokens(tokens) == step


@given(st.integers(28_000, 600_000))
def test_a_small_dataset_gets_about_eighty_steps(tokens: int) -> None:
    assert 55 <= tokens / wanted_step_tokens(tokens) <= 115


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_more_data_never_gives_smaller_steps(a: int, b: int) -> None:
    low, high = sorted((wanted_step_tokens(min(a, b)), wanted_step_tokens(max(a, b))))
    assert wanted_step_tokens(min(a, b)) == low
    assert SMALLEST_STEP <= low <= high <= LARGEST_STEP


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(0, 100), st.floats(0.3, 3.0), st.integers(0, 5)
)
def test_steps_and_tokens_are_those_of_the_packing(tails: list[int], prefix: int, epochs: float, seed: int) -> None:
    data = dataset(tails, prefix)
    asked = recipe(row_tokens=500, tokens_per_step=1000, epochs=epochs).model_copy(update={"seed": seed})
    steps = cut(asked, data, "cpu", 8192)
    assert data.lengths is not None
    packed = pack(data.lengths, 500, seed)
    assert steps.rows_per_step == 2
    assert steps.packed_rows == len(packed)
    assert steps.steps == count_steps(len(packed), epochs, 2)
    assert steps.epoch_tokens == sum(packed_tokens(data.lengths, row) for row in packed)
    assert steps.fullest_row <= 500


def test_a_row_is_never_cut_to_make_a_small_step() -> None:
    steps = cut(recipe(), dataset([700, 40, 40]), "cpu", 8192)
    assert (steps.row_tokens, steps.rows_per_step) == (700, 1)
    assert "longest row has 700" in steps.because["train.row_tokens"]


def test_much_data_on_a_cpu_is_packed_into_rows_of_1024() -> None:
    steps = cut(recipe(), dataset([500] * 1200), "cpu", 8192)
    assert (steps.row_tokens, steps.rows_per_step) == (1024, 8)


def test_rows_are_no_longer_than_the_context() -> None:
    assert cut(recipe(), dataset([100] * 20_000), "cuda", 2048).row_tokens == 2048


def test_a_row_length_that_cannot_hold_the_longest_row_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"train\.row_tokens = 64 .*must be 700 or more"):
        cut(recipe(row_tokens=64), dataset([700]), "cpu", 8192)


def test_tokens_are_estimated_from_bytes_and_said_to_be() -> None:
    data = read_dataset(None, 360_000, None, 0.15)
    assert data.tokens == 85_000
    assert data.lengths is None
    assert "estimated" in data.source


@pytest.mark.parametrize("size", [None, 0])
def test_no_data_is_an_error(size: int | None) -> None:
    with pytest.raises(DataError, match="no data to plan for"):
        read_dataset(None, size, None, 0.15)


def test_pairs_that_attend_by_hand() -> None:
    lengths = [("a", 10, 5), ("a", 10, 7), ("", 0, 4)]
    assert attended_pairs(lengths, [0, 1, 2]) == 10 * 10 + 5 * 15 + 7 * 17 + 4 * 4
