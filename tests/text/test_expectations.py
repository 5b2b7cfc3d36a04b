"""What a recipe expects is read with all problems at once, and failures name what was found, asked, and a row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from chat_templates import CHATML, MakeFolder
from families import TWO, turn
from hypothesis import given
from hypothesis import strategies as st

from burnish.text.expect import KNOWN, Expectations, RowFacts, evaluate, facts, read, sentences
from burnish.text.render import render_example
from burnish.text.tokenizer import Tokenizer, load_tokenizer

ROW = RowFacts("a.jsonl:1", 100, 25, 25, "Today is Tuesday. Find", "search_flights", "<|im_end|>")
LONG = replace(ROW, place="a.jsonl:2", tokens=700, trained=7, answer_tokens=7, truncated=True)


def expecting(**value: Any) -> Expectations:
    found, problems = read(value)
    assert problems == []
    return found


def failing(rows: list[RowFacts], /, **value: Any) -> list[str]:
    return [str(failure) for failure in evaluate(expecting(**value), rows)]


def test_the_example_of_the_docs_holds() -> None:
    rows = [replace(ROW, place=f"a.jsonl:{n}") for n in range(1000)]
    assert (
        failing(
            rows,
            rows=">= 1000",
            trained_share="0.2..0.8",
            longest_tokens="<= 512",
            contains_in_prompt="Today is",
            contains_in_answer="search_flights",
            last_trained_token="<|im_end|>",
            max_truncated_share=0,
        )
        == []
    )


@pytest.mark.parametrize(
    ("key", "asked", "said"),
    [
        ("rows", ">= 1_000", 'expect.rows: asked for ">= 1_000" (rows of the split), found 2'),
        ("rows", 3, 'expect.rows: asked for "= 3" (rows of the split), found 2'),
        ("tokens", "< 800", 'expect.tokens: asked for "< 800" (tokens of all rows), found 800'),
        ("trained_tokens", "> 32", 'asked for "> 32" (tokens with loss of all rows), found 32'),
        ("trained_share", "0.2..0.8", "found 0.04, for example a.jsonl:2"),
        ("trained_share", "<= 0.01", "found 0.04, for example a.jsonl:1"),
        ("longest_tokens", "<= 512", "found 700, for example a.jsonl:2"),
        ("longest_answer_tokens", "..".join("12"), "found 25, for example a.jsonl:1"),
        ("max_truncated_share", 0, '"<= 0" (share of rows that were shortened, 0 to 1), found 0.5, for example a.jsonl:2'),
        ("contains_in_prompt", "Monday", "found none in 2 of 2 rows, for example a.jsonl:1: 'Today is"),
        ("absent_in_answer", "flights", "found that in 2 of 2 rows, for example a.jsonl:1: 'search_flights'"),
        ("last_trained_token", "</s>", "found something else in 2 of 2 rows, for example a.jsonl:1: '<|im_end|>'"),
    ],
)  # fmt: skip
def test_a_failure_names_what_was_asked_what_was_found_and_a_row(key: str, asked: Any, said: str) -> None:
    (sentence,) = failing([ROW, LONG], **{key: asked})
    assert said in sentence


def test_every_text_of_a_list_must_hold() -> None:
    assert failing([ROW], contains_in_prompt=["Today", "Find"], absent_in_prompt=["Monday"]) == []
    assert len(failing([ROW], contains_in_prompt=["Today", "Monday", "Sunday"])) == 2


def test_a_dataset_without_rows_meets_no_text() -> None:
    assert failing([], contains_in_prompt="a", last_trained_token="b", rows="> 0") == [
        'expect.rows: asked for "> 0" (rows of the split), found 0',
        "expect.contains_in_prompt: asked for 'a' (text that every row's prompt has), found no rows",
        "expect.last_trained_token: asked for 'b' (the token each row's loss ends with), found no rows",
    ]


def test_all_problems_are_shown_at_once() -> None:
    found, problems = read(
        {
            "rowz": 3,
            "rows": "many",
            "tokens": True,
            "trained_share": "0.8..0.2",
            "longest_tokens": [1],
            "max_truncated_share": 7,
            "contains_in_prompt": "",
            "contains_in_answer": [],
            "absent_in_answer": 5,
            "last_trained_token": ["a", "b"],
            "trained_tokens": math.nan,
            "longest_answer_tokens": "<= 8",
        }
    )
    assert {problem.key: problem.allowed.split(",")[0] for problem in problems} == {
        "expect.rowz": "unknown. Known: rows",
        "expect.rows": "must be a number",
        "expect.tokens": "must be a number",
        "expect.trained_share": "the first number of a range must not be larger than the second",
        "expect.longest_tokens": "must be a number",
        "expect.max_truncated_share": "a share is between 0 and 1",
        "expect.contains_in_prompt": "must be a text",
        "expect.contains_in_answer": "must be a text",
        "expect.absent_in_answer": "must be a text",
        "expect.last_trained_token": "must be one token",
        "expect.trained_tokens": "must be a number",
    }
    assert 'Did you mean "rows"?' in problems[0].allowed
    assert list(found.numbers) == ["longest_answer_tokens"]


@pytest.mark.parametrize("value", [None, "rows >= 3", [1], 5])
def test_expectations_are_a_table(value: Any) -> None:
    found, (problem,) = read(value)
    assert found == Expectations()
    assert all(key in problem.allowed for key in KNOWN)


@given(
    sign=st.sampled_from(["", "=", "==", "<", "<=", ">", ">="]),
    asked=st.integers(0, 10**9),
    spaces=st.sampled_from(["", " "]),
    found=st.integers(0, 10**9),
)
def test_comparisons_are_those_of_numbers(sign: str, asked: int, spaces: str, found: int) -> None:
    bound = expecting(tokens=f"{sign}{spaces}{asked}").numbers["tokens"]
    for value in (found, asked - 1, asked, asked + 1):
        meant = {"<": value < asked, "<=": value <= asked, ">": value > asked, ">=": value >= asked}
        assert bound.holds(value) == meant.get(sign, value == asked)


def test_the_facts_of_a_row_are_what_a_server_would_see_and_say(make_folder: MakeFolder) -> None:
    tokenizer: Tokenizer = load_tokenizer(make_folder(CHATML))
    rendered = render_example(tokenizer, [turn("system", "Today is Tuesday."), *TWO])
    found = facts(tokenizer, rendered, "a.jsonl:7", truncated=True)
    assert found.prompt.startswith("<|im_start|>system\nToday is Tuesday.<|im_end|>")
    assert found.prompt.endswith("<|im_start|>assistant\n")
    assert "Where to?" in found.prompt
    assert (found.answer, found.last_trained_token) == ("New York", "<|im_end|>")
    assert (found.tokens, found.trained) == (len(rendered.ids), sum(rendered.mask))
    assert found.truncated
    nothing = facts(tokenizer, replace(rendered, mask=[0] * len(rendered.ids)), "a.jsonl:8")
    assert (nothing.answer, nothing.answer_tokens, nothing.last_trained_token) == ("", 0, "")


def test_sentences_count_themselves() -> None:
    failures = evaluate(expecting(rows=">= 3", tokens="< 5"), [ROW])
    assert sentences(failures).splitlines()[0] == "2 expectations of the recipe do not hold:"
    assert sentences(failures[:1]).startswith("1 expectation of the recipe does not hold:\n  expect.rows")
