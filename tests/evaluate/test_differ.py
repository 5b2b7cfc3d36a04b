"""Answers shown next to what was expected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.evaluate.differ import Mark, Piece, show_answer

EXPECTED = '{"action": "search", "parameters": {"origin": "NYC", "max_price": 800, "tags": ["a", "b"]}}'


def marked(expected: str, answer: str) -> list[tuple[str, str]]:
    return [(piece.text.strip(), piece.mark) for piece in show_answer(expected, answer).pieces]


def test_a_right_answer_is_marked_right_line_by_line() -> None:
    shown = show_answer(EXPECTED, EXPECTED)
    assert (shown.verdict, shown.is_json) == ("5 of 5 fields right", True)
    assert [(piece.text, piece.mark) for piece in shown.pieces] == [
        ("{", "plain"),
        ('  "action": "search",', "same"),
        ('  "parameters": {', "plain"),
        ('    "origin": "NYC",', "same"),
        ('    "max_price": 800,', "same"),
        ('    "tags": [', "plain"),
        ('      "a",', "same"),
        ('      "b"', "same"),
        ("    ]", "plain"),
        ("  }", "plain"),
        ("}", "plain"),
    ]


def test_a_wrong_value_says_what_was_expected() -> None:
    shown = show_answer(EXPECTED, EXPECTED.replace("800", '"800"'))
    assert shown.verdict == "4 of 5 fields right"
    assert Piece('    "max_price": "800",', Mark.WRONG, "800") in shown.pieces


def test_missing_and_extra_fields_are_named() -> None:
    shown = show_answer(EXPECTED, EXPECTED.replace('"max_price": 800', '"price": 800'))
    assert shown.verdict == "4 of 5 fields right, 1 too many"
    assert Piece('    "price": 800,', Mark.EXTRA) in shown.pieces
    assert shown.pieces[-1] == Piece("parameters.max_price", Mark.MISSING, "800")


def test_a_value_where_fields_were_expected_is_wrong_and_its_fields_are_not_named_twice() -> None:
    shown = show_answer(EXPECTED, '{"action": "search", "parameters": null}')
    assert shown.pieces[2] == Piece('  "parameters": null', Mark.WRONG, "fields inside")
    assert [piece for piece in shown.pieces if piece.mark is Mark.MISSING] == []


def test_fields_where_a_value_was_expected_are_too_many_and_the_value_is_not_missing() -> None:
    assert marked('{"a": 1}', '{"a": {"b": 2}}') == [
        ("{", "plain"), ('"a": {', "plain"), ('"b": 2', "extra"), ("}", "plain"), ("}", "plain"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Sure, I can help.", "not JSON"),
        (f"Here: {EXPECTED}", "not valid JSON: there is text around it"),
        (EXPECTED[:-4], "not valid JSON: broken or unfinished"),
        ("[1]", "JSON, but of another kind than expected"),
    ],
)
def test_what_is_not_valid_json_is_shown_as_it_was_written(answer: str, verdict: str) -> None:
    shown = show_answer(EXPECTED, answer)
    assert (shown.verdict, shown.is_json) == (verdict, False)
    assert shown.pieces == [Piece(answer, Mark.PLAIN)]


def test_an_empty_answer_has_no_pieces() -> None:
    assert show_answer(EXPECTED, " \n") == ("an empty answer", [], False)


def test_an_answer_nested_deeper_than_anybody_reads_is_shown_as_written() -> None:
    deep = '{"a":' * 900 + "1" + "}" * 900
    shown = show_answer(EXPECTED, deep)
    assert shown.pieces == [Piece(deep, Mark.PLAIN)]
    assert shown.verdict == "0 of 5 fields right, 1 too many"


def test_texts_are_compared_word_by_word() -> None:
    shown = show_answer("The parcel is late", "The parcel is very early")
    assert shown.pieces == [
        Piece("The parcel is ", Mark.SAME),
        Piece("late", Mark.MISSING),
        Piece("very early", Mark.EXTRA),
    ]
    assert shown.verdict == "word F1 0.57"
    assert show_answer("Paris", "Paris ").verdict == "equal to what was expected"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=3)


@given(OBJECTS, OBJECTS)
def test_the_lines_of_an_answer_are_that_answer_and_only_a_right_one_is_free_of_marks(
    expected: dict[str, Any], answer: dict[str, Any]
) -> None:
    shown = show_answer(json.dumps(expected), json.dumps(answer))
    written = "\n".join(piece.text for piece in shown.pieces if piece.mark is not Mark.MISSING)
    assert json.loads(written) == answer
    faultless = {piece.mark for piece in shown.pieces} <= {Mark.PLAIN, Mark.SAME}
    assert faultless == (json.dumps(expected, sort_keys=True) == json.dumps(answer, sort_keys=True))
