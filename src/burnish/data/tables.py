"""Rows as Arrow tables: what a worker makes of them, what lies in the spool, and what the Parquet files hold."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from burnish.core.rows import TokenRow
from burnish.data.chunk import Row
from burnish.data.near.shingle import running

I64 = npt.NDArray[np.int64]

ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("tools", pa.string()),
        pa.field("date", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("created_at", pa.string()),
        pa.field("license", pa.string()),
        pa.field("source_name", pa.string()),
        pa.field("difficulty", pa.float64()),
        pa.field("synthetic", pa.string()),
        pa.field("teacher", pa.string()),
    ]
)
TOKENS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.int32()), nullable=False),
        pa.field("mask", pa.list_(pa.uint8()), nullable=False),
        pa.field("prefix", pa.int32(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
    ]
)
EARLIER = "#"
"""In the id of a token row: a rendering of an earlier answer, where the template rewrites turns. The last answer's has none."""
_COMPRESSED = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of renderings, one each: tokens, those with loss, those of the last answer with loss, those of the prefix."""

    tokens: I64
    trained: I64
    answers: I64
    prefixes: I64


@dataclass(frozen=True, slots=True)
class Tables:
    """Some rows, and their renderings: `renderings[i]` of them belong to row i."""

    rows: pa.RecordBatch
    tokens: pa.RecordBatch
    renderings: I64

    def taken(self, places: I64) -> Tables:
        """Return some of the rows with their renderings. places: ascending."""
        if len(places) == len(self.rows):
            return self
        chosen = np.zeros(len(self.rows), np.bool_)
        chosen[places] = True
        return Tables(
            self.rows.filter(pa.array(chosen)),
            self.tokens.filter(pa.array(np.repeat(chosen, self.renderings))),
            self.renderings[places],
        )

    def __len__(self) -> int:
        return len(self.rows)

    def messages(self, place: int) -> str:
        """Return the messages of a row as JSON."""
        return self.rows.column("messages")[place].as_py()

    def last_renderings(self) -> Iterator[TokenRow]:
        """Yield the rendering of each row's last answer."""
        last = self.tokens.take(pa.array(running([self.renderings])[1:] - 1))
        for each in last.to_pylist():
            yield TokenRow(each["id"], tuple(each["ids"]), tuple(each["mask"]), each["prefix"], each["prompt"])

    def sizes(self) -> Sizes:
        """Count the tokens of each rendering."""
        starts, ends, mask = _flat(self.tokens, "mask")
        with_loss = running([mask])
        prompts = starts + self.tokens.column("prompt").to_numpy()
        prefixes = self.tokens.column("prefix").to_numpy().astype(np.int64)
        return Sizes(ends - starts, with_loss[ends] - with_loss[starts], with_loss[ends] - with_loss[prompts], prefixes)

    def prefixes(self) -> dict[bytes, int]:
        """Return the different prefixes of renderings, by hash, with how many tokens each has."""
        starts, _, ids = _flat(self.tokens, "ids")
        found: dict[bytes, int] = {}
        for start, size in zip(starts.tolist(), self.tokens.column("prefix").to_pylist(), strict=True):
            found[hashlib.blake2b(ids[start : start + size].tobytes(), digest_size=16).digest()] = size
        return found

    def frozen(self) -> bytes:
        """Return all of it as bytes."""
        parts = [self.renderings.tobytes(), *map(_frozen, (self.rows, self.tokens))]
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)

    @classmethod
    def thawed(cls, data: bytes) -> Tables:
        """Return what was frozen."""
        parts: list[memoryview] = []
        view = memoryview(data)
        while view:
            size = int.from_bytes(view[:8], "big")
            parts.append(view[8 : 8 + size])
            view = view[8 + size :]
        rows, tokens = (pa.ipc.open_stream(part).read_next_batch() for part in parts[1:])
        return cls(rows, tokens, np.frombuffer(parts[0], np.int64))


def tables(rows: Sequence[Row]) -> Tables:
    """Return rows as tables."""
    # A file's name that is no UTF-8 is written as far as it is.
    names = {row.file: Path(row.file).name.encode("utf-8", "replace").decode() for row in rows}
    values = [
        (row.row_id, row.messages, row.tools, row.date, names[row.file], row.line, row.start, row.end,
         row.format, row.group, row.created_at, row.license, row.source_name, row.difficulty,
         row.synthetic, row.teacher) for row in rows
    ]  # fmt: skip
    tokens = [
        (row.row_id if number == len(row.renderings) else f"{row.row_id}{EARLIER}{number}", *each)
        for row in rows
        for number, each in enumerate(row.renderings, start=1)
    ]
    counts = np.array([len(row.renderings) for row in rows], np.int64)
    return Tables(_batch(ROWS, values), _batch(TOKENS, tokens), counts)


def _batch(schema: pa.Schema, values: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = [list(column) for column in zip(*values, strict=True)] or [[] for _ in schema]
    return pa.RecordBatch.from_arrays(
        [_array(field, column) for field, column in zip(schema, columns, strict=True)], schema=schema
    )


def _array(field: pa.Field, values: list[Any]) -> pa.Array:
    """A column; lists of numbers come as arrays, which are joined without a Python number in between."""
    if not pa.types.is_list(field.type):
        return pa.array(values, field.type)
    offsets = running([np.array([len(each) for each in values], np.int64)]).astype(np.int32)
    dtype = field.type.value_type.to_pandas_dtype()
    flat = np.concatenate(values).astype(dtype, copy=False) if values else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def release_unused() -> None:
    """Give back the memory that Arrow holds but nothing uses, which a stage that follows in this process would add to."""
    pa.default_memory_pool().release_unused()


def _frozen(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_COMPRESSED) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _flat(tokens: pa.RecordBatch, name: str) -> tuple[I64, I64, npt.NDArray[Any]]:
    """Return where each list of a column begins and ends, and the numbers of all of them."""
    column = tokens.column(name)
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets[:-1], offsets[1:], column.values.to_numpy()
