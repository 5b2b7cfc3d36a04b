"""Whatever stands in the keys about data, order and template: a recipe comes out, or an error that names the key."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import RecipeError
from burnish.core.recipe import Recipe
from burnish.core.recipe_file import parse_recipe
from burnish.data.row_maker import _number

SHORT = {"name": "desk", "base": "b", "method": "lora"}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["length", "source", "a.jsonl"]),
)
KEYS = st.sampled_from(
    [
        "path",
        "name",
        "columns",
        "ratio",
        "license",
        "by",
        "stages",
        "sources",
        "epochs",
        "temperature",
        "epoch_rows",
        "a",
        "",
    ]
) | st.text(string.printable, max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)
SOURCES = st.dictionaries(
    st.sampled_from(["a", "b", "tickets"]),
    st.fixed_dictionaries(
        {"path": st.sampled_from(["x", "y"])}, optional={"ratio": st.floats(0.01, 9), "license": st.text()}
    ),
)


def parsed(raw: dict[str, Any]) -> tuple[Recipe | None, RecipeError | None]:
    try:
        return parse_recipe(SHORT | raw, source="fuzz"), None
    except RecipeError as error:
        return None, error


@settings(deadline=None)
@given(data=VALUES | SOURCES, mix=VALUES, order=VALUES, template=VALUES, cosine=SCALARS)
def test_a_recipe_or_an_error_that_names_the_key(data: Any, mix: Any, order: Any, template: Any, cosine: Any) -> None:
    for key, raw in (
        ("data", {"data": data}),
        ("train.mix", {"data": "x", "train": {"mix": mix}}),
        ("train.order", {"data": {"a": "x", "b": "y"}, "train": {"order": order}}),
        ("template", {"data": "x", "template": template}),
        ("prepare.semantic_duplicate", {"data": "x", "prepare": {"semantic_duplicate": cosine}}),
    ):
        recipe, error = parsed(raw)
        if recipe is None:
            named = [line.strip() for line in str(error).splitlines()[1:] if "=" in line]
            assert any(line.startswith((key, "train.mix", "train.order")) for line in named), str(error)
            continue
        sources = recipe.sources()
        assert sources
        assert all(source.path for source in sources.values())
        ratios = [source.ratio for source in sources.values()]
        assert None not in ratios or set(ratios) == {None}


def test_a_list_is_named_by_its_files_and_a_name_may_be_given() -> None:
    recipe = parse_recipe(SHORT | {"data": ["in/Tickets.jsonl.gz", {"name": "two", "path": "x*"}]}, source="test")
    assert {name: source.path for name, source in recipe.sources().items()} == {
        "tickets": "in/Tickets.jsonl.gz",
        "two": "x*",
    }
    top = parse_recipe(SHORT | {"data": ["a", "b"], "columns": {"user": "q", "assistant": "a"}}, source="test")
    assert all(source.columns == {"user": "q", "assistant": "a"} for source in top.sources().values())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), ("0.5", 0.5), (0, 0.0), (-3.5, -3.5), (True, None), (None, None), ("nan", None), ("inf", None),
        (float("nan"), None), (10**400, None), ("hard", None), ([1], None), ({}, None), ("1" * 5000, None),
    ],
)  # fmt: skip
def test_a_difficulty_is_a_finite_number(value: Any, number: float | None) -> None:
    assert _number(value) == number
