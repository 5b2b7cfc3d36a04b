"""What a test prepared, and how it writes its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.artifacts import Manifest
from burnish.core.events import Event
from burnish.data.rows import MessageRow, read_messages, rows_path

CONTEXT = 512
"""Context length of the tests' base, in tokens."""


@dataclass
class Prepared:
    """What came out: the manifest, the folder it is in, and what was said on the way."""

    manifest: Manifest
    folder: Path
    events: list[Event] = field(default_factory=list[Event])

    def rows(self, split: str) -> list[MessageRow]:
        return read_messages(rows_path(self.folder, split))

    def requests(self, split: str) -> list[str]:
        return [row.messages[-2]["content"] for row in self.rows(split)]

    def rejected(self) -> list[dict[str, Any]]:
        text = (self.folder / "rejected.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


Prepare = Callable[..., Prepared]


def write_rows(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> Path:
    """Write rows as JSON lines; bytes go in as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
