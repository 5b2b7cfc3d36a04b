"""Limits counted in Redis: one script reserves and settles, so that any number of replicas count as one."""

from __future__ import annotations

import secrets
import time
from typing import cast

from burnish.gateway.database import Clock
from burnish.gateway.limits import Ask, Granted, Limits, Refused, periods, read_counted
from burnish.gateway.redis_server import RedisServer

DEFAULT_PREFIX = "burnish"


class RedisLedger:
    """Counts in a Redis server under keys that begin with `prefix`. Time is the server's, but for the day's name."""

    local = False

    def __init__(self, server: RedisServer, *, prefix: str = DEFAULT_PREFIX, clock: Clock | None = None) -> None:
        self._server, self._prefix, self._clock = server, prefix, clock
        self._run = server.script("reserve.lua")

    def reserve(self, account: str, limits: Limits, ask: Ask, *, wait: bool = True) -> Granted | Refused:
        """Reserve what a request may use, or say which limit stands in the way."""
        hold = secrets.token_hex(12)
        now = self._now()
        day, month = periods(now)
        most = (
            limits.requests_per_minute, limits.tokens_per_minute, limits.concurrency, limits.tokens_per_day,
            limits.tokens_per_month, limits.nano_usd_per_day, limits.nano_usd_per_month,
        )  # fmt: skip
        keys = self._keys(account, day, month)
        given = ["reserve", 0 if self._clock is None else now, ask.tokens, ask.nano_usd, ask.lease_us, hold, day]
        answer = self._run(keys, [*given, *(-1 if each is None else each for each in most)])
        return read_counted(limits, hold, answer)

    def settle(self, account: str, hold: str, tokens: int, nano_usd: int, *, wait: bool = True) -> None:
        """Count what was used in place of what was held."""
        now = self._now()
        keys = self._keys(account, *periods(now))
        given = ["settle", 0 if self._clock is None else now, tokens, nano_usd, hold, self._budget(account, "")]
        self._run(keys, given)

    def used(self, account: str) -> dict[str, tuple[int, int]]:
        """Return tokens and money by period: those of today and of this month."""
        found: dict[str, tuple[int, int]] = {}
        for period in periods(self._now()):
            values = cast(dict[str, str], self._server.client.hgetall(self._budget(account, period)))
            if values:
                found[period] = int(values["tokens"]), int(values["nano_usd"])
        return found

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _now(self) -> int:
        return time.time_ns() // 1000 if self._clock is None else self._clock()

    def _budget(self, account: str, period: str) -> str:
        return f"{self._prefix}:{{{account}}}:budget:{period}"

    def _keys(self, account: str, day: str, month: str) -> list[str]:
        own = [f"{self._prefix}:{{{account}}}:{name}" for name in ("counters", "spent", "ends", "holds")]
        return [*own, self._budget(account, day), self._budget(account, month)]
