"""Grades of structured answers and of texts, by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.evaluate.grade import NOT_JSON, Ending, Grade, flatten, grade, micro_f1, parse, words

EXPECTED = (
    '{"action": "search_flights", "parameters": '
    '{"origin": "NYC", "destination": "LHR", "max_price": 800, "direct": true}}'
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@pytest.mark.parametrize(
    ("answer", "ending", "exact", "matched", "answered"),
    [
        (EXPECTED, Ending.VALID, True, 5, 5),
        (f"\n  {EXPECTED}\n", Ending.VALID, True, 5, 5),
        (EXPECTED.replace("800", "800.0"), Ending.VALID, True, 5, 5),
        (EXPECTED.replace("800", "8e2"), Ending.VALID, True, 5, 5),
        (EXPECTED.replace("800", '"800"'), Ending.VALID, False, 4, 5),
        (EXPECTED.replace("true", "1"), Ending.VALID, False, 4, 5),
        (EXPECTED.replace("LHR", "lhr"), Ending.VALID, False, 4, 5),
        (EXPECTED.replace(', "direct": true', ""), Ending.VALID, False, 4, 4),
        (EXPECTED.replace("true}", 'true, "stops": null}'), Ending.VALID, False, 5, 6),
        ('{"action": "search_flights", "origin": "NYC"}', Ending.VALID, False, 1, 2),
        ("{}", Ending.VALID, False, 0, 1),
        (f"Here you are: {EXPECTED}", Ending.SURROUNDED, False, 0, 0),
        (f"```json\n{EXPECTED}\n```", Ending.SURROUNDED, False, 0, 0),
        (EXPECTED[:-1], Ending.UNFINISHED, False, 0, 0),
        (EXPECTED.replace('"', "'"), Ending.UNFINISHED, False, 0, 0),
        ('{"action": "a", "action": "b"}', Ending.UNFINISHED, False, 0, 0),
        ('{"max_price": NaN}', Ending.UNFINISHED, False, 0, 0),
        ('"search_flights"', Ending.OTHER_JSON, False, 0, 0),
        (f"[{EXPECTED}]", Ending.OTHER_JSON, False, 0, 0),
        ("Sure! I can help you with that.", Ending.PROSE, False, 0, 0),
        (" \n", Ending.EMPTY, False, 0, 0),
        ("[" * 200_000, Ending.PROSE, False, 0, 0),
        ("{" * 200_000, Ending.UNFINISHED, False, 0, 0),
    ],
)
def test_a_structured_answer_is_graded_by_its_leaves(
    answer: str, ending: Ending, exact: bool, matched: int, answered: int
) -> None:
    assert grade(EXPECTED, answer) == Grade(ending, exact, matched, 5, answered)


def test_f1_of_four_right_fields_of_five_with_one_too_many_is_hand_arithmetic() -> None:
    answer = EXPECTED.replace("NYC", "BOS").replace("true}", 'true, "stops": null}')
    found = grade(EXPECTED, answer)
    # 4 of the 6 answered are right (precision 2/3), 4 of the 5 expected are found (recall 4/5): F1 = 8/11.
    assert found.field_f1 == pytest.approx(2 * (2 / 3) * (4 / 5) / (2 / 3 + 4 / 5))
    assert found.field_f1 == 8 / 11
    assert found.json_valid is True


def test_invalid_json_scores_nothing_even_if_it_holds_the_right_words() -> None:
    found = grade(EXPECTED, f"Answer: {EXPECTED}")
    assert (found.json_valid, found.exact, found.field_f1) == (False, False, 0.0)


def test_key_order_does_not_matter_but_the_order_of_an_array_does() -> None:
    assert grade('{"a": 1, "b": [1, 2]}', '{"b":[1,2],"a":1}').exact
    found = grade('{"a": 1, "b": [1, 2]}', '{"a": 1, "b": [2, 1]}')
    assert (found.exact, found.field_f1) == (False, 1 / 3)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ('{"a": {}}', '{"a": []}'),
        ('{"a": null}', "{}"),
        ('{"a": null}', '{"a": false}'),
        ('{"a": 0}', '{"a": false}'),
        ('{"a": ""}', '{"a": null}'),
        ('{"0": 1}', "[1]"),
    ],
)
def test_things_that_look_alike_are_not_equal(expected: str, answer: str) -> None:
    assert not grade(expected, answer).exact


def test_an_expected_array_asks_for_an_array() -> None:
    assert grade('["x", "y"]', '["x", "y"]') == Grade(Ending.VALID, True, 2, 2, 2)
    assert grade('["x", "y"]', '{"x": "y"}').json_valid is False


@pytest.mark.parametrize(
    ("expected", "answer", "exact", "f1"),
    [
        ("Paris", " Paris\n", True, 1.0),
        ("Paris", "paris", False, 1.0),
        ("the Eiffel Tower", "Eiffel tower.", False, 1.0),
        ("in Paris, France", "It is in Paris", False, 4 / 7),
        ("cat cat dog", "cat dog dog", False, 2 / 3),
        ("Paris", "", False, 0.0),
        ("the", "a", False, 1.0),
        ("42", "42", True, 1.0),
        ("42", "42.0", False, 0.0),
        ("true", "True", False, 1.0),
    ],
)
def test_a_text_is_compared_as_text_and_by_words(expected: str, answer: str, exact: bool, f1: float) -> None:
    found = grade(expected, answer)
    assert (found.ending, found.json_valid) == (None, None)
    assert (found.exact, found.field_f1) == (exact, pytest.approx(f1))


def test_words_are_those_of_squad() -> None:
    assert words("The cat, an ANT & a theme-park!") == ["cat", "ant", "themepark"]


def test_micro_f1_weighs_long_answers_more_than_the_mean_over_rows() -> None:
    grades = [Grade(Ending.VALID, True, 1, 1, 1), Grade(Ending.VALID, False, 0, 9, 9)]
    assert sum(g.field_f1 for g in grades) / 2 == 0.5
    assert micro_f1(grades) == 0.1
    assert micro_f1([]) == 1.0


@pytest.mark.parametrize("text", ["", "nope", "NaN", "-Infinity", '{"a": 1, "a": 1}', "{} {}", "[1,]", "1" * 5_000])
def test_what_the_standard_does_not_allow_is_no_json(text: str) -> None:
    assert parse(text) is NOT_JSON


def test_null_is_json() -> None:
    assert parse(" null ") is None


def test_flatten_names_each_leaf_by_its_path() -> None:
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": {}, "e": True}) == {
        ("a", "b", 0): ("number", 1),
        ("a", "b", 1, "c"): ("null", None),
        ("d",): ("empty", "dict"),
        ("e",): ("boolean", True),
    }


@given(OBJECTS)
def test_every_object_equals_itself_however_it_is_written(value: dict[str, Any]) -> None:
    turned = dict(reversed(list(value.items())))
    found = grade(json.dumps(value), json.dumps(turned, indent=3, ensure_ascii=False))
    assert (found.exact, found.field_f1, found.ending) == (True, 1.0, Ending.VALID)


def _same(a: Any, b: Any) -> bool:
    """JSON equality written the direct way, as the oracle of the leaves."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return (type(a) in (int, float) and type(b) in (int, float) and a == b) or (type(a) is type(b) and a == b)


@given(OBJECTS, OBJECTS)
def test_exact_is_equality_after_parsing_and_f1_is_one_only_then(a: dict[str, Any], b: dict[str, Any]) -> None:
    found = grade(json.dumps(a), json.dumps(b))
    assert found.exact == _same(a, b) == (found.field_f1 == 1.0)
    assert found.field_f1 == grade(json.dumps(b), json.dumps(a)).field_f1


@given(st.text(), st.text())
def test_no_answer_breaks_the_grader(expected: str, answer: str) -> None:
    found = grade(expected, answer)
    assert 0.0 <= found.field_f1 <= 1.0
    assert found.matched <= min(found.expected, found.answered)
