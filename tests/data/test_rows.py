"""The same rows give the same bytes, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.core.errors import DataError
from burnish.core.rows import TokenRow
from burnish.data.rows import MessageRow, read_messages, read_token_rows, write_message_rows, write_token_rows
from burnish.text.messages import Message

MESSAGES = [Message(role="user", content="Zürich 🛬\n"), Message(role="assistant", content='{"to": "ZRH"}')]
TEXT = [
    MessageRow("id1", MESSAGES, "2025-07-08", "rows.jsonl", 7, "messages"),
    MessageRow("id2", MESSAGES, None, "r", 1, "alpaca"),
]
TOKENS = [TokenRow("id1", (1, 2, 49151), (0, 1, 1), 0, 1), TokenRow("id2", (5,), (0,), 1, 1)]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_message_rows(tmp_path / "a.parquet", TEXT)
    write_token_rows(tmp_path / "b.parquet", TOKENS)
    assert read_messages(tmp_path / "a.parquet") == TEXT
    assert read_token_rows(tmp_path / "b.parquet") == TOKENS


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_message_rows(tmp_path / f"{name}.rows", TEXT)
        write_token_rows(tmp_path / f"{name}.tokens", TOKENS)
    assert (tmp_path / "a.rows").read_bytes() == (tmp_path / "b.rows").read_bytes()
    assert (tmp_path / "a.tokens").read_bytes() == (tmp_path / "b.tokens").read_bytes()


def test_the_columns_and_their_types_are_those_that_others_may_rely_on(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_token_rows(tmp_path / "b.parquet", TOKENS)
    write_message_rows(tmp_path / "a.parquet", TEXT)
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "b.parquet")}
    assert types["id"] == "string"
    assert types["ids"].startswith("list<")
    assert types["ids"].endswith("int32>")
    assert types["mask"].endswith("uint8>")
    assert (types["prefix"], types["prompt"]) == ("int32", "int32")
    assert pq.read_schema(tmp_path / "a.parquet").names == ["id", "messages", "date", "source", "line", "format"]


@pytest.mark.parametrize("content", [None, b"", b"not parquet at all"])
def test_a_missing_or_damaged_file_says_how_to_make_it_again(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match="burnish prepare"):
        read_token_rows(tmp_path / "x.parquet")


def test_a_file_of_other_columns_is_an_error(tmp_path: Path) -> None:
    write_message_rows(tmp_path / "a.parquet", TEXT)
    with pytest.raises(DataError, match="expected id, ids, mask, prefix, prompt"):
        read_token_rows(tmp_path / "a.parquet")
