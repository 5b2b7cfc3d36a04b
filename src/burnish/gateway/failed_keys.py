"""Who comes with keys that are not valid, by address: after too many in a minute such keys are not even looked up.

A key has 256 random bits, so guessing is hopeless; what this bounds is the work that guessing makes, and how fast stolen
lists of keys can be tried. Many people may share an address (a proxy, an office), so a key that was accepted from an
address lately is always looked up there. A process counts for itself what replicas do not share (shared_attempts.py).
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache

from burnish.core.refusal import Refusal
from burnish.gateway.keys import split_key

WINDOW_S = 60.0
ADDRESSES = 10_000
"""Addresses remembered; the one that failed longest ago makes room."""
ACCEPTED = 100_000
"""Pairs of address and key that are remembered as accepted; the oldest makes room."""


class FailedKeys:
    """Counts failures of each address in the last minute. Used in one thread: the event loop's."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._accepted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, address: str, key: str) -> None:
        """Raise Refusal (429) when the address failed too often, unless this key was accepted from there before."""
        times = self._failed.get(address)
        if times is None or len(times) < self._most or self.knows(address, key):
            return
        wait_s = WINDOW_S - (self._clock() - times[0])
        if wait_s > 0:
            raise too_many(wait_s)

    def knows(self, address: str, key: str) -> bool:
        """Whether a key with this id was accepted from the address."""
        return (address, split_key(key) or "") in self._accepted

    def failed(self, address: str) -> None:
        """Count a key that was not valid."""
        self._failed.setdefault(address, deque(maxlen=self._most)).append(self._clock())
        self._failed.move_to_end(address)
        if len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)

    def accepted(self, address: str, identifier: str) -> None:
        """Remember that a key was valid."""
        self._accepted[address, identifier] = None
        if len(self._accepted) > ACCEPTED:
            self._accepted.popitem(last=False)


def too_many(wait_s: float) -> Refusal:
    """Return the refusal (429) of an address that tried too many wrong keys."""
    says = "too many keys that are not valid came from this address; come again later"
    return Refusal(429, says, code="too_many_failed_keys", retry_after_s=wait_s)


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """Return the address that is counted: an IPv4 address, or the /64 network that one holder of IPv6 addresses has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
