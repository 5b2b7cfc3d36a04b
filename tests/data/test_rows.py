"""The same rows give the same bytes, and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from burnish.core.errors import DataError
from burnish.core.rows import TokenRow
from burnish.data.chunk import Rendering, Row
from burnish.data.rows import MessageRow, SplitWriter, read_messages, read_token_rows, rows_path, tokens_path
from burnish.data.shelf import indexed
from burnish.data.tables import Tables, tables
from burnish.text.messages import Message

MESSAGES = [Message(role="user", content="Zürich 🛬\n"), Message(role="assistant", content='{"to": "ZRH"}')]
TOOLS = [{"type": "function", "function": {"name": "fly"}}]


def rendering(ids: tuple[int, ...], mask: tuple[int, ...], prefix: int, prompt: int) -> Rendering:
    return Rendering(np.array(ids, np.uint16), np.array(mask, np.uint8), prefix, prompt)


def row(row_id: str, *renderings: Rendering, **more: object) -> Row:
    values = {
        "line": 7, "start": 10, "end": 90, "file": "some/folder/rows.jsonl", "row_id": row_id,
        "messages": json.dumps(MESSAGES, ensure_ascii=False), "tools": None, "date": None, "format": "messages",
        "group": None, "created_at": None, "license": None, "renderings": renderings,
        "tokens": sum(len(each.ids) for each in renderings), "tokens_in": 0,
    } | more  # fmt: skip
    return Row(**values)  # pyright: ignore[reportArgumentType]


ROWS = [
    row("id1", rendering((1, 2, 49151), (0, 1, 1), 0, 1), date="2025-07-08", license="CC0-1.0", group="ab"),
    row("id2", rendering((5,), (0,), 1, 1), rendering((5, 6), (0, 1), 1, 1), tools=json.dumps(TOOLS)),
]


def write(folder: Path, rows: list[Row]) -> Path:
    writer = SplitWriter(folder, "train")
    writer.add(tables(rows))
    writer.close()
    return folder


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    first, second = read_messages(rows_path(tmp_path, "train"))
    assert first == MessageRow(
        "id1", MESSAGES, "2025-07-08", "rows.jsonl", 7, "messages", None, 10, 90, "ab", None, "CC0-1.0"
    )
    assert second.tools == TOOLS


def test_each_rendering_is_a_token_row_and_the_last_answers_has_the_rows_id(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    assert read_token_rows(tokens_path(tmp_path, "train")) == [
        TokenRow("id1", (1, 2, 49151), (0, 1, 1), 0, 1),
        TokenRow("id2#1", (5,), (0,), 1, 1),
        TokenRow("id2", (5, 6), (0, 1), 1, 1),
    ]


def test_equal_token_ids_are_one_object_so_that_rows_in_memory_take_a_third(tmp_path: Path) -> None:
    write(tmp_path, [row("a", rendering((40_000, 7), (0, 1), 0, 1)), row("b", rendering((8, 40_000), (0, 1), 0, 1))])
    first, second = read_token_rows(tokens_path(tmp_path, "train"))
    assert first.ids[0] is second.ids[1]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, ROWS) for name in "ab")
    for path in (rows_path, tokens_path):
        assert path(a, "train").read_bytes() == path(b, "train").read_bytes()


def test_a_split_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert read_messages(rows_path(tmp_path, "train")) == []
    assert read_token_rows(tokens_path(tmp_path, "train")) == []


def test_many_rows_are_written_in_several_files_and_none_is_lost(tmp_path: Path) -> None:
    many = [row(f"id{number}", rendering((number % 60000,), (1,), 0, 0)) for number in range(70_000)]
    write(tmp_path, many)
    assert 4 <= len(indexed(rows_path(tmp_path, "train"))) <= 16
    read = read_token_rows(tokens_path(tmp_path, "train"))
    assert [each.row_id for each in read] == [each.row_id for each in many]
    assert [each.ids[0] for each in read] == [number % 60000 for number in range(70_000)]


def test_the_columns_and_their_types_are_those_that_others_may_rely_on(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    types = {field.name: str(field.type) for field in pq.read_schema(indexed(tokens_path(tmp_path, "train"))[0])}
    assert types["id"] == "string"
    assert types["ids"].startswith("list<")
    assert types["ids"].endswith("int32>")
    assert types["mask"].endswith("uint8>")
    assert (types["prefix"], types["prompt"]) == ("int32", "int32")
    assert pq.read_schema(indexed(rows_path(tmp_path, "train"))[0]).names == [
        "id", "messages", "tools", "date", "source", "line", "start", "end", "format", "group", "created_at", "license",
        "source_name", "difficulty", "synthetic", "teacher",
    ]  # fmt: skip


def test_tables_come_back_from_bytes_and_can_be_taken_apart(tmp_path: Path) -> None:
    whole = tables(ROWS)
    again = Tables.thawed(whole.frozen())
    assert again.rows.equals(whole.rows)
    assert again.tokens.equals(whole.tokens)
    second = again.taken(np.array([1]))
    assert second.rows.column("id").to_pylist() == ["id2"]
    assert second.tokens.column("id").to_pylist() == ["id2#1", "id2"]
    assert second.renderings.tolist() == [2]
    assert second.sizes().trained.tolist() == [0, 1]
    assert again.sizes().answers.tolist() == [2, 0, 1]
    assert [row.row_id for row in again.last_renderings()] == ["id1", "id2"]
    assert Tables.thawed(tables([]).frozen()).rows.num_rows == 0


@pytest.mark.parametrize("content", [None, b"", b"not parquet at all"])
def test_a_missing_or_damaged_file_says_how_to_make_it_again(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match="burnish prepare"):
        read_token_rows(tmp_path / "x.parquet")


def test_a_file_of_other_columns_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(DataError, match="expected id, ids, mask, prefix, prompt"):
        read_token_rows(rows_path(tmp_path, "train"))
