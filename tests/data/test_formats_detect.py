"""Which format a file has, how sure that is, and why; and what the recipe says about columns instead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shaped import ASSISTANT, CONVERSATION, SYSTEM, USER, said, same

from burnish.core.errors import DataError, RecipeError
from burnish.data.formats.columns import compile_mapping
from burnish.data.formats.detect import detect
from burnish.data.formats.read import read
from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import write

SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
ALPACA = {"instruction": "q", "input": "c", "output": "a"}


def test_the_format_of_a_file_is_counted_and_explained() -> None:
    found = detect([SHAREGPT] * 98 + [ALPACA, {"x": 1}])
    assert (found.format, found.confidence, found.runner_up) == ("sharegpt", 0.98, "alpaca")
    assert found.why == (
        "98 of 100 rows have `conversations` with from/value turns; 1 is alpaca; "
        "1 cannot be read: unknown format (its keys are x)."
    )
    assert found.counts == {"sharegpt": 98, "alpaca": 1}
    assert found.refused == {"unknown format": 1}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (ALPACA, "`instruction`, `input` and `output`"),
        ({"messages": CONVERSATION}, "`messages` with role/content turns"),
        (CONVERSATION, "a list with role/content turns"),
        ({"messages": CONVERSATION, "tools": [{"name": "f"}]}, "`messages` with role/content turns and tools"),
        ({"text": "### Human: q### Assistant: a"}, "`text` with ### Human: turns"),
        ({"text": "hello"}, "`text` alone"),
        ({"body": "hello"}, "`body` alone"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "`prompt`, `chosen` and `rejected`"),
        ({"prompt": "q", "completion": "a", "label": True}, "`prompt`, `completion` and a `label` of true or false"),
        ({"query": "q", "reply": "a"}, "`query` and `reply`"),
        (
            {"chosen": CONVERSATION, "rejected": [USER, ASSISTANT | {"content": "b"}]},
            "`chosen` and `rejected` that hold the whole conversation",
        ),
    ],
)
def test_the_explanation_names_what_was_seen(value: Any, seen: str) -> None:
    assert detect([value]).why == f"1 of 1 row has {seen}."
    assert detect([value]).confidence == 1.0


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    found = detect([{"x": 1}])
    assert (found.format, found.confidence, found.runner_up) == (None, 0.0, None)
    assert found.why.startswith("None of 1 row has a known format; 1 cannot be read: unknown format")
    assert detect([]).why == "There are no rows to look at."


def test_columns_can_be_the_keys_of_a_format() -> None:
    mapping = compile_mapping({"format": "alpaca", "columns": {"instruction": "q", "output": "a", "system": "rules"}})
    row = {"q": "q", "a": "a", "rules": "s", "output": "not this", "id": 1, "date": "2025-01-01"}
    record = read(row, mapping=mapping)
    assert list(record.messages) == [SYSTEM, *CONVERSATION]
    assert record.unused == {"output": "not this", "id": 1}
    assert record.meta["date"] == "2025-01-01"
    assert same(write(record), row)


def test_columns_can_be_the_turns_and_the_sides_of_a_format() -> None:
    for spec, row in (
        (
            {"format": "sharegpt", "columns": {"conversations": "chat"}},
            {"chat": SHAREGPT["conversations"], "text": "t"},
        ),
        ({"format": "preference", "columns": {"chosen": "good"}}, {"prompt": "q", "good": "a", "rejected": "b"}),
        ({"format": "kto", "columns": {"label": "liked"}}, {"prompt": "q", "completion": "a", "liked": True}),
        ({"format": "guanaco", "columns": {"text": "t"}}, {"t": "### Human: q### Assistant: a", "label": 1}),
        (
            {"format": "question-answer", "columns": {"answer": "final"}},
            {"question": "q", "final": "a", "response": "r"},
        ),
        ({"format": "text"}, {"text": "[INST] is a marker", "label": 3}),
    ):
        record = read(row, mapping=spec)
        assert record.meta["format"] == spec["format"]
        assert same(write(record), row)


def test_turns_can_be_called_anything() -> None:
    spec = {
        "format": "messages",
        "columns": {"messages": "ticket"},
        "turns": {"role": "who", "content": "said"},
        "roles": {"customer": "user", "guest": "user", "agent": "assistant"},
    }
    ticket = [
        {"who": "customer", "said": "q"},
        {"who": "agent", "said": "a"},
        {"who": "guest", "said": "q", "name": None},
        {"who": "assistant", "said": "a"},
    ]
    record = read({"ticket": ticket, "id": 1}, mapping=spec)
    assert list(record.messages) == CONVERSATION * 2
    assert write(record) == {"ticket": ticket, "id": 1}
    assert write(record, "messages") == {"messages": CONVERSATION * 2, "id": 1}
    with pytest.raises(RowRefused, match="unknown role: manager"):
        read({"ticket": [{"who": "manager", "said": "q"}]}, mapping=spec)


def test_texts_can_be_made_of_columns() -> None:
    spec = {"user": "{question} (in {place name})", "assistant": "answer", "system": "rules", "date": "day"}
    row = {"question": "q", "place name": "Ulm", "answer": 42, "rules": "s", "day": "2025-01-02", "id": 1}
    record = read(row, mapping=spec)
    assert [message["content"] for message in record.messages] == ["s", "q (in Ulm)", "42"]
    assert (record.meta["format"], record.unused, record.meta["date"]) == ("mapped", {"id": 1}, "2025-01-02")
    assert same(write(record), row)
    changed = record.mapped(lambda text: text.replace("Ulm", "[PLACE]"))
    with pytest.raises(RowRefused, match="was changed; write it as messages"):
        write(changed)
    assert write(changed, "messages") == {
        "messages": [SYSTEM, {"role": "user", "content": "q (in [PLACE])"}, {"role": "assistant", "content": "42"}],
        "date": "2025-01-02",
        "id": 1,
    }


def test_preferences_labels_and_texts_can_be_made_of_columns() -> None:
    for spec, row in (
        ({"user": "q", "chosen": "good", "rejected": "bad"}, {"q": "q", "good": "a", "bad": "b"}),
        ({"user": "q", "assistant": "a", "label": "ok"}, {"q": "q", "a": "a", "ok": 1}),
        ({"user": "q", "assistant": "a", "label": "ok"}, {"q": "q", "a": "a", "ok": "False"}),
        ({"text": "{title}\n\n{body}"}, {"title": "t", "body": "b", "split": "train"}),
        ({"text": "body", "split": "part"}, {"body": "b", "part": "test"}),
        ({"user": "q", "assistant": "a", "system": "s"}, {"q": "q", "a": "a", "s": None}),
        ({"user": "q", "assistant": "a", "system": "s"}, {"q": "q", "a": "a", "s": ""}),
    ):
        record = read(row, mapping=spec)
        assert same(write(record), row)
        assert record.label in (None, row.get("ok") == 1)


values = said | st.integers() | st.floats(allow_nan=False)


@given(row=st.fixed_dictionaries({"a": values, "b": values, "c": said, "s": st.text(max_size=3) | st.none()}))
def test_a_row_made_of_columns_is_written_as_it_was_read(row: dict[str, Any]) -> None:
    spec = {"user": "{a}{b} and {{so}} on {a}", "assistant": "c", "system": "s"}
    record = read(row, mapping=spec)
    assert record.messages[-2]["content"] == f"{row['a']}{row['b']} and {{so}} on {row['a']}"
    assert same(write(record), row)
    assert write(record.mapped(lambda text: text)) == row


def test_columns_that_are_not_there_are_told_loudly() -> None:
    mapping = compile_mapping({"format": "alpaca", "columns": {"instruction": "questoin", "output": "answer"}})
    with pytest.raises(
        DataError, match=r'faq.csv lacks .*\n  "questoin" is not there. Did you mean "question"\?\n.*answer, id'
    ):
        mapping.check(["question", "answer", "id"], "faq.csv")
    mapping.check(["questoin", "answer"], "faq.csv")
    with pytest.raises(RowRefused, match="missing column: questoin; its columns are answer, question"):
        read({"question": "q", "answer": "a"}, mapping=mapping)
    with pytest.raises(RowRefused, match="a mapping needs columns"):
        read(CONVERSATION, mapping=mapping)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"q": None, "a": "a"}, "q is null, not text"),
        ({"q": float("nan"), "a": "a"}, "q is not a number"),
        ({"q": True, "a": "a"}, "q is bool, not text"),
        ({"q": "q", "a": ""}, "empty answer"),
        ({"q": ["q"], "a": "a"}, "q is list, not text"),
    ],
)
def test_a_row_whose_columns_hold_no_text_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRefused, match=reason):
        read(row, mapping={"user": "{q}", "assistant": "a"})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"format": "alpacca"}, 'Did you mean "alpaca"'),
        ({"columns": {"a": "b"}}, "unknown format"),
        ({"format": "alpaca", "columns": {"question": "q"}}, "alpaca has: instruction, output, input"),
        ({"format": "alpaca", "columns": ["q"]}, "must be pairs"),
        ({"format": "alpaca", "columns": {"output": 3}}, "must be the name of a column"),
        ({"format": "alpaca", "columns": {"output": "a", "input": "a"}}, "a column can be only one key"),
        ({"format": "alpaca", "user": "q"}, "allowed here: format, columns, turns, roles, merge"),
        ({"format": "alpaca", "roles": {"agent": "user"}}, "only messages and sharegpt have turns"),
        ({"format": "messages", "roles": {"agent": "helper"}}, "known: system, user, assistant, tool"),
        ({"format": "messages", "turns": {"speaker": "who"}}, "known: role, content"),
        ({"format": "messages", "turns": "who"}, "must be pairs of words"),
        ({"user": "q"}, "must have"),
        ({}, "must have"),
        ({"usr": "q", "assistant": "a"}, 'Did you mean "user"'),
        ({"user": "{}", "assistant": "a"}, "braces must hold a column's name"),
        ({"user": "{q:>3}", "assistant": "a"}, "cannot have a format"),
        ({"user": "{q", "assistant": "a"}, "expected '}'"),
        ({"user": "{{q}}", "assistant": "a"}, "must name a column in braces"),
        ({"user": 3, "assistant": "a"}, "must be a column, or a template"),
        ({"user": "q", "assistant": "a", "label": "{a} {b}"}, "must be one column"),
        ({"text": "t", "system": "s"}, "has no system prompt"),
        ({"format": "alpaca", "merge": "yes"}, "must be true or false"),
    ],
)
def test_a_wrong_mapping_is_a_wrong_recipe(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        compile_mapping(spec)


def test_every_problem_of_a_mapping_is_told_at_once() -> None:
    with pytest.raises(RecipeError, match="2 problems"):
        compile_mapping({"usr": "q", "user": "{"})
