"""Which local files a name means: one file, those of a folder, or those that a glob finds; always in the same order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from burnish.core.errors import DataError
from burnish.data.sources.item import Hear, Item, local_item
from burnish.data.sources.refusal import EMPTY, LOOP, UNREADABLE, Refused

Found = tuple[str, Item | Refused]
"""(name, the item or why it is none)."""


def local_items(location: str, hear: Hear | None = None) -> list[Found]:
    """The files of a local name, sorted. Hidden files and folders are not part of it; links are followed.

    Raises DataError when there is nothing there; what cannot be read within a folder is found with its reason.
    """
    path = Path(location).expanduser()
    try:
        if path.is_dir():
            return _many(_walk(path), location, "holds no file", hear)
        if not path.exists() and not path.is_symlink() and glob.has_magic(location):
            return _many(_glob(location), location, "matches no file", hear)
        return [(str(path), _single(path, hear))]
    except OSError as error:
        raise DataError(f"cannot read {location}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise DataError(f"cannot read {location!r}: {error}") from error


def _single(path: Path, hear: Hear | None) -> Item:
    if not path.exists():
        if path.is_symlink():
            raise DataError(f"{path} is a link to something that does not exist")
        raise DataError(f"{path} does not exist (looked in {Path.cwd()}); `data` is relative to the working folder")
    try:
        item = local_item(path, hear=hear)
        with item.open():
            return item
    except Refused as refusal:
        if refusal.reason == EMPTY:
            raise DataError(f"{path} is empty; it should hold rows or text") from refusal
        if refusal.reason == UNREADABLE:
            raise DataError(f"cannot read {path}: {refusal.detail}") from refusal
        raise DataError(f"{path} is not a regular file; `data` must name a file, a folder or a glob") from refusal


def _many(found: Iterator[Path | tuple[Path, Refused]], location: str, nothing: str, hear: Hear | None) -> list[Found]:
    items: list[Found] = []
    for entry in found:
        if isinstance(entry, tuple):
            items.append((str(entry[0]), entry[1]))
            continue
        try:
            items.append((str(entry), local_item(entry, hear=hear)))
        except Refused as refusal:
            items.append((str(entry), refusal))
    if not items:
        raise DataError(f"{location} {nothing} (hidden files do not count; looked in {Path.cwd()})")
    return sorted(items, key=lambda item: item[0])


def _glob(pattern: str) -> Iterator[Path | tuple[Path, Refused]]:
    """A folder that matches stands for its files."""
    for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):  # noqa: PTH111, PTH207  # Path.glob takes no absolute pattern
        path = Path(name)
        if not path.is_dir():
            yield path
        elif "**" not in pattern:
            yield from _walk(path)


def _walk(folder: Path) -> Iterator[Path | tuple[Path, Refused]]:
    """Every file below a folder, through links too, but never in a circle."""
    stack: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while stack:
        here, above = stack.pop()
        try:
            facts = here.stat()
            key = (facts.st_dev, facts.st_ino)
            if key in above:
                yield here, Refused(LOOP, "it leads to a folder above itself")
                continue
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield here, Refused(UNREADABLE, error.strerror or str(error))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = here / entry.name
            if path.is_dir():
                stack.append((path, above | {key}))
            else:
                yield path
