"""The ledger: every line that came in is kept or rejected, with the reason and the line itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from burnish.core.artifacts import Ledger
from burnish.core.dataset import SourceLedger
from burnish.data.chunk import Chunk, Counts, Refused
from burnish.data.examples import MOST, Changed
from burnish.data.private.replace import redact

_KEPT_CHARACTERS = 20_000
NAMED_ROWS = 5
"""Overlong rows that a message names."""
_ESCAPE = re.compile(r"\\[nrtbf]")


class Book:
    """Counts lines and rows while a dataset is made; holds counts and the first example of each reason."""

    def __init__(self) -> None:
        """Open an empty book."""
        self.counts = Counts()
        self._rejected: dict[int, Counter[str]] = {}
        self._first: dict[tuple[int, str], Refused] = {}
        self._sources: dict[int, Counts] = {}

    def lines(self, source: int) -> int:
        """Lines of a source."""
        return self.of(source).lines.total()

    def usable(self, source: int) -> int:
        """Rows of a source that may be kept, or would fit if the recipe had another limit."""
        return self.of(source).formats.total()

    def of(self, source: int) -> Counts:
        """Return lines and formats by file of one source, and examples of changes; its other counts stay empty."""
        return self._sources.get(source, Counts())

    def examples(self, sources: int) -> dict[str, list[Changed]]:
        """Return the first rows of each change in the first so many sources."""
        found: dict[str, list[Changed]] = {}
        for number in range(sources):
            for change, some in self.of(number).examples.items():
                found[change] = [*found.get(change, []), *some][:MOST]
        return found

    @property
    def rows_in(self) -> int:
        """Lines that came in."""
        return self.counts.lines.total()

    def enter(self, source: int, chunk: Chunk) -> None:
        """Enter what a chunk of a source holds and what of it was refused."""
        for name in ("lines", "formats", "changed", "personal", "unused", "tokens_in", "rows_in"):
            getattr(self.counts, name).update(getattr(chunk.counts, name))
        self.counts.rendered += chunk.counts.rendered
        self.counts.tokens += chunk.counts.tokens
        self.counts.overlong.add(chunk.counts.overlong, names=NAMED_ROWS)
        own = self._sources.setdefault(source, Counts())
        own.lines.update(chunk.counts.lines)
        own.formats.update(chunk.counts.formats)
        for change, found in chunk.counts.examples.items():
            kept = own.examples.setdefault(change, [])
            kept += found[: MOST - len(kept)]
        self._rejected.setdefault(source, Counter()).update(chunk.reasons)
        for refused in chunk.refused:
            self._first.setdefault((source, refused.reason), refused)

    def reject(self, source: int, refused: Refused, count: int = 1) -> None:
        """Enter rows that are left out because of other rows; `refused` is the first of them."""
        self._rejected.setdefault(source, Counter())[refused.reason] += count
        self._first.setdefault((source, refused.reason), refused)

    def ledger(self, rows_kept: int, kept_of: Mapping[str, int] | None = None) -> Ledger:
        """Close the book. kept_of: rows kept by source of the data, in order, where the recipe names several.

        Raises ValueError if a row got lost, which would be an error of ours.
        """
        sources = {
            name: SourceLedger(
                rows_in=self.lines(number),
                rows_kept=kept,
                rejected=dict(sorted(self._rejected.get(number, Counter[str]()).items())),
            )
            for number, (name, kept) in enumerate((kept_of or {}).items())
        }
        return Ledger(
            sources=sources or None,
            rows_in=self.rows_in,
            rows_kept=rows_kept,
            rejected=dict(sorted(sum(self._rejected.values(), Counter[str]()).items())),
            changed=dict(sorted(self.counts.changed.items())),
        )

    def reasons(self, source: int | None = None) -> str:
        """Return a line for each reason, of one source or of all: how many, and the first one."""
        of = self._rejected if source is None else {source: self._rejected.get(source, Counter[str]())}
        lines: list[str] = []
        for reason, count in sum(of.values(), Counter[str]()).most_common():
            example = next(self._first[number, reason] for number in of if (number, reason) in self._first)
            detail = f": {redact(example.detail).text}" if example.detail else ""
            lines.append(f"  {count} x {reason} (first {example.file}:{example.line}{detail})")
        return "\n".join(lines)


def rejected_line(refused: Refused) -> bytes:
    """Return a line of `rejected.jsonl`."""
    record = {
        "file": refused.file,
        "line": refused.line,
        "reason": refused.reason,
        "detail": refused.detail,
        "row": refused.text,
    }
    # Half of a surrogate pair has no UTF-8; backslashreplace writes the JSON escape for it.
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def redacted_line(text: str) -> str:
    """Return a raw line for the ledger: without personal data, and cut after that, so that no half of a secret is left.

    JSON is looked at value by value, for an escaped newline hides where a word begins.
    """
    try:
        clean = json.dumps(_redacted_value(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        clean = redact(_ESCAPE.sub(" ", text)).text
    return clean[:_KEPT_CHARACTERS]


def shown_line(text: str) -> str:
    """Return a line of JSON without personal data for the ledger, cut as `redacted_line` cuts it."""
    return json.dumps(json.loads(text), ensure_ascii=False)[:_KEPT_CHARACTERS]


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
