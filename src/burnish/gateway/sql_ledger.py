"""The ledger that counts in a database: each kind counts in the way it is quick at, by the same rules."""

from __future__ import annotations

from burnish.gateway.database import Database, PostgresDatabase
from burnish.gateway.limits import Ledger
from burnish.gateway.postgres_ledger import PostgresLedger
from burnish.gateway.sqlite_ledger import SqliteLedger


def sql_ledger(database: Database) -> Ledger:
    """Return the ledger that counts in this database."""
    return PostgresLedger(database) if isinstance(database, PostgresDatabase) else SqliteLedger(database)
