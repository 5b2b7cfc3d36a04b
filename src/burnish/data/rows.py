"""A dataset's Parquet files: written once, byte for byte the same for the same rows, and read by those who train."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from burnish.core.errors import DataError
from burnish.core.rows import TokenRow
from burnish.data.pair import read_content
from burnish.data.shelf import MOST_BYTES, SHELF, ShelfWriter, Shelved, cuts, indexed, write_index
from burnish.data.tables import ROWS, TOKENS, Tables, release_unused
from burnish.text.messages import Message


class MessageRow(NamedTuple):
    """A row as text: the conversation with its system prompt, and where it came from.

    Of a preference pair `messages` is the conversation with the chosen answer, `rejected` that with the other one.
    `source` is the file's name; `start` and `end` are the span in it, 0 and 0 for the whole line. `group` is a hash.
    `source_name` is what the recipe calls the source, where it names several; `difficulty` what the row says of it.
    `synthetic` is how a model made the row, `teacher` which one; None for rows that no model wrote.
    """

    row_id: str
    messages: list[Message]
    date: str | None
    source: str
    line: int
    format: str
    tools: list[dict[str, Any]] | None = None
    start: int = 0
    end: int = 0
    group: str | None = None
    created_at: str | None = None
    license: str | None = None
    source_name: str | None = None
    difficulty: float | None = None
    synthetic: str | None = None
    teacher: str | None = None
    rejected: list[Message] | None = None


def rows_path(folder: Path, split: str) -> Path:
    """Where the index of a split's rows lies."""
    return folder / f"{split}.rows.json"


def tokens_path(folder: Path, split: str) -> Path:
    """Where the index of a split's token ids lies."""
    return folder / f"{split}.tokens.json"


class SplitWriter:
    """Writes a split onto a shelf: its rows and its token ids in files that end after the same rows, and an index of each."""

    def __init__(self, folder: Path, split: str, shelf: Path | None = None) -> None:
        """Begin. The indices are written into `folder`, the files into `shelf` (default: a folder in it)."""
        self.rows_file, self.tokens_file = rows_path(folder, split), tokens_path(folder, split)
        self.shelf = folder / SHELF if shelf is None else shelf
        self.files: list[tuple[Shelved, Shelved]] = []
        self._rows, self._tokens = ShelfWriter(self.shelf, ROWS), ShelfWriter(self.shelf, TOKENS)
        self._open = False

    def add(self, rows: Tables) -> None:
        """Write rows and their renderings."""
        start = 0
        for end in cuts(rows.rows.column("id").to_pylist()):
            self._add(rows.taken(np.arange(start, end)))
            self._cut()
            start = end
        if start < len(rows):
            self._add(rows.taken(np.arange(start, len(rows))))
            if max(self._rows.bytes, self._tokens.bytes) >= MOST_BYTES:
                self._cut()

    def close(self) -> None:
        """Finish the last files, and write the indices."""
        if self._open:
            self._cut()
        for path, which in ((self.rows_file, 0), (self.tokens_file, 1)):
            write_index(path, self.shelf, [pair[which] for pair in self.files])

    def _add(self, rows: Tables) -> None:
        self._rows.add(rows.rows)
        self._tokens.add(rows.tokens)
        self._open = True

    def _cut(self) -> None:
        self.files.append((self._rows.cut(), self._tokens.cut()))
        self._open = False


def read_token_rows(path: Path) -> list[TokenRow]:
    """Read the token rows of an index or a Parquet file. Raises DataError when it is missing or damaged."""
    return list(iterate_token_rows(path))


def iterate_token_rows(path: Path) -> Iterator[TokenRow]:
    """Yield the token rows of an index or a Parquet file, some thousand in memory at a time.

    Equal token ids are one object, so that who keeps all rows holds 16 bytes a token (id and mask) and not 48.
    """
    same = dict[int, int]().setdefault
    for row in _rows_of(path, TOKENS):
        ids = tuple([same(each, each) for each in row["ids"]])
        yield TokenRow(row["id"], ids, tuple(row["mask"]), row["prefix"], row["prompt"])


def read_messages(path: Path) -> list[MessageRow]:
    """Read the rows of an index or a Parquet file, in the order of its tokens. Raises DataError when it is missing or damaged."""
    return list(iterate_messages(path))


def iterate_messages(path: Path) -> Iterator[MessageRow]:
    """Yield the rows of an index or a Parquet file, some thousand in memory at a time."""
    for row in stored_rows(path):
        messages, rejected = read_content(row["messages"])
        yield MessageRow(
            row_id=row["id"],
            messages=messages,
            rejected=rejected,
            tools=None if row["tools"] is None else json.loads(row["tools"]),
            **{name: row[name] for name in ROWS.names if name not in ("id", "messages", "tools")},
        )


def stored_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an index or a Parquet file as their columns stand there, some thousand in memory at a time.

    Raises DataError when a file is missing, damaged or has other columns.
    """
    return _rows_of(path, ROWS)


def _rows_of(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for file in indexed(path):
        yield from _rows_of_file(file, schema)
    release_unused()


def _rows_of_file(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            later = [field.name for field in schema if field.nullable and field.name not in names]
            if [*names, *later] != schema.names:
                raise DataError(f"{path} has columns {', '.join(names)}; expected {', '.join(schema.names)}")
            for batch in file.iter_batches(batch_size=4096):
                for row in cast(list[dict[str, Any]], batch.to_pylist()):
                    yield row if not later else {**row, **dict.fromkeys(later)}  # columns that came in later are null
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}. Make it again with: burnish prepare") from error
