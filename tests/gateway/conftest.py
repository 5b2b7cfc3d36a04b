"""Databases, ledgers and clocks for the tests of the gateway. PostgreSQL and Redis are the real ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateway_storage import POSTGRES, REDIS, MakeLedger, missing

from burnish.core.errors import ResourceError
from burnish.gateway.database import Database, open_database
from burnish.gateway.limits import Ledger
from burnish.gateway.redis_ledger import RedisLedger
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.sql_ledger import sql_ledger


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty database of this session's own."""
    psycopg = pytest.importorskip("psycopg")
    try:
        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing(f"no PostgreSQL at {POSTGRES}: {error}")
    name = f"gateway_{os.getpid()}_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}")
    yield f"{POSTGRES.rsplit('/', 1)[0]}/{name}"
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


@pytest.fixture(scope="session")
def redis_prefix() -> Iterator[str]:
    """A prefix of this session's own; its keys are removed afterwards."""
    prefix = f"gateway-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        ledger = RedisLedger(RedisServer(REDIS), prefix=prefix)
    except ResourceError as error:
        missing(str(error))
    yield prefix
    server = ledger._server.client
    for key in server.scan_iter(f"{prefix}*"):
        server.delete(key)
    ledger.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(None, tmp_path / "gateway")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def any_database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_ledger(request: pytest.FixtureRequest, any_database: str, tmp_path: Path) -> Iterator[MakeLedger]:
    """Opens ledgers on each kind of storage in turn."""
    opened: list[Database | Ledger] = []

    def make(name: str, clock: Callable[[], int] | None = None) -> Ledger:
        if any_database == "redis":
            ledger = RedisLedger(
                RedisServer(REDIS), prefix=f"{request.getfixturevalue('redis_prefix')}-{name}", clock=clock
            )
            opened.append(ledger)
            return ledger
        url = request.getfixturevalue("postgres") if any_database == "postgres" else None
        database = open_database(url, tmp_path / name, clock=clock)
        opened.append(database)
        return sql_ledger(database)

    yield make
    for each in opened:
        each.close()
