"""Content addresses: the same content gives the same id, on every machine, in every key order."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import rfc8785

Id = str
"""A lower-case hexadecimal SHA-256, 64 characters."""


def content_id(value: Any) -> Id:
    """Return the SHA-256 of `value` as canonical JSON (RFC 8785: sorted keys, one spelling of numbers)."""
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(identifier: Id) -> str:
    """Return the 12 characters shown to people."""
    return identifier[:12]
