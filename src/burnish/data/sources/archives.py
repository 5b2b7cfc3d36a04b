"""Zip archives: each member is read as a file of its own; nothing is unpacked to its name."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from burnish.data.sources.compression import Expanded, Guard, Limits, buffered
from burnish.data.sources.item import Item
from burnish.data.sources.refusal import DAMAGED, EMPTY, ENCRYPTED, NESTED, NOT_A_FILE, UNSAFE_NAME, Refused

ARCHIVES = ("zip",)
_MOST_MEMBERS = 1_000_000


def zip_members(archive: Item, limits: Limits) -> Iterator[tuple[str, Item | Refused]]:
    """Yield the members of a zip in order of name, each as an item or as the reason why it is none.

    One guard counts for the whole archive, so that members that share their bytes are a bomb too. Folders and what
    macOS adds are no members. Raises Refused for a file that is no zip.
    """
    try:
        with archive.open() as stored, zipfile.ZipFile(stored) as opened:
            infos = sorted(opened.infolist(), key=lambda info: info.filename)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise Refused(DAMAGED, str(error)[:200]) from error
    if len(infos) > _MOST_MEMBERS:
        raise Refused(DAMAGED, f"{len(infos)} members")
    guard = Guard(archive.size, limits)
    for info in infos:
        path = PurePosixPath(info.filename)
        if info.is_dir() or path.name.startswith(".") or path.parts[:1] == ("__MACOSX",):
            continue
        name = f"{archive.name}/{info.filename}"
        refusal = _refusal(info)
        yield name, refusal or Item(name, info.file_size, _opener(archive, info, guard), in_order=True)


def _refusal(info: zipfile.ZipInfo) -> Refused | None:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return Refused(UNSAFE_NAME, "it leads out of the archive")
    if stat.S_ISLNK(info.external_attr >> 16):
        return Refused(NOT_A_FILE, "a link")
    if info.flag_bits & 0x1:
        return Refused(ENCRYPTED, "the member has a password; unpack it first")
    if path.suffix.lower() in (".zip", ".tar", ".tgz", ".7z", ".rar"):
        return Refused(NESTED, "unpack it first")
    if info.file_size == 0:
        return Refused(EMPTY)
    return None


def _opener(archive: Item, info: zipfile.ZipInfo, guard: Guard) -> Callable[[], BinaryIO]:
    return lambda: buffered(Expanded(lambda: cast(BinaryIO, _Member(archive, info)), lambda: guard))


class _Member:
    """One open member with the archive that holds it."""

    def __init__(self, archive: Item, info: zipfile.ZipInfo) -> None:
        self._stored = archive.open()
        try:
            self._zip = zipfile.ZipFile(self._stored)
            self._stream = self._zip.open(info)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            self._stored.close()
            raise Refused(DAMAGED, str(error)[:200]) from error

    def read(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except zipfile.BadZipFile as error:
            raise Refused(DAMAGED, str(error)[:200]) from error

    def close(self) -> None:
        self._stream.close()
        self._zip.close()
        self._stored.close()
