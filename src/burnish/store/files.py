"""Files that are either whole or not there: written beside, flushed to the disk, renamed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from burnish.core.artifacts import FileRef
from burnish.core.errors import ResourceError, StoreError
from burnish.core.ids import file_sha256

NO_SPACE = (28, 122)
"""errno of a full disk and of a full quota."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new, never a part.

    Raises ResourceError when the disk is full, StoreError when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON (UTF-8, two spaces, a final newline) atomically."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> ResourceError | StoreError:
    """Return the error that tells a person what to do about a path that could not be written."""
    if error.errno in NO_SPACE:
        return ResourceError(f"no space left on the disk for {path}. Free some, or choose another place with --home.")
    return StoreError(f"cannot write {path}: {error.strerror or error}. Choose a writable place with --home.")


def file_ref(path: Path, root: Path) -> FileRef:
    """Return the reference to a finished file: its path relative to `root`, hash and size."""
    return FileRef(path=path.relative_to(root).as_posix(), sha256=file_sha256(path), size_bytes=path.stat().st_size)
