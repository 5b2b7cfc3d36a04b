"""Parquet and Arrow files, a batch at a time."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.data.record import Origin, RawRow
from burnish.data.sources.plain import table_row
from burnish.data.sources.refusal import BINARY, DAMAGED, ENCRYPTED, HEADER, Refused
from burnish.data.sources.spec import SourceSpec

_BATCH_ROWS = 256


def read_parquet(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file, decoding 256 at a time."""
    try:
        table = pq.ParquetFile(stream, buffer_size=2**20)
        columns = _columns(table.schema_arrow.names, spec)
        batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _refused(error) from error
    yield from _rows(batches, spec, file)


def read_arrow(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows of an Arrow file or stream, such as `datasets` saves."""
    try:
        magic = stream.read(6)
        stream.seek(0)
        if magic == b"ARROW1":
            whole = pa.ipc.open_file(stream)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(stream))
        yield from _rows(batches, spec, file)
    except (pa.ArrowException, OSError) as error:
        raise _refused(error) from error


def _columns(names: list[str], spec: SourceSpec) -> list[str] | None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(HEADER, f"the column {twice!r} is named twice")
    missing = [name for name in spec.columns if name not in names]
    if missing:
        raise Refused(HEADER, f"no column {missing[0]!r}; it has {', '.join(names[:20])}")
    return list(spec.columns) or None


def _rows(batches: Iterator[Any], spec: SourceSpec, file: str) -> Iterator[RawRow]:
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _refused(error) from error
        if batch is None:
            return
        for place in range(0, batch.num_rows, _BATCH_ROWS):
            for cells in _cells(batch.slice(place, _BATCH_ROWS)):
                number += 1
                origin = Origin(spec.shown, file, number)
                if cells is None:
                    yield RawRow(origin, None, "", BINARY, "text that is not UTF-8")
                    continue
                wanted = {name: cells[name] for name in spec.columns if name in cells} if spec.columns else cells
                yield table_row(origin, wanted)


def _cells(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; one that cannot be a Python object, such as text that is not UTF-8, is None."""
    try:
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
        rows = range(batch.num_rows)
    for row in rows:
        try:
            cells = batch.slice(row, 1).to_pylist()[0]
        except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
            cells = None
        yield cells


def _refused(error: Exception) -> Refused:
    words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return Refused(ENCRYPTED if "encrypted" in words.lower() else DAMAGED, words)
