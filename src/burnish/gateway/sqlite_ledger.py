"""Limits counted in a SQLite file: one transaction reserves, one settles."""

from __future__ import annotations

import secrets
from typing import Any

from burnish.gateway.database import Cursor, Database
from burnish.gateway.limits import (
    SECOND,
    WINDOW_US,
    Ask,
    Counted,
    Granted,
    Limits,
    Reason,
    Refused,
    first_met,
    never_fits,
    periods,
    standing,
    until_next,
)

LOOK = (
    "SELECT a.latest_us, a.requests, a.tokens, a.running, "
    "(SELECT min(at_us) FROM gateway_spent WHERE account = a.account), "
    "(SELECT min(ends_us) FROM gateway_holds WHERE account = a.account), ifnull(d.tokens, 0), ifnull(d.nano_usd, 0), "
    "ifnull(m.tokens, 0), ifnull(m.nano_usd, 0) "
    "FROM gateway_accounts AS a LEFT JOIN gateway_budgets AS d ON d.account = a.account AND d.period = ? "
    "LEFT JOIN gateway_budgets AS m ON m.account = a.account AND m.period = ? WHERE a.account = ?"
)
"""An account's counters, its oldest event and first end of a lease, and what it used of the day and of the month."""
FREED_BY = {
    reason: f"SELECT at_us FROM (SELECT at_us, sum({column}) OVER (ORDER BY at_us ROWS UNBOUNDED PRECEDING) AS upto "
    "FROM gateway_spent WHERE account = ?) AS sums WHERE upto >= ? ORDER BY at_us LIMIT 1"
    for reason, column in ((Reason.REQUESTS, "requests"), (Reason.TOKENS, "tokens"))
}
"""When the event was that frees enough with all before it. Found by the database: a key may have many in its minute."""


class SqliteLedger:
    """Counts in the tables of a SqliteDatabase. What `Ledger` says holds for every process that uses the same file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.local = database.local

    def reserve(self, account: str, limits: Limits, ask: Ask, *, wait: bool = True) -> Granted | Refused:
        """Reserve what a request may use, or say which limit stands in the way."""
        with self._database.transaction(account, wait=wait) as cursor:
            now, counted, dropped = _bring_up_to_date(cursor, account)
            met = first_met(limits, ask, counted)
            if met is not None:
                if dropped:
                    _keep(cursor, account, now, counted)
                retry = None if never_fits(limits, ask) else _free_in(cursor, account, met[0], met[1], now)
                where = standing(limits, counted.requests, counted.tokens, _newest(cursor, account), now)
                return Refused(met[0], retry, where)
            hold = secrets.token_hex(12)
            day, month = periods(now)
            cursor.execute(
                "INSERT INTO gateway_holds VALUES (?, ?, ?, ?, ?, ?)",
                (hold, account, now + ask.lease_us, ask.tokens, ask.nano_usd, day),
            )
            cursor.execute("INSERT INTO gateway_spent VALUES (?, ?, 1, 0)", (account, now))
            _keep(cursor, account, now, counted, requests=1, tokens=ask.tokens, running=1)
            _add_to_budgets(cursor, account, day, month, ask.tokens, ask.nano_usd)
        return Granted(hold, standing(limits, counted.requests + 1, counted.tokens + ask.tokens, now, now))

    def settle(self, account: str, hold: str, tokens: int, nano_usd: int, *, wait: bool = True) -> None:
        """Count what was used in place of what was held."""
        with self._database.transaction(account, wait=wait) as cursor:
            now, counted, dropped = _bring_up_to_date(cursor, account)
            cursor.execute(
                "DELETE FROM gateway_holds WHERE id = ? AND account = ? RETURNING tokens, nano_usd, day",
                (hold, account),
            )
            found = cursor.rows()
            if not found:
                if dropped:
                    _keep(cursor, account, now, counted)
                return
            held_tokens, held_money, day = found[0]
            cursor.execute("INSERT INTO gateway_spent VALUES (?, ?, 0, ?)", (account, now, tokens))
            _keep(cursor, account, now, counted, tokens=tokens - held_tokens, running=-1)
            _add_to_budgets(cursor, account, day, day[:7], tokens - held_tokens, nano_usd - held_money)

    def used(self, account: str) -> dict[str, tuple[int, int]]:
        """Return tokens and money by period."""
        return used_budgets(self._database, account)

    def close(self) -> None:
        """Leave the database open: it belongs to whoever opened it."""


def used_budgets(database: Database, account: str) -> dict[str, tuple[int, int]]:
    """Return tokens and money of an account by period, as the tables of a database have them."""
    with database.reading() as cursor:
        cursor.execute(
            "SELECT period, tokens, nano_usd FROM gateway_budgets WHERE account = ? ORDER BY period", (account,)
        )
        return {period: (tokens, money) for period, tokens, money in cursor.rows()}


def _bring_up_to_date(cursor: Cursor, account: str) -> tuple[int, Counted, bool]:
    """Drop what is older than the window and let lapsed holds go.

    Returns the time, the counters, and whether anything was dropped: then they must be written (`_keep`), which whoever counts
    something does in any case.
    """
    now = cursor.now_us()
    row = _look(cursor, account, now)
    if row is None:
        cursor.execute("INSERT INTO gateway_accounts (account) VALUES (?)", (account,))
        row = _look(cursor, account, now)
    assert row is not None
    if row[0] > now:  # a clock that is set back gives nothing back
        now = row[0]
        row = _look(cursor, account, now)
        assert row is not None
    _, requests, tokens, running, oldest, first_end, day_tokens, day_money, month_tokens, month_money = row
    lapsed = [] if first_end is None or first_end > now else _lapse(cursor, account, now)
    dropped = bool(lapsed)
    if lapsed or (oldest is not None and oldest < now - WINDOW_US):
        cursor.execute(
            "DELETE FROM gateway_spent WHERE account = ? AND at_us < ? RETURNING requests, tokens",
            (account, now - WINDOW_US),
        )
        gone = cursor.rows()
        requests -= sum(row[0] for row in gone)
        tokens -= sum(row[1] for row in gone)
        running -= len(lapsed)
        dropped = dropped or bool(gone)
    counted = Counted(requests, tokens, running, (day_tokens, day_money), (month_tokens, month_money))
    return now, counted, dropped


def _keep(
    cursor: Cursor, account: str, now: int, counted: Counted, *, requests: int = 0, tokens: int = 0, running: int = 0
) -> None:
    """Write an account's counters: what was counted, and what a request adds."""
    cursor.execute(
        "UPDATE gateway_accounts SET latest_us = ?, requests = ?, tokens = ?, running = ? WHERE account = ?",
        (now, counted.requests + requests, counted.tokens + tokens, counted.running + running, account),
    )


def _look(cursor: Cursor, account: str, now: int) -> tuple[Any, ...] | None:
    """Return all that is counted for an account, by LOOK, or None when it is new."""
    cursor.execute(LOOK, (*periods(now), account))
    found = cursor.rows()
    return found[0] if found else None


def _lapse(cursor: Cursor, account: str, now: int) -> list[tuple[Any, ...]]:
    """Let holds go whose leases have ended: their tokens count in full from that moment on."""
    cursor.execute(
        "DELETE FROM gateway_holds WHERE account = ? AND ends_us <= ? RETURNING ends_us, tokens", (account, now)
    )
    lapsed = cursor.rows()
    for ends, held in lapsed:
        cursor.execute("INSERT INTO gateway_spent VALUES (?, ?, 0, ?)", (account, ends, held))
    return lapsed


def _add_to_budgets(cursor: Cursor, account: str, day: str, month: str, tokens: int, nano_usd: int) -> None:
    cursor.execute(
        "INSERT INTO gateway_budgets VALUES (?, ?, ?, ?), (?, ?, ?, ?) ON CONFLICT (account, period) DO UPDATE SET "
        "tokens = gateway_budgets.tokens + excluded.tokens, nano_usd = gateway_budgets.nano_usd + excluded.nano_usd",
        (account, day, tokens, nano_usd, account, month, tokens, nano_usd),
    )


def _newest(cursor: Cursor, account: str) -> int:
    cursor.execute("SELECT max(at_us) FROM gateway_spent WHERE account = ?", (account,))
    return int(cursor.rows()[0][0] or 0)


def _free_in(cursor: Cursor, account: str, reason: Reason, excess: int, now: int) -> int:
    """Return after how many microseconds enough of the window has passed; what is held may be settled at any moment."""
    if reason in (Reason.TOKENS_DAY, Reason.MONEY_DAY, Reason.TOKENS_MONTH, Reason.MONEY_MONTH):
        return until_next(now, month=reason in (Reason.TOKENS_MONTH, Reason.MONEY_MONTH))
    if reason is Reason.CONCURRENCY:
        return SECOND
    cursor.execute(FREED_BY[reason], (account, excess))
    found = cursor.rows()
    return max(found[0][0] + WINDOW_US + 1 - now, 1) if found else SECOND
