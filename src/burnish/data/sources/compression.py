"""Compressed files as streams of what is in them, with a limit on how far they may expand."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from burnish.core.units import format_bytes
from burnish.data.sources.item import BLOCK_BYTES
from burnish.data.sources.refusal import BOMB, DAMAGED, Refused

COMPRESSIONS = ("gz", "bz2", "xz", "zst")


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a file may expand. Text seldom shrinks below a thirtieth, logs below a hundredth; a bomb begins at a thousandth.

    ratio:  bytes out for each byte in, looked at only after `free` bytes.
    free:   bytes out that are always allowed: a small file of equal lines is no bomb.
    total:  bytes out of one file or archive at most.
    """

    ratio: float = 250.0
    free: int = 64 * 2**20
    total: int = 256 * 2**30


class Guard:
    """Counts what a file or a whole archive has expanded to."""

    def __init__(self, stored: int | None, limits: Limits) -> None:
        self._stored = stored
        self._limits = limits
        self._out = 0

    def add(self, count: int) -> None:
        """Raise Refused when it is too much."""
        self._out += count
        limits = self._limits
        if self._out > limits.total:
            raise Refused(BOMB, f"over {format_bytes(limits.total)}")
        if self._stored is not None and self._out > max(limits.free, limits.ratio * self._stored):
            raise Refused(BOMB, f"over {limits.ratio:.0f} times its {format_bytes(self._stored)}")


class Expanded(io.RawIOBase):
    """What is in a compressed stream. Goes back to its beginning only, by opening it again."""

    def __init__(self, open_again: Callable[[], BinaryIO], guard: Callable[[], Guard]) -> None:
        super().__init__()
        self._open = open_again
        self._new_guard = guard
        self._guard = guard()
        self._inner = open_again()
        self._place = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place in what comes out."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to the beginning, or nowhere."""
        if (offset, whence) == (0, io.SEEK_CUR) or (whence == io.SEEK_SET and offset == self._place):
            return self._place
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("a compressed file can only be read from its beginning")
        self._inner.close()
        self._inner, self._guard, self._place = self._open(), self._new_guard(), 0
        return 0

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read on. Raises Refused."""
        try:
            data = self._inner.read(len(buffer))
        except EOFError as error:
            raise Refused(DAMAGED, "it ends too early") from error
        except (OSError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError) as error:
            raise Refused(DAMAGED, str(error)[:200]) from error
        self._guard.add(len(data))
        self._place += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close what lies below too."""
        if not self.closed:
            self._inner.close()
        super().close()


def buffered(raw: io.RawIOBase) -> BinaryIO:
    """A buffered stream over one of ours."""
    return cast(BinaryIO, io.BufferedReader(raw, BLOCK_BYTES))


def expand(open_stored: Callable[[], BinaryIO], suffix: str, stored: int | None, limits: Limits) -> BinaryIO:
    """What is in a stored .gz, .bz2, .xz or .zst file; several pressed parts one after another are one file.

    Reading raises Refused for a damaged or truncated file and for one that expands too far.
    """
    return buffered(Expanded(lambda: _expanding(open_stored(), suffix), lambda: Guard(stored, limits)))


def _expanding(stored: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == "gz":
        return cast(BinaryIO, _Closing(gzip.GzipFile(fileobj=stored), stored))
    if suffix == "bz2":
        return cast(BinaryIO, _Closing(bz2.BZ2File(stored), stored))
    if suffix == "xz":  # memlimit: a header can ask for gigabytes of dictionary
        return cast(BinaryIO, _Closing(lzma.LZMAFile(stored), stored))
    pa: Any = importlib.import_module("pyarrow")
    return cast(BinaryIO, _Closing(pa.CompressedInputStream(pa.PythonFile(stored, "r"), "zstd"), stored))


class _Closing:
    """Closes the stored file with the stream that reads it."""

    def __init__(self, stream: Any, stored: BinaryIO) -> None:
        self._stream = stream
        self._stored = stored

    def read(self, count: int) -> bytes:
        return bytes(self._stream.read(count))

    def close(self) -> None:
        self._stream.close()
        self._stored.close()


def spooled(stream: BinaryIO) -> BinaryIO:
    """The same bytes in a temporary file, for kinds that are read in any order; the stream is closed."""
    with contextlib.ExitStack() as opened:
        opened.enter_context(stream)
        file = opened.push(tempfile.SpooledTemporaryFile(max_size=32 * 2**20))  # noqa: SIM115
        shutil.copyfileobj(stream, file, BLOCK_BYTES)
        file.seek(0)
        opened.pop_all()  # the file stays open; what is read has been copied
    stream.close()
    return cast(BinaryIO, file)
