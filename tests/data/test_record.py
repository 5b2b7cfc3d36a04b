"""The canonical record: every text in it can be seen and changed, and nothing of the old text stays behind."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from burnish.data.formats.rows import read_any, write
from burnish.data.record import Origin, RawRow, Record

CALL = {"id": "c1", "type": "function", "function": {"name": "send", "arguments": '{"to": "ann@x.org", "n": 4111}'}}
EVERYWHERE: dict[str, Any] = {
    "system": "for ann@x.org",
    "messages": [
        {"role": "user", "name": "ann@x.org", "content": "I am ann@x.org"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sent to ann@x.org"},
        {"role": "assistant", "content": "Done, ann@x.org"},
    ],
    "tools": [{"type": "function", "function": {"name": "send", "description": "as ann@x.org does"}}],
    "license": "granted by ann@x.org",
    "language": "en, says ann@x.org",
    "created_at": "yesterday by ann@x.org",
    "owner": {"mail": "ann@x.org", "ann@x.org": ["ann@x.org", 7, None, True]},
}


def test_a_changed_text_is_nowhere_left_in_what_is_written() -> None:
    record = read_any(EVERYWHERE).mapped(lambda text: text.replace("ann@x.org", "[EMAIL]"))
    assert "ann@x.org" not in json.dumps(write(record))
    assert "ann@x.org" not in repr(record)
    assert json.dumps(write(record)).replace("[EMAIL]", "ann@x.org") == json.dumps(write(read_any(EVERYWHERE)))


def test_a_day_is_never_changed() -> None:
    row = {"text": "t", "date": "2026-01-02", "created_at": "2026-01-02T10:00:00Z", "group": "g"}
    record = read_any(row).mapped(lambda text: "[PHONE]")
    assert write(record) == row | {"text": "[PHONE]"}


@pytest.mark.parametrize(
    "value",
    [
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name":"f","arguments":{"to":"ann\\u0040x.org"}}'},
            ]
        },
        {
            "tools": '[{"name":"f","description":"ann\\u0040x.org"}]',
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        },
        {"instruction": "Write to", "input": "ann@x.org", "output": "Yes"},
        {"prompt": "q", "chosen": "ann@x.org", "rejected": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "ann@x.org"},
        {"text": "ann@x.org"},
        {"text": "### Human: I am ann@x.org\n### Assistant: Hello"},
    ],
)
def test_json_that_was_kept_as_typed_does_not_keep_the_old_text(value: dict[str, Any]) -> None:
    assert write(read_any(value)) == value
    record = read_any(value).mapped(lambda text: text.replace("ann@x.org", "[EMAIL]"))
    for said in (json.dumps(write(record)), repr(record)):
        assert "ann" not in said
        assert "[EMAIL]" in said


def test_the_texts_are_those_that_are_changed() -> None:
    texts = list(read_any(EVERYWHERE).texts())
    assert sum("ann@x.org" in text for text in texts) == 13
    assert "4111" in texts, "a number may be a card's"
    assert "c1" not in texts


def test_the_two_parts_of_an_alpaca_request_are_changed_each() -> None:
    value = {"instruction": "a", "input": "b", "output": "c", "system": "s"}
    record = read_any(value)
    assert list(record.texts()) == ["s", "a", "b", "c"]
    longer = record.mapped(lambda text: text * 3)
    assert write(longer) == {"instruction": "aaa", "input": "bbb", "output": "ccc", "system": "sss"}
    emptied = record.mapped(lambda text: "" if text == "b" else text)
    assert emptied.messages[1]["content"] == "a"
    assert write(emptied) == value | {"input": ""}


def test_two_keys_that_become_one_placeholder_stay_two() -> None:
    record = read_any({"text": "t", "seen": {"a@x.org": 1, "b@x.org": 2}}).mapped(lambda _: "[EMAIL]")
    assert record.unused == {"seen": {"[EMAIL]": "[EMAIL]", "[EMAIL] 2": "[EMAIL]"}}


@pytest.mark.parametrize(
    ("date", "day"),
    [
        ("2025-07-15", datetime.date(2025, 7, 15)),
        ("2024-02-29", datetime.date(2024, 2, 29)),
        ("2025-02-29", None),
        ("2025-7-15", None),
        ("20250715", None),
        ("2025-07-15T10:00", datetime.date(2025, 7, 15)),
        ("2025-07-15 00:00:00", datetime.date(2025, 7, 15)),
        ("2025-07-15T23:59:59.123+02:00", datetime.date(2025, 7, 15)),
        ("2025-07-15T10:00Z and later", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_a_date_is_a_day_only_as_year_month_day_with_or_without_a_time(date: str, day: datetime.date | None) -> None:
    assert read_any({"prompt": "q", "completion": "a", "date": date}).day() == day


def test_a_record_without_a_date_has_no_day() -> None:
    assert Record(text="t").day() is None


def test_a_row_was_made_on_its_date_else_when_it_was_created() -> None:
    answered = {"prompt": "q", "completion": "a", "created_at": "2025-07-01T09:00:00Z"}
    assert read_any(answered).day() is None
    assert read_any(answered).day_created() == datetime.date(2025, 7, 1)
    assert read_any({**answered, "date": "2025-07-15"}).day_created() == datetime.date(2025, 7, 15)
    assert read_any({**answered, "created_at": 1751360400}).day_created() is None


def test_a_raw_row_says_where_it_is_from() -> None:
    row = RawRow(Origin("faq", "faq.jsonl", 3), {"text": "t"}, '{"text": "t"}')
    assert (row.origin.line, row.origin.start, row.origin.end, row.reason) == (3, 0, 0, None)
