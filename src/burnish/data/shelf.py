"""The shelf of a home: Parquet files named by the SHA-256 of their bytes, shared by all datasets that hold the same rows.

A split is an index, which lists its files in order. Where one file ends follows from the rows themselves (content-defined
chunking, as in Muthitacharoen et al. 2001, LBFS): after a row whose id's checksum is a multiple of `CUT_ROWS`. So a dataset
with rows more or fewer has other files only where those rows are; all others it shares.
"""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.core.errors import DataError
from burnish.core.ids import file_sha256
from burnish.store.files import sync_folder, unwritable, write_json

SHELF = "shards"
"""The folder in a home."""
CUT_ROWS = 1 << 13
"""Rows of a file on average."""
MOST_BYTES = 256 << 20
"""A file ends where it would hold more in memory, whatever the rows are."""
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20
"""A row group is written when it has so many rows, or holds so much text or so many tokens."""
_UNNAMED_SECONDS = 3600
"""Files younger than this may belong to a dataset that is being made."""
_NAME = re.compile(r"[0-9a-f]{64}\.parquet|\.writing-.*")


class Shelved(NamedTuple):
    """A file of the shelf: its hash, by which it is called, its rows and its size."""

    sha256: str
    rows: int
    size_bytes: int


def cuts(identifiers: Iterable[str]) -> list[int]:
    """Return the places after which a file ends, given the ids of rows in order."""
    return [at for at, each in enumerate(identifiers, start=1) if zlib.crc32(each.encode()) % CUT_ROWS == 0]


class ShelfWriter:
    """Writes tables of one schema onto a shelf. Fixed choices, so that the same rows give the same bytes."""

    def __init__(self, shelf: Path, schema: pa.Schema) -> None:
        """Open nothing yet."""
        self.bytes = 0
        self._shelf, self._schema = shelf, schema
        self._batches: list[pa.RecordBatch] = []
        self._waiting = self._waiting_bytes = self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._path = shelf

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows into the file that is being written."""
        self._batches.append(batch)
        self._rows += len(batch)
        self._waiting += len(batch)
        self.bytes += batch.nbytes
        self._waiting_bytes += batch.nbytes
        if self._waiting >= _GROUP_ROWS or self._waiting_bytes >= _GROUP_BYTES:
            self._flush()

    def cut(self) -> Shelved:
        """End the file, and put it on the shelf unless it is there."""
        self._flush()
        assert self._writer is not None
        try:
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            found = Shelved(file_sha256(self._path), self._rows, self._path.stat().st_size)
            target = self._shelf / f"{found.sha256}.parquet"
            if target.exists() and target.stat().st_size == found.size_bytes:
                self._path.unlink()
                os.utime(target)  # it is young again: no dataset names it yet
            else:
                self._path.replace(target)
                sync_folder(self._shelf)
        except OSError as error:
            raise unwritable(self._shelf, error) from error
        self._writer, self._rows, self.bytes = None, 0, 0
        return found

    def _flush(self) -> None:
        try:
            if self._writer is None:
                self._shelf.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=self._shelf, prefix=".writing-")
                os.close(handle)
                self._path = Path(name)
                self._path.chmod(0o644)
                self._writer = pq.ParquetWriter(
                    self._path, self._schema, compression="zstd", compression_level=3, version="2.6"
                )
            if self._batches:
                table = pa.Table.from_batches(self._batches, self._schema)
                self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        except OSError as error:
            raise unwritable(self._shelf, error) from error
        self._batches, self._waiting, self._waiting_bytes = [], 0, 0


def write_index(path: Path, shelf: Path, files: Sequence[Shelved]) -> None:
    """Write which files of the shelf a split is made of, in order."""
    where = Path(os.path.relpath(shelf, path.parent)).as_posix()
    write_json(path, {"shelf": where, "files": [each._asdict() for each in files]})


def indexed(path: Path) -> list[Path]:
    """Return the Parquet files of an index in order; of a Parquet file itself. Raises DataError for a damaged index."""
    if path.suffix == ".parquet":
        return [path]
    try:
        index = cast(dict[str, Any], json.loads(path.read_bytes()))
        names = [f"{each['sha256']}.parquet" for each in index["files"]]
        if not all(map(_NAME.fullmatch, names)) or not isinstance(index["shelf"], str):
            raise ValueError("it names something else than files of a shelf")
        return [path.parent / index["shelf"] / name for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}. Make it again with: burnish prepare") from error


def unnamed(root: Path, named: Iterable[str]) -> list[Path]:
    """Return the files of a home's shelf that none of the hashes names, half-written ones too, but no young ones."""
    keep = {f"{sha256}.parquet" for sha256 in named}
    old = time.time() - _UNNAMED_SECONDS
    files = [path for path in (root / SHELF).glob("*") if _NAME.fullmatch(path.name) and path.name not in keep]
    return sorted(path for path in files if path.is_file() and path.stat().st_mtime < old)
