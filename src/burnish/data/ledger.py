"""The ledger: every line that came in is kept or rejected, with the reason and the line itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from burnish.core.artifacts import Ledger
from burnish.data.private.replace import redact
from burnish.store.files import write_bytes

_SHOWN_CHARACTERS = 1000
_ESCAPE = re.compile(r"\\[nrtbf]")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, and its text for the ledger."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        """Return file:line, as editors understand it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that does not become a row. `reason` is one of a few that are counted, `detail` says it exactly."""

    place: Place
    reason: str
    detail: str


class Book:
    """Counts rows while a dataset is made."""

    def __init__(self) -> None:
        """Open an empty book."""
        self.rows_in = 0
        self.changed: Counter[str] = Counter()
        self._rejections: list[Rejection] = []

    def reject(self, place: Place, reason: str, detail: str = "") -> None:
        """Write down that a line does not become a row."""
        self._rejections.append(Rejection(place, reason, detail))

    def ledger(self, rows_kept: int) -> Ledger:
        """Close the book. Raises ValueError if a row got lost, which would be an error of ours."""
        reasons = Counter(rejection.reason for rejection in self._rejections)
        return Ledger(
            rows_in=self.rows_in,
            rows_kept=rows_kept,
            rejected=dict(sorted(reasons.items())),
            changed=dict(sorted(self.changed.items())),
        )

    def reasons(self, files: tuple[str, ...] = ()) -> str:
        """Return a line for each reason, in some files (with what is in them) or in all: how many, and the first one."""
        rejections = [
            rejection for rejection in self._rejections if not files or rejection.place.file.startswith(files)
        ]
        counts = Counter(rejection.reason for rejection in rejections)
        first: dict[str, Rejection] = {}
        for rejection in rejections:
            first.setdefault(rejection.reason, rejection)
        lines: list[str] = []
        for reason, count in counts.most_common():
            example = first[reason]
            detail = f": {redact(example.detail).text}" if example.detail else ""
            lines.append(f"  {count} x {reason} (first {example.place}{detail})")
        return "\n".join(lines)

    def write_rejected(self, path: Path) -> None:
        """Write the rejected lines in file order, personal data replaced; only the owner may read the file."""
        order = sorted(self._rejections, key=lambda rejection: (rejection.place.file, rejection.place.line))
        lines = [json.dumps(_record(rejection), ensure_ascii=False) + "\n" for rejection in order]
        # Half of a surrogate pair has no UTF-8; backslashreplace writes the JSON escape for it.
        write_bytes(path, "".join(lines).encode("utf-8", "backslashreplace"))
        path.chmod(0o600)


def _record(rejection: Rejection) -> dict[str, str | int]:
    return {
        "file": rejection.place.file,
        "line": rejection.place.line,
        "reason": rejection.reason,
        "detail": redact(rejection.detail).text,
        # Cut after redaction, so that no half of a secret is left at the end.
        "row": _redacted_line(rejection.place.text)[:_SHOWN_CHARACTERS],
    }


def _redacted_line(text: str) -> str:
    """A raw line without personal data; JSON value by value, for an escaped newline hides where a word begins."""
    try:
        return json.dumps(_redacted_value(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return redact(_ESCAPE.sub(" ", text)).text


def _redacted_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value).text
    if isinstance(value, dict):
        return {redact(key).text: _redacted_value(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_redacted_value(item) for item in cast(list[Any], value)]
    if isinstance(value, int | float) and redact(str(value)).counts:
        return redact(str(value)).text
    return value
