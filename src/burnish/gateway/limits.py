"""How much a key may use: per minute, at once, per day and per month. Tokens are reserved first and settled after.

The promise: in no 60 seconds, wherever they begin, does a key have more requests admitted, or more tokens in work,
than its limit. A request counts when it is admitted. Tokens count in full from the reservation on (prompt and the most
that may be answered), then, when the answer is done and their true number is known, for 60 seconds from that moment:
a token was worked on between the two, so no window that holds it misses it. Budgets count what is held and used.
A gateway that dies leaves its reservations: they count in full until their lease ends, and in the budgets they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol

from burnish.core.errors import UsageError

SECOND = 1_000_000
WINDOW_US = 60 * SECOND
DAY_US = 86_400 * SECOND
NANO = 1_000_000_000
"""Money is counted in billionths of a dollar: a price for a million tokens of $0.001 is one for each token."""
MOST = 2**53 - 1
"""No limit is larger: Redis counts in doubles."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one account; None leaves it unlimited. Money in billionths of a dollar."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    nano_usd_per_day: int | None = None
    nano_usd_per_month: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value: int | None = getattr(self, each.name)
            if value is not None and not 1 <= value <= MOST:
                raise UsageError(f"{each.name} = {value} must lie between 1 and {MOST}; leave it out for no limit.")

    def as_json(self) -> dict[str, int]:
        """Return the limits that are set."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request may use at most, and how long it may take. Its reservation lapses when the lease ends."""

    tokens: int
    nano_usd: int
    lease_us: int


class Reason(Enum):
    """Which limit a request met."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    CONCURRENCY = "concurrency"
    TOKENS_DAY = "tokens_per_day"
    TOKENS_MONTH = "tokens_per_month"
    MONEY_DAY = "usd_per_day"
    MONEY_MONTH = "usd_per_month"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of the minute after a request was admitted or refused, and when all of it is free again."""

    requests_left: int | None
    tokens_left: int | None
    requests_reset_us: int
    tokens_reset_us: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A reservation; `hold` settles it."""

    hold: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Refused:
    """Why not, and after how long the same request may pass (None: never, it is larger than the limit itself)."""

    reason: Reason
    retry_after_us: int | None
    standing: Standing


class Ledger(Protocol):
    """Counts what each account holds and has used. Safe for any number of threads and processes.

    local: whether counting takes microseconds when nobody else counts, so that an event loop may do it itself, without
    waiting (`wait` False); it raises Busy then when it would have to wait.
    """

    local: bool

    def reserve(self, account: str, limits: Limits, ask: Ask, *, wait: bool = True) -> Granted | Refused:
        """Reserve what a request may use, or say which limit stands in the way. Nothing is counted when refused."""
        ...

    def settle(self, account: str, hold: str, tokens: int, nano_usd: int, *, wait: bool = True) -> None:
        """Count what was used in place of what was held. A hold that is settled or has lapsed is left as it is."""
        ...

    def used(self, account: str) -> dict[str, tuple[int, int]]:
        """Return tokens and money, held or used, by period: days as 2026-11-29, months as 2026-11."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


def periods(now_us: int) -> tuple[str, str]:
    """Return the day and the month (UTC) that a moment lies in."""
    return _periods(now_us // DAY_US)


@lru_cache(maxsize=16)
def _periods(day_number: int) -> tuple[str, str]:
    day = datetime.fromtimestamp(day_number * DAY_US // SECOND, UTC).date().isoformat()
    return day, day[:7]


def until_next(now_us: int, *, month: bool) -> int:
    """Return the microseconds until the next day or month (UTC) begins."""
    now = datetime.fromtimestamp(now_us / SECOND, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    following = (start.replace(day=1) + timedelta(days=32)).replace(day=1) if month else start + timedelta(days=1)
    return max(int((following - now).total_seconds() * SECOND), 1)


@dataclass(frozen=True, slots=True)
class Counted:
    """What an account's counters hold before a request: the minute, what runs, and the budgets of day and month."""

    requests: int
    tokens: int
    running: int
    day: tuple[int, int]
    month: tuple[int, int]


def first_met(limits: Limits, ask: Ask, counted: Counted) -> tuple[Reason, int] | None:
    """Return the first limit that the request would exceed and by how much, or None. reserve.lua and reserve.sql say the same."""
    checks = (
        (Reason.CONCURRENCY, limits.concurrency, counted.running + 1),
        (Reason.REQUESTS, limits.requests_per_minute, counted.requests + 1),
        (Reason.TOKENS, limits.tokens_per_minute, counted.tokens + ask.tokens),
        (Reason.TOKENS_DAY, limits.tokens_per_day, counted.day[0] + ask.tokens),
        (Reason.TOKENS_MONTH, limits.tokens_per_month, counted.month[0] + ask.tokens),
        (Reason.MONEY_DAY, limits.nano_usd_per_day, counted.day[1] + ask.nano_usd),
        (Reason.MONEY_MONTH, limits.nano_usd_per_month, counted.month[1] + ask.nano_usd),
    )
    for reason, most, would in checks:
        if most is not None and would > most:
            return reason, would - most
    return None


def never_fits(limits: Limits, ask: Ask) -> bool:
    """Whether the request is larger than a limit by itself, so that waiting cannot help."""
    alone = Counted(0, 0, 0, (0, 0), (0, 0))
    return first_met(limits, ask, alone) is not None


def standing(limits: Limits, requests: int, tokens: int, newest_us: int, now_us: int) -> Standing:
    """Return what is left of the minute. newest_us: when the newest counted request was admitted or settled."""

    def left(most: int | None, counted: int) -> int | None:
        return None if most is None else max(most - counted, 0)

    reset = max(newest_us + WINDOW_US - now_us, 0)
    return Standing(
        left(limits.requests_per_minute, requests), left(limits.tokens_per_minute, tokens),
        reset if requests else 0, reset if tokens else 0,
    )  # fmt: skip


def read_counted(limits: Limits, hold: str, answer: Sequence[Any]) -> Granted | Refused:
    """Return what a database's own function answered about a reservation.

    answer: granted (0, 1), reason, microseconds to wait (-1: waiting is no use), requests and tokens of the minute, when
    the newest event was, the time.
    """
    requests, tokens, newest, at = (int(each) for each in answer[3:])
    left = standing(limits, requests, tokens, newest, at)
    if answer[0]:
        return Granted(hold, left)
    reason, retry = Reason(answer[1]), int(answer[2])
    if retry >= 0 and reason.value.endswith(("_day", "_month")):
        retry = until_next(at, month=reason.value.endswith("_month"))
    return Refused(reason, None if retry < 0 else retry, left)
