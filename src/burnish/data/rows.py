"""A dataset's Parquet files: written once, byte for byte the same for the same rows, and read by those who train."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.core.errors import DataError
from burnish.core.rows import TokenRow
from burnish.store.files import write_bytes
from burnish.text.messages import Message

_ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("date", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
    ]
)
_TOKENS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.int32()), nullable=False),
        pa.field("mask", pa.list_(pa.uint8()), nullable=False),
        pa.field("prefix", pa.int32(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
    ]
)


class MessageRow(NamedTuple):
    """A row as text: the conversation with its system prompt, and where it came from."""

    row_id: str
    messages: list[Message]
    date: str | None
    source: str
    line: int
    format: str


def rows_path(folder: Path, split: str) -> Path:
    """Where a split's rows lie."""
    return folder / f"{split}.rows.parquet"


def tokens_path(folder: Path, split: str) -> Path:
    """Where a split's token ids lie."""
    return folder / f"{split}.tokens.parquet"


def write_message_rows(path: Path, rows: Sequence[MessageRow]) -> None:
    """Write rows as text, atomically."""
    columns = {
        "id": [row.row_id for row in rows],
        "messages": [json.dumps(row.messages, ensure_ascii=False, separators=(",", ":")) for row in rows],
        "date": [row.date for row in rows],
        "source": [row.source for row in rows],
        "line": [row.line for row in rows],
        "format": [row.format for row in rows],
    }
    _write(path, pa.table(columns, schema=_ROWS))


def write_token_rows(path: Path, rows: Sequence[TokenRow]) -> None:
    """Write rows as token ids, atomically."""
    columns = {
        "id": [row.row_id for row in rows],
        "ids": [row.ids for row in rows],
        "mask": [row.mask for row in rows],
        "prefix": [row.prefix for row in rows],
        "prompt": [row.prompt for row in rows],
    }
    _write(path, pa.table(columns, schema=_TOKENS))


def read_token_rows(path: Path) -> list[TokenRow]:
    """Read a `<split>.tokens.parquet`. Raises DataError when it is missing or damaged."""
    return [
        TokenRow(row["id"], tuple(row["ids"]), tuple(row["mask"]), row["prefix"], row["prompt"])
        for row in _read(path, _TOKENS)
    ]


def read_messages(path: Path) -> list[MessageRow]:
    """Read a `<split>.rows.parquet`, in the order of its tokens. Raises DataError when it is missing or damaged."""
    return [
        MessageRow(
            row["id"],
            cast(list[Message], json.loads(row["messages"])),
            row["date"],
            row["source"],
            row["line"],
            row["format"],
        )
        for row in _read(path, _ROWS)
    ]


def _write(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    # Fixed choices, so that the same rows give the same bytes; Parquet itself holds no time.
    pq.write_table(table, buffer, compression="zstd", compression_level=3, version="2.6", row_group_size=65536)
    write_bytes(path, buffer.getvalue())


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}. Make it again with: burnish prepare") from error
    if table.schema.names != schema.names:
        raise DataError(f"{path} has columns {', '.join(table.schema.names)}; expected {', '.join(schema.names)}")
    return cast(list[dict[str, Any]], table.to_pylist())
