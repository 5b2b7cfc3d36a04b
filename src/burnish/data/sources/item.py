"""One thing to read: its name, its size, and how to open it. Local files, members of archives and URLs look the same."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from burnish.data.sources.refusal import CHANGED, EMPTY, NOT_A_FILE, UNREADABLE, Refused

Hear = Callable[[int], None]
BLOCK_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a source.

    name:  as origins and messages show it, without credentials.
    size:  bytes as stored (compressed where it is), None where unknown.
    open:  a new stream of the stored bytes each time; raises Refused or OSError.
    in_order:  the stream goes back to its beginning only.
    """

    name: str
    size: int | None
    open: Callable[[], BinaryIO]
    in_order: bool = False


class CountedFile(io.RawIOBase):
    """A local file up to the size that it had when it was opened; says how far it has been read.

    A file that grows while it is read would otherwise never end, and a file that changed is half old and half new.
    """

    def __init__(self, path: Path, hear: Hear | None = None) -> None:
        super().__init__()
        self._hear = hear
        self._farthest = 0
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not be waited for
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._began = os.fstat(self._file.fileno())
        if not stat.S_ISREG(self._began.st_mode):
            self._file.close()
            raise Refused(NOT_A_FILE, "a pipe, socket, device or folder")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go anywhere in the file as it was when it was opened."""
        if whence == os.SEEK_END:
            return self._file.seek(self._began.st_size + offset)
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read on. Raises Refused."""
        room = self._began.st_size - self._file.tell()
        if room <= 0:
            return 0
        count = self._file.readinto(memoryview(buffer)[: min(len(buffer), room)]) or 0
        if count == 0:
            raise Refused(CHANGED, "it became shorter")
        place = self._file.tell()
        if self._hear is not None and place > self._farthest:
            self._farthest = place
            self._hear(place)
        return count

    def close(self) -> None:
        """Close what lies below too."""
        if not self.closed:
            self._file.close()
        super().close()

    def check_unchanged(self) -> None:
        """Raise Refused when the file is not the one that was opened any more."""
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._began.st_size, self._began.st_mtime_ns):
            raise Refused(CHANGED, f"{self._began.st_size} bytes when it was opened, {now.st_size} at the end")


def local_item(path: Path, name: str | None = None, hear: Hear | None = None) -> Item:
    """The item of a local file. Raises Refused when it is not there, no regular file, or empty."""
    try:
        facts = path.stat()
    except OSError as error:
        raise Refused(UNREADABLE, error.strerror or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(NOT_A_FILE, "a pipe, socket, device or folder")
    if facts.st_size == 0:
        raise Refused(EMPTY)
    return Item(name or str(path), facts.st_size, lambda: open_local(path, hear))


def open_local(path: Path, hear: Hear | None = None) -> BinaryIO:
    """A buffered stream over a CountedFile."""
    return cast(BinaryIO, io.BufferedReader(CountedFile(path, hear), BLOCK_BYTES))


def check_unchanged(stream: BinaryIO) -> None:
    """Raise Refused when a stream of `open_local` has changed under the reader; nothing for other streams."""
    raw: object = cast(Any, stream).raw if isinstance(stream, io.BufferedReader) else None
    if isinstance(raw, CountedFile):
        raw.check_unchanged()
