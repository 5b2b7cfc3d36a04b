"""All rows of a dataset while it is made: on disk, in order of reading; in columns, what must be known of all at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from burnish.data.chunk import COLUMNS, NOTHING_SAID, Array, Chunk, Refused, unpacked
from burnish.data.near.shingle import Words, running
from burnish.data.tables import Tables
from burnish.store.files import unwritable

I64 = npt.NDArray[np.int64]


class _Place(NamedTuple):
    """Where a chunk's parts lie, whose rows they are, and which is the first."""

    source: int
    first: int
    rows: int
    tables: tuple[int, int]
    refusals: tuple[int, int]
    texts: tuple[int, int]
    words: tuple[int, int]


class Spool:
    """Chunks go in in order; rows are numbered from 0 as they come. The files have no names and go with the process."""

    def __init__(self, folder: Path, data_sources: int = 1) -> None:
        """Open an empty spool on the disk that `folder` is on. data_sources: so many first sources are data, others tasks."""
        self.data_sources = data_sources
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._data, self._numbers = _nameless(folder), _nameless(folder)
        self._places: list[_Place] = []
        self._size = 0
        self._files: dict[str, int] = {}
        self.columns: Array = np.empty(0, COLUMNS)
        self.sources: npt.NDArray[np.int32] = np.empty(0, np.int32)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._numbers.close()

    def __len__(self) -> int:
        return self._places[-1].first + self._places[-1].rows if self._places else 0

    @property
    def said_splits(self) -> bool:
        """Whether any row of the data says its own split, or its source does; then none is drawn."""
        real = (self.sources < self.data_sources) & ~self.columns["synthetic"]
        return bool((self.columns["said"][real] != NOTHING_SAID).any())

    @property
    def files(self) -> list[str]:
        """The files rows came from, by the number that `columns["file"]` holds."""
        return list(self._files)

    def add(self, source: int, chunk: Chunk) -> None:
        """Take the next chunk of a source."""
        numbers = np.array([self._files.setdefault(file, len(self._files)) for file in chunk.files], np.uint32)
        columns = chunk.columns
        if len(columns):
            columns["file"] = numbers[columns["file"]]
        _append(self._numbers, columns.tobytes(), self.folder)
        sizes = np.diff(chunk.words.starts).astype(np.uint32).tobytes()
        parts = (chunk.rows, chunk.refusals, chunk.texts, sizes + chunk.words.hashes.tobytes())
        self._places.append(_Place(source, len(self), len(columns), *map(self._written, parts)))

    def _written(self, data: bytes) -> tuple[int, int]:
        _append(self._data, data, self.folder)
        self._size += len(data)
        return self._size - len(data), len(data)

    def finish(self) -> None:
        """Make the columns readable: they stay in the file, and the system keeps in memory what is looked at."""
        rows = len(self)
        if rows:
            self.columns = np.memmap(self._numbers, COLUMNS, "r+", shape=(rows,))
        self.sources = np.repeat(
            np.array([place.source for place in self._places], np.int32), [place.rows for place in self._places]
        )

    def tables(self) -> Iterator[tuple[int, int, Tables, list[tuple[int, Refused]]]]:
        """Yield each chunk: its source, the number of its first row, its rows, and each refusal with the rows before it."""
        for place in self._places:
            rows, refusals = Tables.thawed(self._read(place.tables)), unpacked(self._read(place.refusals))
            yield place.source, place.first, rows, refusals

    def place(self, row: int) -> tuple[str, int]:
        """Return file and line of a row."""
        return self.files[int(self.columns["file"][row])], int(self.columns["line"][row])

    def pairs(self, rows: I64) -> Iterator[tuple[int, str, str]]:
        """Yield number, request and answer of some rows, in ascending order, as `near.rows.conversation` gives them."""
        at = 0
        for place in self._places:
            end = int(np.searchsorted(rows, place.first + place.rows))
            if end > at:
                texts: list[tuple[str, str]] = unpacked(self._read(place.texts))
                for row in rows[at:end].tolist():
                    yield row, *texts[row - place.first]
            at = end

    def messages(self, rows: I64) -> Iterator[tuple[int, str]]:
        """Yield number and messages, as JSON, of some rows, given in ascending order."""
        at = 0
        for place in self._places:
            end = int(np.searchsorted(rows, place.first + place.rows))
            if end > at:
                tables = Tables.thawed(self._read(place.tables))
                yield from ((row, tables.messages(row - place.first)) for row in rows[at:end].tolist())
            at = end

    def words(self, rows: I64) -> Iterator[tuple[I64, Words]]:
        """Yield numbers of some rows, given in ascending order, and the words of request and answer of each in turn."""
        at = 0
        for place in self._places:
            end = int(np.searchsorted(rows, place.first + place.rows))
            if end > at:
                own = rows[at:end]
                data = self._read(place.words)
                sizes = np.frombuffer(data, np.uint32, 2 * place.rows)
                words = Words(np.frombuffer(data, np.uint64, offset=sizes.nbytes), running([sizes]))
                yield own, words.of(2 * np.repeat(own - place.first, 2) + np.tile([0, 1], len(own)))
            at = end

    def _read(self, where: tuple[int, int]) -> bytes:
        offset, size = where
        return os.pread(self._data.fileno(), size, offset)


class Texts(Sequence[str]):
    """What is asked and answered in some rows, read from the spool when it is looked at, in order best."""

    def __init__(self, spool: Spool, rows: I64) -> None:
        """Take the rows by number, ascending."""
        self._spool, self._rows = spool, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (f"{text}\n{answer}" for _, text, answer in self._spool.pairs(self._rows))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(Texts(self._spool, self._rows[index]))
        return next(iter(Texts(self._spool, self._rows[index : index + 1])))


def _nameless(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise unwritable(folder, error) from error


def _append(file: IO[bytes], data: bytes, folder: Path) -> None:
    rest = memoryview(data)
    try:
        while rest.nbytes:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise unwritable(folder, error) from error
