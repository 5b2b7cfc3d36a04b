"""The gateway's SQL: one SQLite file by default, PostgreSQL for several replicas. Statements are fixed texts with parameters."""

from __future__ import annotations

import contextlib
import hmac
import os
import queue
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from burnish.core.errors import ResourceError, StoreError, UsageError
from burnish.gateway.tables import (
    IN_POSTGRES,
    IN_SQLITE,
    POSTGRES_APPEND_ONLY,
    POSTGRES_ATTEMPTS,
    SQLITE_APPEND_ONLY,
    TABLES,
    VERSION,
)
from burnish.store.files import unwritable

Clock = Callable[[], int]
"""Microseconds since 1970."""
BUSY_S = 30.0
CHECKPOINT_COMMITS = 500
"""A SQLite file's log is written back after so many: some megabytes."""
LOG_PAGES = 16_384
"""Pages of a SQLite file's log (64 MiB) after which it begins anew; a longer one makes every look at a page slower."""
CACHE_KIB = 16_384
"""Memory of a connection to a SQLite file for pages."""
CONNECTIONS = 8
"""Of one process to PostgreSQL: a server allows a hundred by default, and other programs want some."""
URGENT = 2
"""So many of them are for what gives back alone: nobody who wants something stands before it."""


class Busy(Exception):
    """Another transaction is at work, and this one was not to wait."""


class Cursor(Protocol):
    """What a transaction executes with. `?` marks a parameter, whatever the database."""

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Execute one statement."""
        ...

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the last statement."""
        ...

    def now_us(self) -> int:
        """Return the time as the database's own clock has it, so that all replicas share one."""
        ...


class Database(Protocol):
    """A place of tables. Threads share its connections.

    local: whether reading takes microseconds and waits for nobody, so that an event loop may do it itself.
    """

    local: bool

    def reading(self) -> AbstractContextManager[Cursor]:
        """Read what is committed; no other transaction is waited for."""
        ...

    def transaction(self, account: str | None = None, *, wait: bool = True) -> AbstractContextManager[Cursor]:
        """Begin a transaction that writes. With an account, no other transaction of that account runs beside it.

        Raises Busy, without `wait`, when another one is at work on a local database.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def open_database(url: str | None, folder: Path, *, clock: Clock | None = None) -> Database:
    """Open `postgresql://...`, or by default the file gateway.db in `folder`, and make the tables that are missing.

    clock: for simulations; the database's own time without one.
    Raises UsageError for another kind of URL, ResourceError when the server does not answer, StoreError when the file
    cannot be written or was made by a newer burnish.
    """
    if url is None:
        database: SqliteDatabase | PostgresDatabase = SqliteDatabase(folder / "gateway.db", clock)
    elif urlsplit(url).scheme in ("postgresql", "postgres"):
        database = PostgresDatabase(url, clock)
    else:
        raise UsageError(
            f"the database {urlsplit(url).scheme!r} is not known. Use postgresql://HOST/NAME, or none for SQLite."
        )
    with database.transaction() as cursor:
        cursor.execute("SELECT value FROM gateway_meta WHERE name = 'version'")
        found = cursor.rows()
        if not found:
            cursor.execute("INSERT INTO gateway_meta VALUES ('version', ?) ON CONFLICT DO NOTHING", (str(VERSION),))
        elif found[0][0] != str(VERSION):
            raise StoreError(
                f"the gateway's tables have version {found[0][0]}, this burnish knows {VERSION}. Use a newer one."
            )
    return database


def check_secret(database: Database, secret: bytes) -> None:
    """Raise UsageError when the keys in the database were made under another server secret: none would be accepted."""
    mark = hmac.digest(secret, b"gateway secret", "sha256").hex()
    with database.transaction() as cursor:
        cursor.execute("INSERT INTO gateway_meta VALUES ('secret', ?) ON CONFLICT DO NOTHING", (mark,))
        cursor.execute("SELECT value FROM gateway_meta WHERE name = 'secret'")
        if not hmac.compare_digest(cursor.rows()[0][0], mark):
            raise UsageError(
                "the keys in this database were made under another server secret, so none would be accepted. Give this "
                "gateway the same secret: $BURNISH_GATEWAY_SECRET, or the file `secret` in the gateway's folder."
            )


# ------------------------------------------------------------------------------------------------------------- SQLite


class _SqliteSession:
    """One thread's connection with its cursor, and `with session:` for reading. Made once: making them costs a statement."""

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock | None) -> None:
        self.connection, self._path, self._clock = connection, path, clock
        self._cursor = connection.cursor()
        self._waits = True

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(statement, parameters)

    def rows(self) -> list[tuple[Any, ...]]:
        return self._cursor.fetchall()

    def now_us(self) -> int:
        return time.time_ns() // 1000 if self._clock is None else self._clock()

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"the gateway's database {self._path} failed: {error}") from error

    def begin(self, *, wait: bool) -> None:
        """Lock the file for writing. Raises Busy, without `wait`, when somebody else has it."""
        if self._waits != wait:
            self._cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000) if wait else 0}")
            self._waits = wait
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if wait or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise Busy from error


class _SqliteTransaction:
    """What `with` makes of a session: a transaction that writes, in this thread's turn."""

    __slots__ = ("_committed", "_session", "_turn", "_wait")

    def __init__(
        self, session: _SqliteSession, turn: threading.Lock, committed: Callable[[], None], *, wait: bool
    ) -> None:
        self._session, self._turn, self._committed, self._wait = session, turn, committed, wait

    def __enter__(self) -> Cursor:
        if not self._turn.acquire(blocking=self._wait):
            raise Busy
        begun = False
        try:
            with self._session:
                self._session.begin(wait=self._wait)
            begun = True
        finally:
            if not begun:
                self._turn.release()
        return self._session

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            with self._session:
                self._session.execute("COMMIT" if error is None else "ROLLBACK")
            self._session.__exit__(kind, error, trace)
            self._committed()
        finally:
            self._turn.release()


class SqliteDatabase:
    """A file in write-ahead mode. Writers of one process take turns, so that few ever wait for the file's own lock.

    A thread reads and writes with one connection: what another one commits empties a connection's cache of pages.
    What was committed is written back from the log by a thread of its own: it waits for the disk, and nobody waits for it.
    """

    local = True

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path, self._clock = path, clock
        self._own = threading.local()
        self._turn = threading.Lock()
        self._all: list[sqlite3.Connection] = []
        self._commits = 0
        self._checkpoint = threading.Event()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._turn:
                self._session().connection.executescript(TABLES.format(**IN_SQLITE) + ";" + SQLITE_APPEND_ONLY)
        except OSError as error:
            raise unwritable(path, error) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"cannot use {path}: {error}. Move it away to begin with an empty one.") from error
        self._writer = threading.Thread(target=self._write_back, name="burnish-checkpoint", daemon=True)
        self._writer.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._all.append(connection)
        return connection

    def _session(self) -> _SqliteSession:
        """Return this thread's session."""
        session: _SqliteSession | None = self._own.__dict__.get("session")
        if session is None:
            session = self._own.session = _SqliteSession(self._connect(), self._path, self._clock)
        return session

    def reading(self) -> AbstractContextManager[Cursor]:
        """Read with this thread's connection: in write-ahead mode readers wait for no writer."""
        return self._session()

    def transaction(self, account: str | None = None, *, wait: bool = True) -> AbstractContextManager[Cursor]:
        """Begin a transaction that writes; the whole file is locked."""
        return _SqliteTransaction(self._session(), self._turn, self._count_commit, wait=wait)

    def _count_commit(self) -> None:
        self._commits += 1
        if self._commits >= CHECKPOINT_COMMITS:
            self._commits = 0
            self._checkpoint.set()

    def _write_back(self) -> None:
        connection = self._connect()
        connection.execute("PRAGMA busy_timeout = 0")
        while self._checkpoint.wait() and not self._closed:
            self._checkpoint.clear()
            with contextlib.suppress(sqlite3.OperationalError):  # the next one writes back what this one could not
                write_back(connection, self._turn)

    def close(self) -> None:
        """Close the connections of all threads."""
        self._closed = True
        self._checkpoint.set()
        self._writer.join()
        with self._turn:
            for connection in self._all:
                connection.close()
            self._all.clear()


# --------------------------------------------------------------------------------------------------------- PostgreSQL


class _PostgresCursor:
    def __init__(self, cursor: Any, clock: Clock | None) -> None:
        self._cursor, self._clock = cursor, clock

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(statement.replace("?", "%s"), parameters)

    def rows(self) -> list[tuple[Any, ...]]:
        return cast(list[tuple[Any, ...]], self._cursor.fetchall())

    def now_us(self) -> int:
        if self._clock is not None:
            return self._clock()
        self._cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return int(self.rows()[0][0])


class PostgresDatabase:
    """A PostgreSQL server. A transaction of an account holds that account's row until it ends."""

    local = False

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ResourceError(
                "PostgreSQL needs the package psycopg. Install it: pip install 'burnish[scale]'"
            ) from error
        self._psycopg, self._url, self._clock = psycopg, url, clock
        self._free, self._urgent = queue.LifoQueue[Any](), queue.LifoQueue[Any]()
        for place, connections in ((self._free, CONNECTIONS - URGENT), (self._urgent, URGENT)):
            for _ in range(connections):
                place.put(None)  # opened when it is first needed
        with self._connected() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(7150873)")  # two replicas may start at once
            cursor.execute("SELECT to_regclass('gateway_meta') IS NULL")
            if cursor.fetchall() == [(True,)]:  # CREATE INDEX locks its table even where the index is there: a replica
                cursor.execute(TABLES.format(**IN_POSTGRES))  # that starts beside one at work would end in a deadlock
                cursor.execute(POSTGRES_APPEND_ONLY)
            cursor.execute("SELECT to_regclass('gateway_accepted_keys') IS NULL")
            if cursor.fetchall() == [(True,)]:  # likewise, and newer than the others
                cursor.execute(POSTGRES_ATTEMPTS)
            cursor.execute("SELECT to_regproc('gateway_settle_1') IS NULL")
            if cursor.fetchall() == [(True,)]:
                cursor.execute(resources.files("burnish.gateway").joinpath("reserve.sql").read_text(encoding="utf-8"))

    def clock_us(self) -> int | None:
        """Return the time of a simulation; None for the server's own."""
        return None if self._clock is None else self._clock()

    @contextmanager
    def _connected(self, *, urgent: bool = False) -> Generator[Any]:
        """Lend a connection; one that the server closed is made again. Errors of the server become StoreError."""
        where = urlsplit(self._url).hostname or "the local socket"
        place = self._urgent if urgent else self._free
        connection = place.get()
        try:
            if connection is not None and not connection.closed and _ended(connection):
                connection.close()
            if connection is None or connection.closed:
                try:
                    connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
                except self._psycopg.OperationalError as error:
                    raise ResourceError(f"PostgreSQL at {where} does not answer: {error}") from error
            try:
                yield connection
            except self._psycopg.OperationalError as error:
                connection.close()
                raise StoreError(f"PostgreSQL at {where} failed: {error}") from error
        finally:
            place.put(connection)

    @contextmanager
    def reading(self, *, urgent: bool = False) -> Generator[Cursor]:
        """Execute statements, each a transaction of its own. urgent: by the connections that are kept for that."""
        with self._connected(urgent=urgent) as connection, connection.cursor() as raw:
            yield _PostgresCursor(raw, self._clock)

    @contextmanager
    def transaction(self, account: str | None = None, *, wait: bool = True) -> Generator[Cursor]:
        """Begin a transaction; with an account it waits until no other one of that account is at work."""
        with self._connected() as connection, connection.transaction(), connection.cursor() as raw:
            if account is not None:
                raw.execute("INSERT INTO gateway_accounts (account) VALUES (%s) ON CONFLICT DO NOTHING", (account,))
                raw.execute("SELECT 1 FROM gateway_accounts WHERE account = %s FOR UPDATE", (account,))
            yield _PostgresCursor(raw, self._clock)

    def close(self) -> None:
        """Close the connections, each as soon as nobody uses it."""
        for place, connections in ((self._free, CONNECTIONS - URGENT), (self._urgent, URGENT)):
            for _ in range(connections):
                connection = place.get()
                if connection is not None:
                    connection.close()


def _ended(connection: Any) -> bool:
    """Whether a server has ended a connection that nobody uses: only then is there something to read from it."""
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


def write_back(connection: sqlite3.Connection, turn: AbstractContextManager[object]) -> None:
    """Write a SQLite file's log back (https://www.sqlite.org/wal.html#ckpt). `turn`: held by whoever writes in this process.

    PASSIVE waits for nobody. But where somebody always commits while it writes back, the log never is written back
    whole and so never begins anew; once it is long, RESTART does the rest while the writers of this process wait.
    """
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages > LOG_PAGES:
        with turn:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
