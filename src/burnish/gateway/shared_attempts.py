"""Wrong keys by address as all replicas count them, in PostgreSQL or Redis: an address has one count, whichever it asks.

A key is counted as wrong before it is looked up, and taken back when it was right: however many are tried at once, by
however many replicas, no more than the limit are looked up within a minute.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Protocol

from burnish.gateway.database import Database
from burnish.gateway.limits import SECOND, WINDOW_US
from burnish.gateway.redis_server import RedisServer

REMEMBERED_S = 86_400
"""That a key was accepted from an address is remembered for so long."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whether a key may be looked up. wait_us: after how long it may (0: now). number: what `accepted` takes back."""

    wait_us: int
    number: str = ""


class SharedAttempts(Protocol):
    """What replicas tell each other about the keys that come from an address. Every call asks a server."""

    def begin(self, address: str, identifier: str, most: int) -> Attempt:
        """Count a key with this id as wrong, unless it was accepted from there lately or too many were wrong."""
        ...

    def accepted(self, address: str, identifier: str, attempt: Attempt) -> None:
        """Take an attempt back, because its key was right, and remember that."""
        ...

    def clean(self) -> None:
        """Remove what counts no more; called now and then."""
        ...


class SqlAttempts:
    """Counts in tables of a PostgreSQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, address: str, identifier: str, most: int) -> Attempt:
        """Count a key as wrong, unless it was accepted from there lately or too many were wrong."""
        lock = int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "big", signed=True)
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT 1 FROM gateway_accepted_keys WHERE address = ? AND key_id = ? AND at_us > ?",
                (address, identifier, cursor.now_us() - REMEMBERED_S * SECOND),
            )
            if cursor.rows():
                return Attempt(0)
            cursor.execute("SELECT pg_advisory_xact_lock(?)", (lock,))  # those of one address take turns
            now = cursor.now_us()
            cursor.execute(
                "SELECT at_us FROM gateway_failed_keys WHERE address = ? AND at_us > ? ORDER BY at_us DESC LIMIT 1 OFFSET ?",
                (address, now - WINDOW_US, most - 1),
            )
            found = cursor.rows()
            if found:
                return Attempt(max(found[0][0] + WINDOW_US - now, 1))
            attempt = Attempt(0, secrets.token_hex(12))
            cursor.execute(
                "DELETE FROM gateway_failed_keys WHERE address = ? AND at_us <= ?", (address, now - WINDOW_US)
            )
            cursor.execute("INSERT INTO gateway_failed_keys VALUES (?, ?, ?)", (attempt.number, address, now))
            return attempt

    def accepted(self, address: str, identifier: str, attempt: Attempt) -> None:
        """Take an attempt back and remember that its key was right; what is old goes, of all addresses."""
        with self._database.transaction() as cursor:
            now = cursor.now_us()
            cursor.execute("DELETE FROM gateway_failed_keys WHERE number = ?", (attempt.number,))
            cursor.execute(
                "INSERT INTO gateway_accepted_keys VALUES (?, ?, ?) ON CONFLICT (address, key_id) DO UPDATE "
                "SET at_us = excluded.at_us",
                (address, identifier, now),
            )

    def clean(self) -> None:
        """Remove what counts no more; called now and then."""
        with self._database.transaction() as cursor:
            now = cursor.now_us()
            cursor.execute("DELETE FROM gateway_failed_keys WHERE at_us <= ?", (now - WINDOW_US,))
            cursor.execute("DELETE FROM gateway_accepted_keys WHERE at_us <= ?", (now - REMEMBERED_S * SECOND,))


class RedisAttempts:
    """Counts in a Redis server under keys that begin with `prefix` and end by themselves."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self._prefix = prefix
        self._script = server.script("attempt.lua")

    def begin(self, address: str, identifier: str, most: int) -> Attempt:
        """Count a key as wrong, unless it was accepted from there lately or too many were wrong."""
        number = secrets.token_hex(12)
        wait_us, counted = self._script(self._keys(address, identifier), ["begin", number, most])
        return Attempt(int(wait_us), number if int(counted) else "")

    def accepted(self, address: str, identifier: str, attempt: Attempt) -> None:
        """Take an attempt back and remember that its key was right."""
        self._script(self._keys(address, identifier), ["accepted", attempt.number, REMEMBERED_S])

    def clean(self) -> None:
        """Nothing to do: Redis forgets by itself."""

    def _keys(self, address: str, identifier: str) -> list[str]:
        own = f"{self._prefix}:{{{address}}}"
        return [f"{own}:wrong", f"{own}:right:{identifier}"]
