"""Many processes and threads on one account: is any limit ever exceeded, by one request or one token?

    python benchmarks/limits_stress.py                       8 processes x 50 threads on SQLite, PostgreSQL and Redis
    python benchmarks/limits_stress.py --where redis://127.0.0.1:6379/0 --processes 3 --threads 8 --seconds 4 --json

Each thread writes down when it asked and when it was told that it is admitted, when it ended (before it settles) and how
many tokens it used, by the clock that all processes of a machine share. Afterwards every window of 60 seconds is added
up: tokens whose work (told to ended) touches it, and requests that asked and were told within it. The ledger's own moment
lies between the two; by the moment of being told alone, a thread that was waked late would seem to break the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import queue
import random
import secrets
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from burnish.gateway.database import open_database
from burnish.gateway.limits import SECOND, WINDOW_US, Ask, Granted, Ledger, Limits
from burnish.gateway.redis_ledger import RedisLedger
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.sql_ledger import sql_ledger

LIMITS = Limits(requests_per_minute=400, tokens_per_minute=9000, concurrency=12, tokens_per_day=100_000)
ROOMY = Limits(requests_per_minute=10**9, tokens_per_minute=9000, concurrency=12, tokens_per_day=60_000)
SMALL = Limits(requests_per_minute=60, tokens_per_minute=1200, concurrency=5, tokens_per_day=100_000)
Event = tuple[int, int, int, int]
"""Told, ended, tokens, asked; times in microseconds."""
RESULT = Path(__file__).parent / "results" / "limits_stress.json"


def open_ledger(where: str) -> Ledger:
    """sqlite:FOLDER, postgresql://..., or redis://...#prefix."""
    if where.startswith("redis"):
        url, _, prefix = where.partition("#")
        return RedisLedger(RedisServer(url), prefix=prefix or "burnish-stress")
    return sql_ledger(
        open_database(None, Path(where.removeprefix("sqlite:")))
        if where.startswith("sqlite:")
        else open_database(where, Path())
    )


def work(where: str, account: str, limits: Limits, threads: int, ends: float, results: multiprocessing.Queue) -> None:
    """Ask and settle from many threads until the time is over."""
    ledger, found, lock = open_ledger(where), [], threading.Lock()
    refusals: dict[str, int] = {}

    def one(seed: int) -> None:
        draw = random.Random(seed)
        while time.time() < ends:
            most = draw.randint(1, 60)
            wanted = time.time_ns() // 1000
            answer = ledger.reserve(account, limits, Ask(most, most, 600 * SECOND))
            if isinstance(answer, Granted):
                began = time.time_ns() // 1000
                used = draw.randint(0, most)
                time.sleep(draw.random() * 0.02)
                done = time.time_ns() // 1000
                ledger.settle(account, answer.hold, used, used)
                with lock:
                    found.append((began, done, used, wanted))
            else:
                with lock:
                    refusals[answer.reason.value] = refusals.get(answer.reason.value, 0) + 1
                time.sleep(draw.random() * 0.02)

    workers = [threading.Thread(target=one, args=(secrets.randbits(32),)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put((found, refusals))


def most_in_a_window(events: list[Event]) -> int:
    """The largest weight of events that touch some 60 seconds. An event lies from its begin to its end."""
    marks = sorted(
        [(begin - WINDOW_US, 0, weight) for begin, _, weight, _ in events]
        + [(end, 1, -weight) for _, end, weight, _ in events]
    )
    most = now = 0
    for _, _, weight in marks:  # the window that begins here
        now += weight
        most = max(most, now)
    return most


def most_admitted(events: list[Event]) -> int:
    """The most requests that asked and were told within some 60 seconds."""
    ordered = sorted(events)
    most, first = 0, 0
    for last, (told, *_) in enumerate(ordered):
        while ordered[first][0] < told - WINDOW_US:
            first += 1
        most = max(most, sum(wanted >= told - WINDOW_US for *_, wanted in ordered[first : last + 1]))
    return most


def most_at_once(events: list[Event]) -> int:
    """The most events that overlap."""
    marks = sorted([(begin, 1) for begin, *_ in events] + [(end, -1) for _, end, *_ in events])
    most = now = 0
    for _, change in marks:
        now += change
        most = max(most, now)
    return most


def _next_result(
    results: multiprocessing.Queue, children: list[multiprocessing.Process], until: float
) -> tuple[list[Event], dict[str, int]]:
    """Return what the next process found. A process that failed is an error at once, not after a long wait."""
    while time.time() < until:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
        if failed := [child.exitcode for child in children if child.exitcode]:
            raise SystemExit(f"{len(failed)} processes failed; what they said stands above")
    raise SystemExit("the processes did not end in time")


def stress(where: str, limits: Limits, processes: int, threads: int, seconds: float) -> dict[str, object]:
    """Run and add up."""
    account, results = secrets.token_hex(6), multiprocessing.Queue()
    ends = time.time() + seconds
    children = [
        multiprocessing.Process(target=work, args=(where, account, limits, threads, ends, results))
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    events: list[Event] = []
    refusals: dict[str, int] = {}
    for _ in children:
        found, refused = _next_result(results, children, ends + 120)
        events += found
        for reason, count in refused.items():
            refusals[reason] = refusals.get(reason, 0) + count
    for child in children:
        child.join()
    day = open_ledger(where).used(account)
    return {
        "where": where.split(":")[0], "processes": processes, "threads": threads, "seconds": seconds,
        "admitted": len(events), "refused": refusals, "tokens": sum(used for _, _, used, _ in events),
        "requests_limit": limits.requests_per_minute, "most_requests_in_a_window": most_admitted(events),
        "tokens_limit": limits.tokens_per_minute, "most_tokens_in_a_window": most_in_a_window(events),
        "concurrency_limit": limits.concurrency, "most_at_once": most_at_once(events),
        "budget": limits.tokens_per_day, "budget_used": max(tokens for tokens, _ in day.values()),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--where")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=75)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--small", action="store_true", help="limits that are met within seconds")
    which.add_argument("--roomy", action="store_true", help="no limit of requests: tokens and concurrency are met")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    if options.where:
        limits = SMALL if options.small else ROOMY if options.roomy else LIMITS
        found = stress(options.where, limits, options.processes, options.threads, options.seconds)
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        places = [
            f"sqlite:{folder}",
            "postgresql://postgres@127.0.0.1:5432/postgres",
            "redis://127.0.0.1:6379/0#burnish-stress",
        ]
        runs = [
            stress(where, limits, options.processes, options.threads, options.seconds)
            for where in places
            for limits in (LIMITS, ROOMY)
        ]
    for run in runs:
        assert run["most_requests_in_a_window"] <= run["requests_limit"], run
        assert run["most_tokens_in_a_window"] <= run["tokens_limit"], run
        assert run["most_at_once"] <= run["concurrency_limit"], run
        assert run["budget_used"] <= run["budget"], run
    record = {"date": datetime.now(UTC).date().isoformat(), "runs": runs}
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
