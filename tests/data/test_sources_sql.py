"""Queries on real databases: SQLite in a file, PostgreSQL where a server answers on 127.0.0.1."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.core.errors import DataError
from burnish.data.sources.read import read

SERVER = "postgresql://postgres:not-a-real-word@127.0.0.1:5432/postgres"


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    path = tmp_path / "base #1.db"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE t (id INTEGER, q TEXT, raw BLOB, x REAL)")
        base.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?)", [(n, f"q{n}%", b"ok" if n else b"\xff", n / 2) for n in range(1200)]
        )
    base.close()
    return path


def test_sqlite_gives_the_rows_of_a_query(sqlite: Path) -> None:
    found = list(
        read(
            f"sql:sqlite:///{sqlite.as_posix().replace(' ', '%20')} SELECT id, q FROM t WHERE q LIKE 'q1%' ORDER BY id"
        )
    )
    assert found[0].value == {"id": 1, "q": "q1%"}
    assert [row.origin.line for row in found] == list(range(1, len(found) + 1))
    assert len(found) == 311


def test_a_value_that_is_no_text_is_a_reason(sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", f"sqlite:///{sqlite}")
    found = list(read("sql:$BASE SELECT * FROM t ORDER BY id LIMIT 2"))
    assert [row.reason for row in found] == ["binary value", None]
    assert found[1].value == {"id": 1, "q": "q1%", "raw": "ok", "x": 0.5}


@pytest.mark.parametrize("query", ["DELETE FROM t", "DROP TABLE t", "INSERT INTO t VALUES (1, 2, 3, 4) RETURNING id"])
def test_sqlite_cannot_be_written(sqlite: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setenv("BASE", f"sqlite:///{sqlite}")
    with pytest.raises(DataError, match="readonly"):
        list(read(f"sql:$BASE {query}"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sql:sqlite:///gone.db SELECT 1", "does not exist"),
        ("sql:sqlite:///gone.db", "has no query"),
        ("sql:$NOT_SET_ANYWHERE SELECT 1", "NOT_SET_ANYWHERE is not set"),
        ("sql:nonsense SELECT 1", "no URL of a database"),
        ("sql:oddbase://me:secret@h/x SELECT 1", "burnish knows sqlite and postgresql"),
        ("sql:postgresql://me:secret@127.0.0.1:1/x SELECT 1", "refused"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(spec)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_query_that_is_wrong_says_what_the_database_says(sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", f"sqlite:///{sqlite}")
    with pytest.raises(DataError, match="no such column: nope"):
        read("sql:$BASE SELECT nope FROM t")
    with pytest.raises(DataError, match="named twice"):
        read("sql:$BASE SELECT id, id FROM t")


@pytest.fixture
def table() -> Iterator[str]:
    import psycopg

    try:
        base = psycopg.connect(SERVER, connect_timeout=3, autocommit=True)
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL on 127.0.0.1:5432: {error}")
    name = f"burnish_sources_{os.getpid()}"
    with base:
        base.execute(f"DROP TABLE IF EXISTS {name}")
        base.execute(f"CREATE SEQUENCE {name}_s")
        base.execute(
            f"CREATE TABLE {name} AS SELECT n, 'q' || n AS q, n * 1.5 AS price, now() AS at FROM generate_series(1, 20000) n"
        )
        yield name
    with psycopg.connect(SERVER, autocommit=True) as base:
        base.execute(f"DROP TABLE {name}")
        base.execute(f"DROP SEQUENCE {name}_s")


def test_postgresql_streams_the_rows_of_a_query(table: str) -> None:
    rows = read(f"sql:{SERVER} SELECT n, q, price FROM {table} WHERE q LIKE 'q%' ORDER BY n")
    first = next(rows)
    assert first.value == {"n": 1, "q": "q1", "price": 1.5}
    assert first.origin.file == "postgresql://127.0.0.1:5432/postgres"
    assert "not-a-real-word" not in repr(first)
    assert sum(1 for _ in rows) == 19_999


def test_postgresql_is_read_only_and_breaks_as_a_row(table: str) -> None:
    with pytest.raises(DataError) as caught:
        read(f"sql:{SERVER} DELETE FROM {table} RETURNING n")
    assert "not-a-real-word" not in str(caught.value)
    with pytest.raises(DataError, match="read-only transaction"):
        read(f"sql:{SERVER} SELECT nextval('{table}_s')")
    found = list(read(f"sql:{SERVER} SELECT 1 / (5000 - n) AS x FROM {table}"))
    assert found[-1].reason == "cannot be read"
    assert "division by zero" in found[-1].detail
