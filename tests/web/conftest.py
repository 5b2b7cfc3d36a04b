"""A gateway with the chat page, and an upstream whose answers the tests choose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from gateway_running import BadUpstream, Running

from burnish.web.page import assets
from devtools import Browser, Page


@pytest.fixture(scope="module")
def upstream() -> Iterator[BadUpstream]:
    upstream = BadUpstream()
    upstream.models = ["base", "ok", "endless", "xss", "fails"]
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def running(upstream: BadUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(upstream.url, tmp_path_factory.mktemp("page"), extra={"assets": assets()})
    yield running
    running.close()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page after log-in with a chat key."""
    page = browser.open(f"{running.url}/")
    page.wait("document.getElementById('log-in').open")
    page.type("#key", running.key("chat"))
    page.press("Enter")
    page.wait("!document.getElementById('log-in').open && !document.getElementById('message').disabled")
    yield page
    page.close()
