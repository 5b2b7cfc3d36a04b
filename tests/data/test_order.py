"""The order of a run follows from the recipe, the rows and the seed; the plan alone gives it again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.core.recipe import Recipe
from burnish.core.recipe_file import parse_recipe
from burnish.data.order import Drawable, is_ordered, order_of, run_order

TWO = {"many": {"path": "a"}, "few": {"path": "b"}}


def recipe(data: Any = None, **train: Any) -> Recipe:
    raw = {"name": "t", "base": "b", "method": "lora", "data": TWO if data is None else data, "train": train}
    return parse_recipe(raw, source="test")


def rows(many: int = 30, few: int = 10, **more: Any) -> Drawable:
    count = many + few
    values: dict[str, Any] = {
        "sources": ["many"] * many + ["few"] * few,
        "tokens": [10 + number % 17 for number in range(count)],
        "trained": [number % 5 for number in range(count)],
        "difficulties": [None] * count,
    }
    return Drawable(**(values | more))


def test_plain_recipes_have_no_order_and_sources_alone_make_none() -> None:
    assert not is_ordered(recipe("rows.jsonl"))
    assert run_order(recipe(), rows()) is None


def test_ratios_by_hand() -> None:
    said = recipe({"many": {"path": "a", "ratio": 1}, "few": {"path": "b", "ratio": 1}}, epochs=2.0)
    order = run_order(said, rows())
    assert order is not None
    many, few = order.mix.sources
    assert (many.share, few.share, many.drawn, few.drawn) == (0.5, 0.5, 40, 40)
    drawn = [row for block in order.blocks for row in block]
    assert len(drawn) == 80
    assert [drawn.count(row) for row in range(30, 40)] == [4] * 10  # 40 draws of 10 rows, none before all others
    assert {drawn.count(row) for row in range(30)} == {1, 2}  # 40 draws of 30 rows
    assert order.trained_tokens == sum(row % 5 for row in drawn)
    assert many.drawn_trained_tokens + few.drawn_trained_tokens == order.trained_tokens
    assert len(order.blocks) == 2


def test_epoch_rows_and_temperature() -> None:
    order = run_order(recipe(mix={"temperature": 1e6, "epoch_rows": 8}), rows())
    assert order is not None
    assert [source.drawn for source in order.mix.sources] == [4, 4]
    order = run_order(recipe("one", mix={"epoch_rows": 6}, epochs=1.5), rows(40, 0, sources=[None] * 40))
    assert order is not None
    assert [len(block) for block in order.blocks] == [6, 3]


def test_stages_by_length_difficulty_and_source() -> None:
    by_length = run_order(recipe(order={"by": "length", "stages": 3}), rows())
    assert by_length is not None
    parts = [[rows().tokens[row] for row in block] for block in by_length.blocks]
    assert len(parts) == 3
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(parts))
    hard = [float(40 - number) for number in range(40)]
    staged = run_order(
        recipe(order={"by": "difficulty", "stages": 2, "epochs": 1}, epochs=2.0), rows(difficulties=hard)
    )
    assert staged is not None
    assert [len(block) for block in staged.blocks] == [20, 20, 40]
    assert set(staged.blocks[0]) == set(range(20, 40))
    first_few = run_order(recipe(order={"by": "source", "sources": ["few"]}), rows())
    assert first_few is not None
    assert [set(block) for block in first_few.blocks] == [set(range(30, 40)), set(range(30))]
    as_listed = run_order(recipe(order="source"), rows())
    assert as_listed is not None
    assert [set(block) for block in as_listed.blocks] == [set(range(30)), set(range(30, 40))]


@given(
    many=st.integers(1, 40),
    few=st.integers(1, 40),
    ratio=st.floats(0.01, 100),
    epochs=st.sampled_from([0.3, 1.0, 2.5]),
    seed=st.integers(0, 3),
    order=st.sampled_from([None, "length", "source", {"by": "length", "sources": ["few"], "stages": 3, "epochs": 1}]),
)
def test_the_plan_gives_the_order_again(
    many: int, few: int, ratio: float, epochs: float, seed: int, order: Any
) -> None:
    data = {"many": {"path": "a", "ratio": ratio}, "few": {"path": "b", "ratio": 1}}
    said = recipe(data, epochs=epochs, order=order).model_copy(update={"seed": seed})
    found = run_order(said, rows(many, few))
    assert found is not None
    again = type(found.mix).model_validate_json(found.mix.model_dump_json())
    assert order_of(again, rows(many, few), epochs, seed) == found.blocks
    drawn = [row for block in found.blocks for row in block]
    assert len(drawn) == max(1, round(epochs * (many + few)))
    assert sum(source.drawn for source in found.mix.sources) == len(drawn)
    assert all(0 <= row < many + few for row in drawn)


def test_what_cannot_be_ordered_says_why() -> None:
    with pytest.raises(DataError, match="no training row is left of few"):
        run_order(recipe(order="length"), rows(30, 0))
    with pytest.raises(DataError, match="39 of 40 training rows have no difficulty"):
        run_order(recipe(order="difficulty"), rows(difficulties=[1.0] + [None] * 39))
    found = run_order(recipe(order="length"), rows())
    assert found is not None
    with pytest.raises(DataError, match="others than the plan"):
        order_of(found.mix, rows(31, 9), 1.0, 0)
    with pytest.raises(DataError, match="'other'"):
        order_of(found.mix, rows(sources=["other"] * 40), 1.0, 0)
