"""Every line is in the ledger once, and what is written about it shows nobody's data."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from burnish.data.ledger import Book, Place


def place(line: int, text: str = "{}", file: str = "rows.jsonl") -> Place:
    return Place(file, line, text)


def test_rows_in_are_rows_kept_and_rows_rejected() -> None:
    book = Book()
    book.rows_in = 4
    book.reject(place(2), "broken JSON")
    book.reject(place(3), "blank line")
    book.reject(place(4), "blank line")
    assert book.ledger(1).rejected == {"blank line": 2, "broken JSON": 1}
    with pytest.raises(ValueError, match="rows in"):
        book.ledger(2)


def test_reasons_are_counted_with_the_first_line_of_each() -> None:
    book = Book()
    book.reject(place(9), "blank line")
    book.reject(place(2, file="other.jsonl"), "broken JSON", "at ann@example.com")
    book.reject(place(11), "blank line")
    assert book.reasons().splitlines() == [
        "  2 x blank line (first rows.jsonl:9)",
        "  1 x broken JSON (first other.jsonl:2: at [EMAIL])",
    ]
    assert book.reasons("other.jsonl").splitlines() == ["  1 x broken JSON (first other.jsonl:2: at [EMAIL])"]


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
def test_the_file_of_rejected_lines_is_json_without_personal_data(tmp_path: Path, text: str, shown: str) -> None:
    book = Book()
    book.reject(place(1, text), "broken JSON", "ann@example.com")
    book.write_rejected(tmp_path / "rejected.jsonl")
    record = json.loads((tmp_path / "rejected.jsonl").read_text(encoding="utf-8"))
    assert record == {"file": "rows.jsonl", "line": 1, "reason": "broken JSON", "detail": "[EMAIL]", "row": shown}


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    Book().write_rejected(tmp_path / "rejected.jsonl")
    assert stat.S_IMODE((tmp_path / "rejected.jsonl").stat().st_mode) == 0o600


def test_lines_are_in_the_order_of_the_files_and_cut_where_long(tmp_path: Path) -> None:
    book = Book()
    for file, line in [("b", 1), ("a", 10), ("a", 2)]:
        book.reject(place(line, "word " * 4000, file), "broken JSON")
    book.write_rejected(tmp_path / "rejected.jsonl")
    records = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(record["file"], record["line"]) for record in records] == [("a", 2), ("a", 10), ("b", 1)]
    assert all(len(record["row"]) == 1000 for record in records)
