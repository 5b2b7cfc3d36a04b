"""Every line is in the ledger once, and what is written about it shows nobody's data."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from burnish.data.chunk import COLUMNS, Chunk, Counts, Refused, packed
from burnish.data.ledger import Book, redacted_line, rejected_line
from burnish.data.near.shingle import words_of
from burnish.data.tables import tables


def refused(line: int, reason: str, detail: str = "", file: str = "rows.jsonl") -> Refused:
    return Refused(line, file, reason, detail, "{}")


def chunk(*refusals: Refused, rows: int = 0) -> Chunk:
    counts = Counts()
    counts.lines["rows.jsonl"] = rows + len(refusals)
    counts.formats["rows.jsonl", "alpaca"] = rows
    first = {each.reason: each for each in reversed(refusals)}
    reasons = Counter(each.reason for each in refusals)
    return Chunk(
        tables([]).frozen(),
        packed([]),
        packed([]),
        words_of([]),
        np.zeros(0, COLUMNS),
        [],
        counts,
        list(first.values()),
        reasons,
    )


def test_rows_in_are_rows_kept_and_rows_rejected() -> None:
    book = Book()
    book.enter(0, chunk(refused(2, "broken JSON"), refused(3, "blank line"), rows=2))
    book.enter(0, chunk(refused(6, "blank line")))
    book.reject(0, refused(1, "duplicate"))
    assert book.ledger(1).rejected == {"blank line": 2, "broken JSON": 1, "duplicate": 1}
    assert (book.lines(0), book.usable(0)) == (5, 2)
    with pytest.raises(ValueError, match="rows in"):
        book.ledger(2)


def test_reasons_are_counted_with_the_first_line_of_each() -> None:
    book = Book()
    book.enter(0, chunk(refused(9, "blank line"), refused(11, "blank line")))
    book.enter(1, chunk(refused(2, "broken JSON", "at ann@example.com", "other.jsonl")))
    book.enter(1, chunk(refused(4, "broken JSON", "later", "other.jsonl")))
    assert book.reasons().splitlines() == [
        "  2 x blank line (first rows.jsonl:9)",
        "  2 x broken JSON (first other.jsonl:2: at [EMAIL])",
    ]
    assert book.reasons(1).splitlines() == ["  2 x broken JSON (first other.jsonl:2: at [EMAIL])"]
    assert book.reasons(2) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a": "x\\n212-555-0123"}', '{"a": "x\\n[PHONE]"}'),
        ('{"a": ["ann@example.com"], "n": 4111111111111111}', '{"a": ["[EMAIL]"], "n": "[CARD]"}'),
        ('{"a": "b\\n212-555-0123", broken ann@example.com', '{"a": "b [PHONE]", broken [EMAIL]'),
        ("half \ud83d of a pair", "half \ud83d of a pair"),
        ('{"a": "\\ud83d"}', '{"a": "\ud83d"}'),
    ],
)
def test_a_rejected_line_is_json_without_personal_data(text: str, shown: str) -> None:
    line = rejected_line(Refused(1, "rows.jsonl", "broken JSON", "cut", redacted_line(text)))
    record = json.loads(line.decode("utf-8"))
    assert record == {"file": "rows.jsonl", "line": 1, "reason": "broken JSON", "detail": "cut", "row": shown}


def test_long_lines_are_cut_after_what_is_personal_is_gone() -> None:
    assert len(redacted_line("word " * 8000)) == 20_000
    assert json.loads(redacted_line(json.dumps({"a": "word " * 3000}))) == {"a": "word " * 3000}, "whole, to be mended"
    assert "ann" not in redacted_line("x" * 19_990 + " ann@example.com")
