"""Wrong keys by address count in all replicas together, on the real PostgreSQL and Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_running import BadUpstream, Running
from gateway_storage import REDIS

from burnish.gateway.database import open_database
from burnish.gateway.keys import new_key
from burnish.gateway.limits import WINDOW_US
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.settings import Settings
from burnish.gateway.shared_attempts import Attempt, RedisAttempts, SharedAttempts, SqlAttempts

MakeAttempts = Callable[[], SharedAttempts]
ADDRESS = "192.0.2.1"


@pytest.fixture(params=["postgres", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeAttempts]:
    """Opens one more replica's view of the same counts."""
    closing: list[Callable[[], None]] = []

    def postgres() -> SharedAttempts:
        database = open_database(request.getfixturevalue("postgres"), tmp_path)
        closing.append(database.close)
        return SqlAttempts(database)

    def redis() -> SharedAttempts:
        server = RedisServer(REDIS)
        closing.append(server.close)
        return RedisAttempts(server, prefix)

    if request.param == "postgres":
        database = open_database(request.getfixturevalue("postgres"), tmp_path)
        closing.append(database.close)
        with database.transaction() as cursor:
            cursor.execute("DELETE FROM gateway_failed_keys")
            cursor.execute("DELETE FROM gateway_accepted_keys")
        yield postgres
    else:
        prefix = f"{request.getfixturevalue('redis_prefix')}-{secrets.token_hex(4)}"
        yield redis
    for close in closing:
        close()


def test_no_more_than_the_limit_are_looked_up_however_many_replicas_ask_at_once(make: MakeAttempts) -> None:
    replicas = [make(), make(), make()]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda n: replicas[n % 3].begin(ADDRESS, f"key{n}", 10), range(90)))
    assert sum(attempt.wait_us == 0 for attempt in found) == 10
    assert all(0 < attempt.wait_us <= WINDOW_US for attempt in found if attempt.wait_us)
    assert replicas[0].begin("192.0.2.2", "key0", 10).wait_us == 0, "another address has a count of its own"


def test_right_keys_take_no_place_and_are_let_in_by_every_replica(make: MakeAttempts) -> None:
    one, other = make(), make()
    for number in range(20):
        attempt = one.begin(ADDRESS, f"right{number}", 3)
        assert attempt.wait_us == 0
        one.accepted(ADDRESS, f"right{number}", attempt)
    assert [bool(other.begin(ADDRESS, f"wrong{number}", 3).wait_us) for number in range(5)] == [False] * 3 + [True] * 2
    assert other.begin(ADDRESS, "right7", 3) == Attempt(0)
    assert one.begin(ADDRESS, "new", 3).wait_us > 0
    one.clean()
    assert one.begin(ADDRESS, "new", 3).wait_us > 0


def test_after_a_minute_they_count_no_more(postgres: str, tmp_path: Path) -> None:
    now = [10**15]
    database = open_database(postgres, tmp_path, clock=lambda: now[0])
    attempts = SqlAttempts(database)
    address = secrets.token_hex(4)
    assert [attempts.begin(address, "a", 2).wait_us for _ in range(3)] == [0, 0, WINDOW_US]
    now[0] += WINDOW_US - 1
    assert attempts.begin(address, "a", 2).wait_us == 1
    now[0] += 1
    assert attempts.begin(address, "a", 2).wait_us == 0
    database.close()


def test_over_http_a_guesser_gains_nothing_by_asking_another_replica(make: MakeAttempts, tmp_path: Path) -> None:
    upstream = BadUpstream()
    settings = Settings.model_validate({"caps": {"failed_keys_per_minute": 5}})
    running = [
        Running(upstream.url, tmp_path, settings, {"attempts": make(), "workers": 4}),
        Running(upstream.url, tmp_path, settings, {"attempts": make(), "workers": 4}),
    ]  # one file of keys, as replicas share one database
    try:
        mine, unseen = running[0].key("chat"), running[0].key()
        assert running[0].ask(mine).status_code == 200
        guesses = [running[number % 2].ask(new_key()[1]).status_code for number in range(8)]
        assert guesses == [401] * 5 + [429] * 3
        assert running[1].ask(mine).status_code == 200, "what one replica accepted, the other lets in"
        refused = running[1].ask(unseen)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_failed_keys")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    finally:
        for each in running:
            each.close()
        upstream.close()
