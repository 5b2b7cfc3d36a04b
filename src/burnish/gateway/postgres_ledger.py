"""Limits counted in PostgreSQL: functions of the database reserve and settle, each in one statement."""

from __future__ import annotations

import secrets

from burnish.gateway.database import PostgresDatabase
from burnish.gateway.limits import Ask, Granted, Limits, Refused, read_counted
from burnish.gateway.sqlite_ledger import used_budgets

RESERVE = (
    "SELECT granted, reason, retry_us, requests, tokens, newest_us, at FROM "
    "gateway_reserve_1(?, ?::bigint, ?, ?::bigint, ?::bigint, ?::bigint, ?::bigint[])"
)
SETTLE = "SELECT gateway_settle_1(?, ?::bigint, ?, ?::bigint, ?::bigint)"


class PostgresLedger:
    """Counts by the functions of reserve.sql. Many threads may wait for one account's row: it is held for one round trip.

    A refusal holds it not at all, so refusals, of which there may be any number, do not keep settlements waiting.
    """

    local = False

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def reserve(self, account: str, limits: Limits, ask: Ask, *, wait: bool = True) -> Granted | Refused:
        """Reserve what a request may use, or say which limit stands in the way."""
        hold = secrets.token_hex(12)
        most = [
            limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute, limits.tokens_per_day,
            limits.tokens_per_month, limits.nano_usd_per_day, limits.nano_usd_per_month,
        ]  # fmt: skip
        given = (account, self._database.clock_us(), hold, ask.tokens, ask.nano_usd, ask.lease_us, most)
        with self._database.reading() as cursor:
            cursor.execute(RESERVE, given)
            return read_counted(limits, hold, cursor.rows()[0])

    def settle(self, account: str, hold: str, tokens: int, nano_usd: int, *, wait: bool = True) -> None:
        """Count what was used in place of what was held."""
        with self._database.reading(urgent=True) as cursor:
            cursor.execute(SETTLE, (account, self._database.clock_us(), hold, tokens, nano_usd))

    def used(self, account: str) -> dict[str, tuple[int, int]]:
        """Return tokens and money by period."""
        return used_budgets(self._database, account)

    def close(self) -> None:
        """Leave the database open: it belongs to whoever opened it."""
