"""Content addresses: the same content gives the same id, on every machine, in every key order."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, cast

import rfc8785

_SURROGATE = re.compile("[\ud800-\udfff]")

Id = str
"""A lower-case hexadecimal SHA-256, 64 characters."""


def content_id(value: Any) -> Id:
    """Return the SHA-256 of `value` as canonical JSON (RFC 8785: sorted keys, one spelling of numbers)."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    if _is_text(value):  # what RFC 8785 asks beyond what `json` does is about numbers and the order of odd keys
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return rfc8785.dumps(value)


def _is_text(value: object) -> bool:
    """Whether a value holds texts alone, all of them UTF-8, under keys of ASCII."""
    if isinstance(value, str):
        return value.isascii() or _SURROGATE.search(value) is None
    if isinstance(value, list | tuple):
        return all(map(_is_text, cast(list[object], value)))
    if isinstance(value, dict):
        pairs = cast(dict[object, object], value).items()
        return all(isinstance(key, str) and key.isascii() and _is_text(item) for key, item in pairs)
    return False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(identifier: Id) -> str:
    """Return the 12 characters shown to people."""
    return identifier[:12]
