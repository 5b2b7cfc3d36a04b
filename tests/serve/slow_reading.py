"""Adapters whose reading stands still until a test lets it go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from burnish.model.lora import read_adapter


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait until a condition is true; fail when it does not become so."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    assert condition()


class Reading:
    """Reading adapters as ever, but that it waits until it may go on. `times` counts what was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on, self.times = threading.Event(), threading.Event(), 0
        monkeypatch.setattr("burnish.serve.adapters.read_adapter", self.read)

    def read(self, *arguments: Any, **more: Any) -> Any:
        self.times += 1
        self.begun.set()
        assert self.go_on.wait(30)
        return read_adapter(*arguments, **more)
