"""Wrong keys are bounded by address, without locking out who shares the address with a guesser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_running import BadUpstream, Running
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.refusal import Refusal
from burnish.gateway import failed_keys
from burnish.gateway.failed_keys import ACCEPTED, ADDRESSES, WINDOW_S, FailedKeys, network_of
from burnish.gateway.keys import new_key
from burnish.gateway.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(counted: FailedKeys, address: str) -> Refusal | None:
    try:
        counted.check(address, "bk_wrong")
    except Refusal as refusal:
        return refusal
    return None


@given(st.lists(st.floats(0, 40), min_size=1, max_size=60), st.integers(1, 5))
def test_no_minute_holds_more_wrong_keys_of_an_address_than_the_limit(pauses: list[float], most: int) -> None:
    clock = Clock()
    counted = FailedKeys(most, clock=clock)
    looked_up: list[float] = []
    for pause in pauses:
        clock.now += pause
        refusal = refused(counted, "192.0.2.1")
        if refusal is None:
            looked_up.append(clock.now)
            counted.failed("192.0.2.1")
        else:
            waits = int(dict(refusal.headers)[b"retry-after"])
            assert 1 <= waits <= WINDOW_S
            assert waits >= WINDOW_S - (clock.now - looked_up[-most])
    for at in looked_up:
        assert sum(at <= other and other - at < WINDOW_S for other in looked_up) <= most


def test_a_key_that_was_accepted_there_goes_on_and_no_other() -> None:
    counted = FailedKeys(2, clock=Clock())
    (mine, key), (_, other) = new_key(), new_key()
    counted.accepted("192.0.2.1", mine)
    for _ in range(2):
        counted.check("192.0.2.1", other)
        counted.failed("192.0.2.1")
    counted.check("192.0.2.1", key)
    counted.check("192.0.2.2", other)
    for refused in (other, "bk_nonsense", ""):
        with pytest.raises(Refusal):
            counted.check("192.0.2.1", refused)


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ADDRESSES, ACCEPTED) == (10_000, 100_000)
    monkeypatch.setattr(failed_keys, "ADDRESSES", 20)
    monkeypatch.setattr(failed_keys, "ACCEPTED", 30)
    counted = FailedKeys(3)
    for number in range(100):
        for _ in range(10):
            counted.failed(f"address {number}")
        counted.accepted("192.0.2.1", f"key {number}")
    assert (len(counted._failed), len(counted._accepted)) == (20, 30)
    assert {len(times) for times in counted._failed.values()} == {3}
    with pytest.raises(Refusal):
        counted.check("address 99", "bk_wrong")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"), ("unix", "unix"), ("", ""),
    ],
)  # fmt: skip
def test_what_counts_as_one_address(address: str, counted: str) -> None:
    assert network_of(address) == counted


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    upstream = BadUpstream()
    running = Running(upstream.url, tmp_path, Settings.model_validate({"caps": {"failed_keys_per_minute": 5}}))
    yield running
    running.close()
    upstream.close()


def test_guessing_is_refused_over_http_and_those_who_were_in_stay_in(running: Running) -> None:
    mine, unseen = running.key("chat"), running.key()
    assert running.ask(mine).status_code == 200
    assert [running.ask(f"bk_{'a' * 12}_{'b' * 43}").status_code for _ in range(7)] == [401] * 5 + [429] * 2
    refused = running.client.get("/v1/models", headers={"authorization": "Bearer another guess"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_failed_keys")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert running.ask(mine).status_code == 200
    assert running.ask(unseen).status_code == 429, "not even a right key is looked up"
    assert running.ask(None).status_code == 401, "a request without a key tries none"
