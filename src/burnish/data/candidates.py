"""Raw lines become candidates: read, told apart by format, repaired, personal data replaced, given a system prompt."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from burnish.core.artifacts import SourceFile
from burnish.core.events import Emit, Progress
from burnish.core.ids import file_sha256
from burnish.core.recipe import Recipe
from burnish.data.formats import Row, RowRefused, check_turns, read_row
from burnish.data.ledger import Book, Place
from burnish.data.personal import redact
from burnish.data.read import RawLine, read_lines
from burnish.data.repair import repair
from burnish.text.messages import Message
from burnish.text.system import needs_day, with_system

Item = TypeVar("Item")
PROGRESS_EVERY = 100
"""Lines between two progress events: often enough for a bar, seldom enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be kept: where it came from, the row itself, and its conversation with the system prompt."""

    place: Place
    row: Row
    messages: list[Message]
    day: datetime.date | None


@dataclass(frozen=True, slots=True)
class Source:
    """One file's candidates, what the manifest says about the file, and how its first line begins."""

    file: SourceFile
    candidates: list[Candidate]
    begins: str


class Reader:
    """Reads the files of one recipe into candidates; what is refused or changed goes into the book."""

    def __init__(self, recipe: Recipe, book: Book, emit: Emit) -> None:
        """Read for `recipe`."""
        self.personal: Counter[str] = Counter()
        self.unused_keys: Counter[str] = Counter()
        self._recipe = recipe
        self._book = book
        self._emit = emit

    def read(self, name: str) -> Source:
        """Read one file. `name` is relative to the working folder, as the recipe says it."""
        path = Path(name)
        candidates: list[Candidate] = []
        formats: Counter[str] = Counter()
        lines = 0
        begins = ""
        for raw in read_lines(path, at=self._progress(path)):
            lines += 1
            begins = begins or raw.text[:80]
            self._book.rows_in += 1
            place = Place(raw.file, raw.line, raw.text)
            try:
                candidate = self._candidate(raw, place)
            except RowRefused as refusal:
                self._book.reject(place, refusal.reason, refusal.detail)
                continue
            formats[candidate.row.format] += 1
            candidates.append(candidate)
        file = SourceFile(
            path=name,
            sha256=file_sha256(path),
            size_bytes=path.stat().st_size,
            lines=lines,
            formats=dict(sorted(formats.items())),
        )
        return Source(file, candidates, begins)

    def _candidate(self, raw: RawLine, place: Place) -> Candidate:
        if raw.value is None:
            raise RowRefused(raw.reason or "not a row", raw.detail)
        row = read_row(raw.value)
        self.unused_keys.update(row.unused.keys())
        row = self._cleaned(row)
        if row.date is not None and row.day() is None:
            self._book.changed["date that is not YYYY-MM-DD"] += 1
        check_turns(row)
        day = row.day()
        messages = row.messages()
        template = self._recipe.system
        if day is None and needs_day(template) and messages[0]["role"] != "system":
            found = f"`date` is {row.date!r}" if row.date is not None else "it has no `date`"
            raise RowRefused("no date", f"{found}; the system prompt needs the day of the request as YYYY-MM-DD")
        return Candidate(place, row, with_system(messages, template, day or datetime.date.min), day)

    def _cleaned(self, row: Row) -> Row:
        """Repair every text and replace personal data; count the rows that changed by what changed in them."""
        changes: set[str] = set()
        found: Counter[str] = Counter()

        def clean(text: str) -> str:
            repaired = repair(text)
            changes.update(repaired.changes)
            redacted = redact(repaired.text)
            found.update(redacted.counts)
            return redacted.text if self._recipe.prepare.personal_data == "placeholder" else repaired.text

        cleaned = row.mapped(clean)
        self.personal.update(found)
        if found and self._recipe.prepare.personal_data == "placeholder":
            changes.add("personal data")
        self._book.changed.update(changes)
        return cleaned

    def _progress(self, path: Path) -> Callable[[int], None]:
        total = path.stat().st_size if path.exists() else 0
        calls = 0

        def at(done: int) -> None:
            nonlocal calls
            calls += 1
            if calls % PROGRESS_EVERY == 0 or done >= total:
                self._emit(Progress("prepare", f"reading {path.name}", done, total, "bytes"))

        return at


def every(items: Sequence[Item], what: str, emit: Emit) -> Iterator[Item]:
    """Yield the items, and say how far it is."""
    for done, item in enumerate(items, start=1):
        yield item
        if done % PROGRESS_EVERY == 0 or done == len(items):
            emit(Progress("prepare", what, done, len(items), "rows"))
