"""Everything that was made for a recipe, with what the checks said of it: a file of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.errors import StoreError
from burnish.store.files import write_bytes

POOL = "pool.jsonl"
KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that was made. verdict: `kept`, or why not; detail: what exactly. shown: what helps a reviewer to judge it."""

    id: str
    kind: str
    verdict: str
    detail: str
    row: dict[str, Any]
    shown: dict[str, Any] = field(default_factory=dict[str, Any])


def read_pool(folder: Path) -> list[Entry]:
    """Return the entries of a folder in their order; none where there is no pool. Raises StoreError when it is damaged."""
    path = folder / POOL
    if not path.exists():
        return []
    entries: list[Entry] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{path}:{number} is damaged: {error}. Make the pool again: burnish data synthesize"
            ) from error
    return entries


def write_pool(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the pool anew."""
    lines = (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)
    write_bytes(folder / POOL, "".join(lines).encode("utf-8", "replace"))
