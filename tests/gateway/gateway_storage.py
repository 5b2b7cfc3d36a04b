"""Where the tests of the gateway keep things, and what a server that is missing means."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import pytest

from burnish.gateway.limits import Ledger

POSTGRES = os.environ.get("BURNISH_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("BURNISH_TEST_REDIS", "redis://127.0.0.1:6379/0")
SECRET = b"0123456789abcdef0123456789abcdef"
MakeLedger = Callable[..., Ledger]
"""make(name, clock=None) opens a ledger; the same name is the same counters."""


def missing(reason: str) -> NoReturn:
    """Skip where a server is not installed, but not in CI, which has to install it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
