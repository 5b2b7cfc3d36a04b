"""Content-addressed shards: the same rows give the same files, and versions that share rows share files.

A row's id is the SHA-256 of its content as canonical JSON; where the row came from and which split it is in do not count. A
shard holds the rows of one split whose ids begin with the same bits, in the order of ids, so its bytes do not depend on the
order in which rows came, and one more row changes one shard. Its name is the SHA-256 of its bytes. The number of shards
follows from the number of rows, in powers of two.
"""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import rfc8785

from burnish.core.artifacts import Count, FileRef, Manifest, Record
from burnish.core.errors import DataError
from burnish.core.ids import Id, content_id
from burnish.data.pair import content_line
from burnish.data.shelf import indexed
from burnish.store.files import write_bytes

ROWS_PER_SHARD = 1 << 16
_MOST_BITS = 7
"""At most 128 shards a split: each is an open file while rows are sorted into them."""
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ]
)


class Span(NamedTuple):
    """Where a row came from: source as the recipe names it, file in it, line from 1, and the span within it (0, 0 = all)."""

    source: str
    file: str
    line: int
    start: int = 0
    end: int = 0


def plain_json(value: Any) -> Any:
    """Return a value with every span as an object, and every other tuple as a list."""
    if isinstance(value, Span):
        return value._asdict()
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in cast(list[Any], value)]
    return value


class Place(Protocol):
    """What `Span` says, under the same names: an origin of the readers does too."""

    @property
    def source(self) -> str:
        """As the recipe names it."""
        ...

    @property
    def file(self) -> str:
        """File within the source."""
        ...

    @property
    def line(self) -> int:
        """From 1."""
        ...

    @property
    def start(self) -> int:
        """Where in the line it begins."""
        ...

    @property
    def end(self) -> int:
        """Where it ends; 0 with start 0 is the whole line."""
        ...


class HeldRow(NamedTuple):
    """A row that a version holds; `content` is canonical JSON."""

    row_id: Id
    split: str
    span: Span
    content: str


class Shard(Record):
    """One Parquet file of one split."""

    split: str
    rows: Count
    file: FileRef


class Version(Record):
    """A dataset version by its shards. `rejected` lists the lines that became no row, with reasons."""

    schema_version: Literal[1] = 1
    parents: tuple[Id, ...]
    shards: tuple[Shard, ...]
    rejected: FileRef | None
    settings: dict[str, Any]

    @property
    def id(self) -> Id:
        """SHA-256 of everything but paths."""
        return content_id({"kind": "version", **self.identity()})

    def rows(self) -> dict[str, int]:
        """Return how many rows each split has."""
        found: dict[str, int] = {}
        for shard in self.shards:
            found[shard.split] = found.get(shard.split, 0) + shard.rows
        return found


def canonical(content: Mapping[str, Any]) -> str:
    """Return a row's content as canonical JSON (RFC 8785). Raises DataError for what JSON cannot say."""
    try:
        return rfc8785.dumps(cast(Any, content)).decode()
    except (ValueError, UnicodeError) as error:
        raise DataError(f"a row cannot be written as canonical JSON: {error}. Whole numbers go to 2**53.") from error


def row_id(content: Mapping[str, Any]) -> Id:
    """Return a row's id; the same as `content_id`, with an error that says what is wrong."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def write_shards(
    rows: Iterable[tuple[str, Place, Mapping[str, Any]]], folder: Path, root: Path, *, expected_rows: int
) -> tuple[Shard, ...]:
    """Write rows (split, span, content) as shards into `folder`, and return them with paths relative to `root`.

    Rows are sorted into shards on the disk: memory holds one shard. `expected_rows` decides how many shards there are; it
    counts for the ids, so give the number of all rows of the version.
    """
    bits = min(_MOST_BITS, max(0, (max(1, expected_rows) - 1).bit_length() - (ROWS_PER_SHARD - 1).bit_length()))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sorting-") as sorting, contextlib.ExitStack() as stack:
        open_files: dict[tuple[str, int], TextIO] = {}
        for split, span, content in rows:
            text = canonical(content)
            identifier = hashlib.sha256(text.encode()).hexdigest()
            key = (split, int(identifier[:8], 16) >> (32 - bits))
            if key not in open_files:
                path = Path(sorting) / str(len(open_files))
                open_files[key] = stack.enter_context(path.open("w+", encoding="utf-8", newline="\n"))
            # The name of a file may hold bytes that are no UTF-8; Parquet takes only what is.
            names = [name.encode("utf-8", "replace").decode() for name in (span.source, span.file)]
            json.dump([identifier, text, *names, span.line, span.start, span.end], open_files[key], ensure_ascii=False)
            open_files[key].write("\n")
        return tuple(_write_shard(split, open_files[split, at], folder, root) for split, at in sorted(open_files))


def _write_shard(split: str, file: TextIO, folder: Path, root: Path) -> Shard:
    file.seek(0)
    rows = sorted(json.loads(line) for line in file)
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3, version="2.6", row_group_size=ROWS_PER_SHARD)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}.parquet"
    if not path.exists() or path.stat().st_size != len(content):
        write_bytes(path, content)
    reference = FileRef(path=path.relative_to(root).as_posix(), sha256=digest, size_bytes=len(content))
    return Shard(split=split, rows=len(rows), file=reference)


def held(version: Version | Manifest, root: Path) -> Iterator[HeldRow]:
    """Yield every row of a version, or of a manifest as `prepare` writes it. Raises DataError when a file is damaged."""
    if isinstance(version, Version):
        for shard in version.shards:
            for row in _read(root / shard.file.path, _SCHEMA.names):
                span = Span(row["source"], row["file"], row["line"], row["start"], row["end"])
                yield HeldRow(row["id"], shard.split, span, row["content"])
        return
    for name, split in version.splits.items():
        for path in indexed(root / split.file.path):
            for row in _read(path, ["id", "messages", "source", "line", "start", "end", "source_name"]):
                content = content_line(row["messages"])
                span = Span(row.get("source_name") or "", row["source"], row["line"], row["start"], row["end"])
                yield HeldRow(row["id"], name, span, content)


def _read(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=8192, columns=there):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}. Make it again with: burnish prepare") from error
