"""Four formats, one form; what was read can be written again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.data.formats import Row, RowRefused, detect, read_row, write_row

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CONVERSATION = [USER, ASSISTANT]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"messages": CONVERSATION}, "messages"),
        ({"instruction": "q", "response": "a"}, "instruction-response"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
    ],
)
def test_every_format_is_told_by_its_keys_and_says_the_same(value: dict[str, Any], name: str) -> None:
    assert detect(value) == name
    assert read_row(value).messages() == CONVERSATION


def test_the_input_of_alpaca_follows_the_instruction() -> None:
    row = read_row({"instruction": "Translate.", "input": "Hallo", "output": "Hello"})
    assert row.messages()[0]["content"] == "Translate.\n\nHallo"


def test_a_system_prompt_beside_the_format_comes_first() -> None:
    assert read_row({"prompt": "q", "completion": "a", "system": "s"}).messages() == [SYSTEM, *CONVERSATION]
    assert read_row({"prompt": "q", "completion": "a", "system": ""}).messages() == CONVERSATION
    assert read_row({"messages": [SYSTEM, *CONVERSATION]}).messages() == [SYSTEM, *CONVERSATION]


def test_other_keys_are_kept_aside() -> None:
    row = read_row({"prompt": "q", "completion": "a", "id": 7, "tags": ["x"]})
    assert row.unused == {"id": 7, "tags": ["x"]}


@pytest.mark.parametrize(
    ("date", "day"),
    [
        ("2025-07-15", datetime.date(2025, 7, 15)),
        ("2024-02-29", datetime.date(2024, 2, 29)),
        ("2025-02-29", None),
        ("2025-7-15", None),
        ("20250715", None),
        ("2025-07-15T10:00", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_a_date_is_a_day_only_as_year_month_day(date: str, day: datetime.date | None) -> None:
    assert read_row({"prompt": "q", "completion": "a", "date": date}).day() == day


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "unknown format"),
        ({"instruction": "q"}, "unknown format"),
        ({"conversations": []}, "unknown format"),
        ({"messages": CONVERSATION, "prompt": "q", "completion": "a"}, "more than one format"),
        ({"instruction": "q", "response": "a", "output": "b"}, "more than one format"),
        ({"prompt": 7, "completion": "a"}, "wrong type"),
        ({"prompt": "q", "completion": None}, "wrong type"),
        ({"prompt": "q", "completion": "a", "date": 20250715}, "wrong type"),
        ({"prompt": "q", "completion": "a", "system": ["s"]}, "wrong type"),
        ({"instruction": "q", "input": 3, "output": "a"}, "wrong type"),
        ({"messages": "hello"}, "wrong type"),
        ({"messages": [["user", "q"]]}, "wrong type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, ASSISTANT]}, "wrong type"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, "message without role or content"),
        ({"messages": [{"from": "human", "value": "q"}, ASSISTANT]}, "message without role or content"),
        ({"messages": [{"role": "tool", "content": "q"}, ASSISTANT]}, "unknown role"),
        ({"messages": [{"role": ["user"], "content": "q"}, ASSISTANT]}, "unknown role"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": []}]}, "message with more than role and content"),
        ({"messages": []}, "no messages"),
        ({"messages": [SYSTEM]}, "no messages"),
        ({"messages": [USER]}, "does not end with an answer"),
        ({"messages": [USER, ASSISTANT, USER]}, "does not end with an answer"),
        ({"messages": [ASSISTANT]}, "roles do not alternate"),
        ({"messages": [USER, USER, ASSISTANT]}, "roles do not alternate"),
        ({"messages": [USER, SYSTEM, USER, ASSISTANT]}, "roles do not alternate"),
        ({"messages": [SYSTEM, SYSTEM, USER, ASSISTANT]}, "roles do not alternate"),
        ({"prompt": " \n", "completion": "a"}, "empty request"),
        ({"prompt": "q", "completion": ""}, "empty answer"),
        ({"prompt": "q", "completion": "a", "split": "validation"}, "unknown split"),
        ({"messages": [SYSTEM, *CONVERSATION], "system": "s"}, "two system prompts"),
    ],
)
def test_a_row_that_cannot_be_used_has_a_reason(value: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRefused) as refused:
        read_row(value)
    assert refused.value.reason == reason


def test_mapping_a_row_changes_every_text_in_it() -> None:
    row = Row("alpaca", read_row({"prompt": "q", "completion": "a"}).turns, context="c", system="s")
    assert [m["content"] for m in row.mapped(str.upper).messages()] == ["S", "Q\n\nC", "A"]


said = st.text(min_size=1).filter(str.strip)
optional = st.fixed_dictionaries(
    {},
    optional={
        "date": st.text(max_size=12),
        "split": st.sampled_from(["train", "test"]),
        "system": st.text(max_size=9),
        "id": st.integers(),
    },
)
turns = st.lists(st.tuples(said, said), min_size=1, max_size=3).map(
    lambda pairs: [
        message
        for asked, answered in pairs
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]
)
formats = st.one_of(
    st.fixed_dictionaries({"messages": turns}),
    st.fixed_dictionaries({"instruction": said, "response": said}),
    st.fixed_dictionaries({"instruction": said, "output": said}, optional={"input": st.text()}),
    st.fixed_dictionaries({"prompt": said, "completion": said}),
)


@given(value=st.tuples(formats, optional).map(lambda parts: parts[0] | parts[1]))
def test_a_row_is_written_as_it_was_read(value: dict[str, Any]) -> None:
    assert write_row(read_row(value)) == value


@given(value=turns.map(lambda given: {"messages": [SYSTEM, *given]}))
def test_a_conversation_with_a_system_message_is_written_as_it_was_read(value: dict[str, Any]) -> None:
    assert write_row(read_row(value)) == value
