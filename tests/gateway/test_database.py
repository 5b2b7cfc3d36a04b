"""The databases of a gateway: who waits for whom, and a log of SQLite that stays short."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from burnish.core.errors import StoreError
from burnish.gateway import database as storage
from burnish.gateway.database import Busy, Database, open_database
from burnish.gateway.limits import SECOND, Ask, Granted, Limits, Refused
from burnish.gateway.sql_ledger import sql_ledger
from burnish.gateway.tables import IN_SQLITE, TABLES

ADD = "INSERT INTO gateway_spent VALUES (?, ?, 1, 0)"
COUNT = "SELECT count(*) FROM gateway_spent"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(None, tmp_path)
    yield opened
    opened.close()


def count(database: Database) -> int:
    with database.reading() as cursor:
        cursor.execute(COUNT)
        return int(cursor.rows()[0][0])


class Busily:
    """A connection beside which somebody reads and somebody commits whenever it writes back without waiting."""

    def __init__(self, path: Path, database: Database) -> None:
        self.real, self.reader = (sqlite3.connect(path, isolation_level=None) for _ in range(2))
        self.database = database

    def execute(self, sql: str) -> sqlite3.Cursor:
        if "PASSIVE" not in sql:
            return self.real.execute(sql)
        self.reader.execute("BEGIN")
        self.reader.execute(COUNT).fetchone()
        add(self.database, 1)  # what comes after that reader's look cannot be written back now
        done = self.real.execute(sql)
        self.reader.execute("COMMIT")
        return done


def add(database: Database, rows: int) -> None:
    for number in range(rows):
        with database.transaction() as cursor:
            cursor.execute(ADD, (f"account {number % 97}", number))


@pytest.mark.parametrize(("most", "anew"), [(100, True), (1_000_000, False)])
def test_a_long_log_begins_anew_though_somebody_always_commits(
    most: int, anew: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Writing back beside writers never catches up with them; a log that only grew would slow every look at a page."""
    monkeypatch.setattr(storage, "CHECKPOINT_COMMITS", 1_000_000)
    monkeypatch.setattr(storage, "LOG_PAGES", most)
    database = open_database(None, tmp_path)
    path = tmp_path / "gateway.db"
    add(database, 200)
    busily = Busily(path, database)
    storage.write_back(busily, threading.Lock())  # pyright: ignore[reportArgumentType]
    long = path.with_name("gateway.db-wal").stat().st_size
    add(database, 150)
    grown = path.with_name("gateway.db-wal").stat().st_size - long
    busily.real.close()
    busily.reader.close()
    database.close()
    assert (grown == 0) == anew, grown


def test_without_waiting_another_process_lock_is_busy_and_with_waiting_it_is_waited_for(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy), database.transaction(wait=False):
        pass
    threading.Timer(0.3, other.execute, ("COMMIT",)).start()
    with database.transaction() as cursor:
        cursor.execute(ADD, ("one", 1))
    with database.transaction(wait=False) as cursor:
        cursor.execute(ADD, ("one", 2))
    assert count(database) == 2
    other.close()


def test_without_waiting_another_thread_turn_is_busy(database: Database) -> None:
    began, end = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction():
            began.set()
            end.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    began.wait(10)
    with pytest.raises(Busy), database.transaction(wait=False):
        pass
    assert count(database) == 0, "readers wait for no writer"
    end.set()
    holder.join()
    with database.transaction(wait=False) as cursor:
        cursor.execute(ADD, ("one", 1))
    assert count(database) == 1


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(StoreError, match="no such table"):
        add_and_fail(database)
    assert count(database) == 0


def add_and_fail(database: Database) -> None:
    with database.transaction(wait=False) as cursor:
        cursor.execute(ADD, ("one", 1))
        cursor.execute("SELECT 1 FROM nowhere")


def test_a_file_with_rowids_from_before_counts_as_a_new_one_does(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "gateway.db") as before:
        before.executescript(TABLES.format(**{**IN_SQLITE, "clustered": ""}))
    before.close()
    database = open_database(None, tmp_path)
    ledger = sql_ledger(database)
    limits = Limits(requests_per_minute=3, tokens_per_day=100)
    granted = [ledger.reserve("one", limits, Ask(30, 0, SECOND)) for _ in range(4)]
    assert [isinstance(each, Granted) for each in granted] == [True, True, True, False]
    for each in granted[:3]:
        assert isinstance(each, Granted)
        ledger.settle("one", each.hold, 5, 0)
    assert {tokens for tokens, _ in ledger.used("one").values()} == {15}
    database.close()


def test_a_refusal_in_postgresql_waits_for_nobody_who_holds_the_account(postgres: str, tmp_path: Path) -> None:
    database = open_database(postgres, tmp_path)
    ledger, limits = sql_ledger(database), Limits(concurrency=1)
    assert isinstance(ledger.reserve("held", limits, Ask(1, 0, 600 * SECOND)), Granted)
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT 1 FROM gateway_accounts WHERE account = 'held' FOR UPDATE")
        refused = pool.submit(ledger.reserve, "held", limits, Ask(1, 0, SECOND)).result(20)
        assert isinstance(refused, Refused)
        settled = pool.submit(ledger.reserve, "held", Limits(), Ask(1, 0, SECOND))
        with pytest.raises(TimeoutError):
            settled.result(0.3)  # what is granted takes its turn
        other.rollback()
        assert isinstance(settled.result(20), Granted)
    database.close()


def test_a_server_that_ended_its_connections_is_asked_by_new_ones(postgres: str, tmp_path: Path) -> None:
    database = open_database(postgres, tmp_path)
    ledger, limits = sql_ledger(database), Limits(concurrency=1)
    granted = ledger.reserve("cut", limits, Ask(1, 0, 600 * SECOND))
    assert isinstance(granted, Granted)
    ledger.settle("cut", "nothing", 0, 0)  # each kind of connection is open now
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres, autocommit=True) as other:
        cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
        assert len(other.execute(cut, (other.info.backend_pid,)).fetchall()) >= 2
    ledger.settle("cut", granted.hold, 1, 0)  # lost, it would hold its place until the lease ends
    assert isinstance(ledger.reserve("cut", limits, Ask(1, 0, SECOND)), Granted)
    database.close()
