"""Prompts and answers, kept only when the settings ask for it: redacted first, one file a day, removed when their time is over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

Redact = Callable[[str], str]
"""redact(text) -> the text without personal data and secrets."""


class ContentLog:
    """Files HOME/gateway/content/2026-11-29.jsonl (0600), each removed after `days`."""

    def __init__(self, folder: Path, days: int, redact: Redact, today: Callable[[], date] | None = None) -> None:
        self._folder, self._days, self._redact = folder, days, redact
        self._today = today or (lambda: datetime.now(UTC).date())
        self._cleaned: date | None = None

    def keep(self, request: str, key: str, model: str, asked: dict[str, Any], answer: str) -> None:
        """Write one exchange, every text in it redacted."""
        today = self._today()
        if today != self._cleaned:
            self.clean()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = {
            "at": round(time.time(), 3), "request": request, "key": key, "model": model,
            "asked": self._redacted(asked), "answer": self._redact(answer),
        }  # fmt: skip
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        descriptor = os.open(self._folder / f"{today.isoformat()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def clean(self) -> None:
        """Remove files that are older than the time for which they are kept."""
        today = self._today()
        oldest = (today - timedelta(days=self._days - 1)).isoformat()
        for path in self._folder.glob("????-??-??.jsonl"):
            if path.stem < oldest:
                path.unlink()
        self._cleaned = today

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {name: self._redacted(item) for name, item in cast("dict[str, Any]", value).items()}
        return [self._redacted(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
