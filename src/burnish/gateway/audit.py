"""What was done to keys, routes and the server: rows that only grow, each sealed with the one before.

A row's seal is HMAC-SHA256 of its content and the seal before it, under the server's secret. The database refuses to
change or delete rows; who gets around that breaks the chain. (Rows cut off at the end leave a whole, shorter chain:
keep the last seal elsewhere to notice that.)
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from burnish.core.errors import StoreError
from burnish.gateway.database import Cursor, Database

LONGEST = 4096
"""Characters of a row's detail; a longer one is kept as its beginning."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: who did what to what. Times in microseconds since 1970."""

    number: int
    at_us: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    seal: str


def append(cursor: Cursor, secret: bytes, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Add a row within a transaction that is under way. Nothing that was asked or answered belongs into it."""
    # Serialises writers: the row after the last one must not be written twice.
    cursor.execute("INSERT INTO gateway_meta VALUES ('audit', '0') ON CONFLICT (name) DO UPDATE SET value = '0'")
    cursor.execute("SELECT number, hash FROM gateway_audit ORDER BY number DESC LIMIT 1")
    found = cursor.rows()
    number, before = (found[0][0] + 1, found[0][1]) if found else (1, "")
    text = json.dumps(detail, sort_keys=True)
    if len(text) > LONGEST:
        text = json.dumps({"shortened": text[:LONGEST]})
    row = (number, cursor.now_us(), actor[:200], action, subject[:200], text)
    cursor.execute("INSERT INTO gateway_audit VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _seal(secret, row, before)))


def record(database: Database, secret: bytes, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Add a row in a transaction of its own."""
    with database.transaction() as cursor:
        append(cursor, secret, actor, action, subject, detail)


def entries(database: Database, secret: bytes, *, last: int | None = None) -> list[Entry]:
    """Return the rows, oldest first, after checking every seal. Raises StoreError that names the first broken row."""
    with database.transaction() as cursor:
        cursor.execute("SELECT number, at_us, actor, action, subject, detail, hash FROM gateway_audit ORDER BY number")
        rows = cursor.rows()
    before = ""
    for place, (*content, seal) in enumerate(rows, start=1):
        if content[0] != place or not hmac.compare_digest(_seal(secret, tuple(content), before), seal):
            raise StoreError(
                f"the audit is broken at row {place}: a row was changed, removed or sealed under another secret."
            )
        before = seal
    found = [
        Entry(n, at, actor, action, subject, _detail(text), seal) for n, at, actor, action, subject, text, seal in rows
    ]
    return found if last is None else found[-last:]


def _detail(text: str) -> dict[str, Any]:
    """Return what a row tells. Rows from before were cut wherever they became too long, and are shown as they are."""
    try:
        return cast("dict[str, Any]", json.loads(text))
    except ValueError:
        return {"shortened": text}


def _seal(secret: bytes, row: tuple[Any, ...], before: str) -> str:
    return hmac.digest(secret, json.dumps([*row, before]).encode(), "sha256").hex()
