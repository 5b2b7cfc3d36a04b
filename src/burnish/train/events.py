"""The run's own record: one JSON object a line, cut back to the checkpoint when a run goes on from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from burnish.core.events import Event, StepDone, event_json
from burnish.store.files import unwritable


class EventFile:
    """events.jsonl of a run. Raises StoreError or ResourceError when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise unwritable(path, error) from error

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes: what came after the checkpoint will happen again."""
        os.truncate(self.path, min(size, self.path.stat().st_size))

    def add(self, event: Event) -> None:
        """Append one event."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event_json(event), ensure_ascii=False) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def flush(self) -> int:
        """Bring the file to the disk and return its size in bytes."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def steps(self) -> list[StepDone]:
        """Return the steps noted so far."""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [
            StepDone(**{k: v for k, v in line.items() if k != "event"}) for line in lines if line["event"] == "StepDone"
        ]
