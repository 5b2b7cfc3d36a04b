"""Limits hold exactly: by hand, against a model that keeps every event, and under threads and processes at once."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_storage import REDIS, MakeLedger
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import UsageError
from burnish.gateway.limits import SECOND, Ask, Granted, Limits, Reason, Refused, until_next

LEASE = 600 * SECOND
NOON = 1_764_417_600 * SECOND  # 2025-11-29 12:00 UTC
STRESS = Path(__file__).parents[2] / "benchmarks" / "limits_stress.py"


class Clock:
    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def ask(tokens: int = 0, nano_usd: int = 0) -> Ask:
    return Ask(tokens, nano_usd, LEASE)


def account() -> str:
    return secrets.token_hex(6)


def granted(answer: Granted | Refused) -> Granted:
    assert isinstance(answer, Granted), answer
    return answer


def refused(answer: Granted | Refused) -> Refused:
    assert isinstance(answer, Refused), answer
    return answer


def test_requests_of_a_minute_by_hand(make_ledger: MakeLedger) -> None:
    clock, who, limits = Clock(), account(), Limits(requests_per_minute=2)
    ledger = make_ledger("hand", clock)
    first = granted(ledger.reserve(who, limits, ask()))
    assert first.standing.requests_left == 1
    clock.now += 10 * SECOND
    assert granted(ledger.reserve(who, limits, ask())).standing.requests_left == 0
    clock.now += 20 * SECOND
    no = refused(ledger.reserve(who, limits, ask()))
    assert (no.reason, no.retry_after_us) == (Reason.REQUESTS, 30 * SECOND + 1)
    assert no.standing.requests_reset_us == 40 * SECOND
    clock.now += 30 * SECOND  # exactly 60 s after the first: a window that is closed at both ends would hold three
    refused(ledger.reserve(who, limits, ask()))
    clock.now += 1
    granted(ledger.reserve(who, limits, ask()))
    refused(ledger.reserve(who, limits, ask()))


def test_tokens_are_held_in_full_and_then_counted_for_a_minute_from_the_end(make_ledger: MakeLedger) -> None:
    clock, who, limits = Clock(), account(), Limits(tokens_per_minute=100)
    ledger = make_ledger("tokens", clock)
    hold = granted(ledger.reserve(who, limits, ask(90))).hold
    clock.now += 120 * SECOND  # still at work: older than the window, and counted all the same
    assert refused(ledger.reserve(who, limits, ask(20))).reason is Reason.TOKENS
    ledger.settle(who, hold, 30, 0)
    assert granted(ledger.reserve(who, limits, ask(70))).standing.tokens_left == 0
    clock.now += 59 * SECOND
    refused(ledger.reserve(who, limits, ask(1)))
    clock.now += SECOND + 1
    granted(ledger.reserve(who, limits, ask(30)))
    refused(ledger.reserve(who, limits, ask(1)))


def test_a_request_larger_than_the_limit_is_told_that_waiting_is_no_use(make_ledger: MakeLedger) -> None:
    ledger = make_ledger("large", Clock())
    assert refused(ledger.reserve(account(), Limits(tokens_per_minute=100), ask(101))).retry_after_us is None
    assert refused(ledger.reserve(account(), Limits(nano_usd_per_day=5), ask(1, 6))).reason is Reason.MONEY_DAY


def test_concurrency_counts_what_is_not_settled(make_ledger: MakeLedger) -> None:
    ledger, who, limits = make_ledger("running", Clock()), account(), Limits(concurrency=2)
    holds = [granted(ledger.reserve(who, limits, ask())).hold for _ in range(2)]
    assert refused(ledger.reserve(who, limits, ask())).reason is Reason.CONCURRENCY
    ledger.settle(who, holds[0], 0, 0)
    ledger.settle(who, holds[0], 0, 0)  # twice is once
    granted(ledger.reserve(who, limits, ask()))
    refused(ledger.reserve(who, limits, ask()))


def test_budgets_of_day_and_month_reserve_first_and_settle_after(make_ledger: MakeLedger) -> None:
    clock, who = Clock(), account()
    ledger = make_ledger("budget", clock)
    limits = Limits(tokens_per_day=100, nano_usd_per_month=1000)
    hold = granted(ledger.reserve(who, limits, ask(80, 600))).hold
    no = refused(ledger.reserve(who, limits, ask(30, 0)))
    assert (no.reason, no.retry_after_us) == (Reason.TOKENS_DAY, 12 * 3600 * SECOND)
    assert refused(ledger.reserve(who, limits, ask(10, 500))).reason is Reason.MONEY_MONTH
    ledger.settle(who, hold, 50, 300)
    assert ledger.used(who) == {"2025-11": (50, 300), "2025-11-29": (50, 300)}
    granted(ledger.reserve(who, limits, ask(50, 700)))
    refused(ledger.reserve(who, limits, ask(1, 0)))
    clock.now += 24 * 3600 * SECOND
    granted(ledger.reserve(who, limits, ask(100, 0)))


def test_an_answer_that_ends_after_midnight_is_settled_on_the_day_it_was_reserved_on(make_ledger: MakeLedger) -> None:
    clock, who = Clock(NOON + 12 * 3600 * SECOND - SECOND), account()
    ledger = make_ledger("midnight", clock)
    hold = granted(ledger.reserve(who, Limits(), ask(80, 8))).hold
    clock.now += 2 * SECOND
    ledger.settle(who, hold, 20, 2)
    granted(ledger.reserve(who, Limits(tokens_per_day=100), ask(100)))
    assert ledger.used(who)["2025-11-30"] == (100, 0)


def test_a_hold_whose_gateway_died_lapses_with_its_lease_and_stays_in_the_budget(make_ledger: MakeLedger) -> None:
    clock, who, limits = Clock(), account(), Limits(concurrency=1, tokens_per_minute=100, tokens_per_day=150)
    ledger = make_ledger("lapse", clock)
    hold = granted(ledger.reserve(who, limits, Ask(90, 0, 70 * SECOND))).hold
    clock.now += 69 * SECOND
    assert refused(ledger.reserve(who, limits, ask(1))).reason is Reason.CONCURRENCY
    clock.now += SECOND
    assert refused(ledger.reserve(who, limits, ask(20))).reason is Reason.TOKENS
    clock.now += 61 * SECOND
    ledger.settle(who, hold, 1, 0)  # too late: it was counted in full
    granted(ledger.reserve(who, limits, ask(60)))
    assert ledger.used(who)["2025-11-29"] == (150, 0)


def test_a_clock_that_is_set_back_gives_nothing_back(make_ledger: MakeLedger) -> None:
    clock, who, limits = Clock(), account(), Limits(requests_per_minute=1)
    ledger = make_ledger("clock", clock)
    granted(ledger.reserve(who, limits, ask()))
    clock.now -= 3600 * SECOND
    refused(ledger.reserve(who, limits, ask()))


def test_accounts_do_not_share_limits(make_ledger: MakeLedger) -> None:
    ledger, limits = make_ledger("apart", Clock()), Limits(requests_per_minute=1)
    granted(ledger.reserve(account(), limits, ask()))
    granted(ledger.reserve(account(), limits, ask()))


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 40 * SECOND)),
        st.tuples(st.just("ask"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.integers(0, 60)),
    ),
    max_size=60,
)


def test_no_window_ever_holds_more_than_its_limit(make_ledger: MakeLedger) -> None:
    """The ledger decides as a model that keeps every event does; every window is added up afterwards."""
    clock = Clock()
    ledger = make_ledger("model", clock)
    limits = Limits(requests_per_minute=3, tokens_per_minute=100, concurrency=2, tokens_per_day=400)

    @settings(max_examples=60, deadline=None)
    @given(moves=MOVES)
    def check(moves: list[tuple[str, int]]) -> None:
        clock.now, who = NOON, account()
        at_work: list[tuple[str, int, int]] = []  # hold, when, tokens
        admitted: list[int] = []
        worked: list[tuple[int, int, int]] = []  # from, to, tokens
        for move, number in moves:
            if move == "wait":
                clock.now += number
            elif move == "ask":
                held = sum(tokens for _, _, tokens in at_work) + number
                window = clock.now - 60 * SECOND
                room = (
                    len(at_work) < 2
                    and sum(at >= window for at in admitted) < 3
                    and held + sum(tokens for _, end, tokens in worked if end >= window) <= 100
                    and held + sum(tokens for _, _, tokens in worked) <= 400
                )
                answer = ledger.reserve(who, limits, ask(number))
                assert isinstance(answer, Granted) == room, answer
                if isinstance(answer, Granted):
                    at_work.append((answer.hold, clock.now, number))
                    admitted.append(clock.now)
            elif at_work:
                hold, began, tokens = at_work.pop(0)
                used = min(number, tokens)
                ledger.settle(who, hold, used, 0)
                worked.append((began, clock.now, used))
        for _, begin, _ in worked:
            touched = [tokens for start, end, tokens in worked if end >= begin and start <= begin + 60 * SECOND]
            assert sum(touched) <= 100, "60 seconds in which more was worked on"
        for begin in admitted:
            assert sum(begin <= at <= begin + 60 * SECOND for at in admitted) <= 3

    check()


def test_until_the_next_day_and_month() -> None:
    assert until_next(NOON, month=False) == 12 * 3600 * SECOND
    assert until_next(NOON, month=True) == 36 * 3600 * SECOND
    december = NOON + 30 * 24 * 3600 * SECOND
    assert until_next(december, month=True) == (2 * 24 + 12) * 3600 * SECOND


@pytest.mark.parametrize("value", [0, -1, 2**53])
def test_a_limit_that_cannot_be_counted_is_refused(value: int) -> None:
    with pytest.raises(UsageError, match="tokens_per_day"):
        Limits(tokens_per_day=value)


def test_processes_and_threads_together_never_exceed_a_limit_by_one(
    any_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where: dict[str, Callable[[], str]] = {
        "sqlite": lambda: f"sqlite:{tmp_path}",
        "postgres": lambda: request.getfixturevalue("postgres"),
        "redis": lambda: f"{REDIS}#{request.getfixturevalue('redis_prefix')}",
    }
    command = [
        sys.executable, str(STRESS), "--where", where[any_database](), "--processes", "3", "--threads", "8",
        "--seconds", "4", "--small", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["admitted"] > 0
    assert found["refused"], "limits were met, and never passed"
    assert found["most_requests_in_a_window"] <= found["requests_limit"]
    assert found["most_tokens_in_a_window"] <= found["tokens_limit"]
    assert found["most_at_once"] <= found["concurrency_limit"]
    assert found["budget_used"] <= found["budget"]
