"""A dataset's Parquet files: written once, byte for byte the same for the same rows, and read by those who train."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.core.errors import DataError
from burnish.core.rows import TokenRow
from burnish.data.tables import ROWS, TOKENS, Tables
from burnish.store.files import unwritable
from burnish.text.messages import Message

_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20
"""A row group is written when it has so many rows, or holds so much text or so many tokens."""


class MessageRow(NamedTuple):
    """A row as text: the conversation with its system prompt, and where it came from.

    `source` is the file's name; `start` and `end` are the span in it, 0 and 0 for the whole line. `group` is a hash.
    `source_name` is what the recipe calls the source, where it names several; `difficulty` what the row says of it.
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


def rows_path(folder: Path, split: str) -> Path:
    """Where a split's rows lie."""
    return folder / f"{split}.rows.parquet"


def tokens_path(folder: Path, split: str) -> Path:
    """Where a split's token ids lie."""
    return folder / f"{split}.tokens.parquet"


class SplitWriter:
    """Writes the two files of a split; holds one row group of each."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open both files."""
        self.rows_file, self.tokens_file = rows_path(folder, split), tokens_path(folder, split)
        self._rows, self._tokens = _Table(self.rows_file, ROWS), _Table(self.tokens_file, TOKENS)

    def add(self, rows: Tables) -> None:
        """Write rows and their renderings."""
        self._rows.add(rows.rows)
        self._tokens.add(rows.tokens)

    def close(self) -> None:
        """Write what is left and finish the files."""
        self._rows.close()
        self._tokens.close()


class _Table:
    """A Parquet file that grows by row groups. Fixed choices, so that the same rows give the same bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, version="2.6")
        except OSError as error:
            raise unwritable(path, error) from error

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += len(batch)
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema), row_group_size=_GROUP_ROWS)
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._batches, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        try:
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self._path, error) from error


def read_token_rows(path: Path) -> list[TokenRow]:
    """Read a `<split>.tokens.parquet`. Raises DataError when it is missing or damaged."""
    return list(iterate_token_rows(path))


def iterate_token_rows(path: Path) -> Iterator[TokenRow]:
    """Yield the rows of a `<split>.tokens.parquet`, some thousand in memory at a time."""
    for row in _read(path, TOKENS):
        yield TokenRow(row["id"], tuple(row["ids"]), tuple(row["mask"]), row["prefix"], row["prompt"])


def read_messages(path: Path) -> list[MessageRow]:
    """Read a `<split>.rows.parquet`, in the order of its tokens. Raises DataError when it is missing or damaged."""
    return list(iterate_messages(path))


def iterate_messages(path: Path) -> Iterator[MessageRow]:
    """Yield the rows of a `<split>.rows.parquet`, some thousand in memory at a time."""
    for row in _read(path, ROWS):
        yield MessageRow(
            row_id=row["id"],
            messages=cast(list[Message], json.loads(row["messages"])),
            tools=None if row["tools"] is None else json.loads(row["tools"]),
            **{name: row[name] for name in ROWS.names if name not in ("id", "messages", "tools")},
        )


def _read(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
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
