"""What is too large for memory waits in a nameless file that goes when it is closed: sets, excerpts, large arrays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import ResourceError
from burnish.data.near.shingle import I64, MOST_TEXTS, U64, Sets, running

BLOCK_VALUES = 2**17
EXCERPT_BYTES = 256
IN_MEMORY = 2**28
"""Bytes of an array beyond which it lives in a file that the system maps into memory and can take out again."""


class Numbers:
    """An array that grows at its end; on disk until it is whole, and then too when it is large."""

    def __init__(self, dtype: type[np.generic], folder: Path | None) -> None:
        """Open an empty one, as `SetFile` does."""
        self._dtype, self._folder = np.dtype(dtype), folder
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by finish()
        self._count = 0

    def append(self, values: NDArray[Any]) -> None:
        """Write more numbers."""
        _write(self._file, np.ascontiguousarray(values, self._dtype).data, self._folder)
        self._count += len(values)

    def finish(self) -> NDArray[Any]:
        """Return the array; a mapped file outlives the name it never had."""
        with self._file:
            if self._count * self._dtype.itemsize > IN_MEMORY:
                return np.memmap(self._file, self._dtype, "r+", shape=(self._count,))
            return np.frombuffer(bytearray(os.pread(self._file.fileno(), IN_MEMORY, 0)), self._dtype)


def room(count: int, fill: int, dtype: type[np.generic], folder: Path | None) -> NDArray[Any]:
    """Return an array of `count` times `fill`, in a mapped file when it is large."""
    if count * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.full(count, fill, dtype)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        array = np.memmap(file, dtype, "w+", shape=(count,))
    array[:] = fill
    return array


class SetFile:
    """Sets of numbers of 64 bits by row, written in order and read from anywhere. In memory: 8 bytes a row."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open an empty one in a folder, or where temporary files go. The file has no name, so nothing is left behind."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        self.folder = folder
        self._sizes: list[I64] = []
        self._starts = np.zeros(1, np.int64)

    def append(self, sets: Sets) -> None:
        """Write the sets of the next rows."""
        _write(self._file, sets.values.data, self.folder)
        self._sizes.append(np.diff(sets.starts))

    def finish(self) -> None:
        """Make what was written readable."""
        self._starts = running(self._sizes)
        self._sizes = []

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def starts(self) -> I64:
        """Where each row's set begins, in numbers; and the end of the last."""
        return self._starts

    def one(self, row: int) -> U64:
        """Return the set of a row."""
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        return np.frombuffer(os.pread(self._file.fileno(), 8 * (end - start), 8 * start), np.uint64)

    def block(self, start: int, end: int) -> Sets:
        """Return the sets of rows start to end."""
        first, last = int(self._starts[start]), int(self._starts[end])
        data = os.pread(self._file.fileno(), 8 * (last - first), 8 * first)
        return Sets(np.frombuffer(data, np.uint64), self._starts[start : end + 1] - first)

    def blocks(self) -> Iterator[tuple[int, Sets]]:
        """Yield (number of its first row, sets) for blocks of at most 4,096 rows that fit into a cache."""
        start = 0
        while start < len(self):
            limit = int(self._starts[start]) + BLOCK_VALUES
            full = int(np.searchsorted(self._starts, limit))
            end = min(len(self), start + MOST_TEXTS, max(start + 1, full))
            yield start, self.block(start, end)
            start = end


class Excerpts:
    """The beginning of each row's text, 256 bytes each on disk."""

    def __init__(self, folder: Path | None) -> None:
        """Open an empty one, as `SetFile` does."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        self._folder = folder

    def append(self, texts: Sequence[str]) -> None:
        """Write those of the next rows."""
        cut = (text[:EXCERPT_BYTES].encode("utf-8", "replace")[:EXCERPT_BYTES] for text in texts)
        _write(self._file, b"".join(each.ljust(EXCERPT_BYTES, b"\0") for each in cut), self._folder)

    def one(self, row: int) -> str:
        """Return the excerpt of a row."""
        data = os.pread(self._file.fileno(), EXCERPT_BYTES, EXCERPT_BYTES * row)
        return data.rstrip(b"\0").decode("utf-8", "ignore")

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()


def _write(file: IO[bytes], data: bytes | memoryview, folder: Path | None) -> None:
    rest = memoryview(data)
    rest = rest.cast("B") if rest.nbytes else rest
    try:
        while rest.nbytes:
            rest = rest[file.write(rest) :]
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise ResourceError(
            f"The search for duplicates could not write to {where}: {error.strerror}. It needs about twice the size of the "
            "texts there for a while. Make room, or give it another folder."
        ) from error
