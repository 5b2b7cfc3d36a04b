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
from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import check, read_any
from burnish.data.ledger import Book, Place
from burnish.data.private.replace import replace
from burnish.data.record import RawRow, Record
from burnish.data.repair import repair
from burnish.data.sources.fingerprint import fingerprint
from burnish.data.sources.read import read, stored_bytes, stored_files
from burnish.data.sources.spec import shown
from burnish.text.messages import Message
from burnish.text.system import needs_day, with_system

Item = TypeVar("Item")
PROGRESS_EVERY = 100
"""Lines between two progress events: often enough for a bar, seldom enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be kept: where it came from, the row itself, and its conversation with the system prompt."""

    place: Place
    row: Record
    messages: list[Message]
    day: datetime.date | None


@dataclass(frozen=True, slots=True)
class Source:
    """One source's candidates, what the manifest says about its files, and how its first row begins."""

    name: str
    files: tuple[SourceFile, ...]
    candidates: list[Candidate]
    begins: str

    @property
    def lines(self) -> int:
        """Rows read, good and bad."""
        return sum(file.lines for file in self.files)


class Reader:
    """Reads the sources of one recipe into candidates; what is refused or changed goes into the book."""

    def __init__(self, recipe: Recipe, book: Book, emit: Emit) -> None:
        """Read for `recipe`."""
        self.personal: Counter[str] = Counter()
        self.unused_keys: Counter[str] = Counter()
        self._recipe = recipe
        self._book = book
        self._emit = emit

    def read(self, name: str) -> Source:
        """Read one source: a file, folder, glob or URL, relative to the working folder, as the recipe says it."""
        candidates: list[Candidate] = []
        formats: dict[str, Counter[str]] = {}
        lines: Counter[str] = Counter()
        begins = ""
        for raw in read(name, at=self._progress(name)):
            file = raw.origin.file
            lines[file] += 1
            begins = begins or raw.text[:80]
            self._book.rows_in += 1
            place = Place(file, raw.origin.line, raw.text)
            try:
                candidate = self._candidate(raw, place)
            except RowRefused as refusal:
                self._book.reject(place, refusal.reason, refusal.detail)
                continue
            formats.setdefault(file, Counter())[candidate.row.meta["format"]] += 1
            candidates.append(candidate)
        return Source(name, _files(name, lines, formats), candidates, begins)

    def _candidate(self, raw: RawRow, place: Place) -> Candidate:
        if raw.value is None:
            raise RowRefused(raw.reason or "not a row", raw.detail)
        row = read_any(raw.value)
        _check_conversation(row)
        self.unused_keys.update(row.unused.keys())
        row = self._cleaned(row)
        day, date = row.day(), row.meta.get("date")
        if date is not None and day is None:
            self._book.changed["date that is not YYYY-MM-DD"] += 1
        check(row)
        template = self._recipe.system
        if day is None and needs_day(template) and row.messages[0]["role"] != "system":
            found = f"`date` is {date!r}" if date is not None else "it has no `date`"
            raise RowRefused("no date", f"{found}; the system prompt needs the day of the request as YYYY-MM-DD")
        return Candidate(place, row, with_system(row.messages, template, day or datetime.date.min), day)

    def _cleaned(self, row: Record) -> Record:
        """Repair every text and replace personal data; count the rows that changed by what changed in them."""
        changes: set[str] = set()
        found: Counter[str] = Counter()

        def clean(text: str) -> str:
            repaired = repair(text)
            changes.update(repaired.changes)
            redacted = replace(repaired.text)
            found.update(redacted.counts)
            return redacted.text if self._recipe.prepare.personal_data == "placeholder" else repaired.text

        cleaned = row.mapped(clean)
        self.personal.update(found)
        if found and self._recipe.prepare.personal_data == "placeholder":
            changes.add("personal data")
        self._book.changed.update(changes)
        return cleaned

    def _progress(self, name: str) -> Callable[[int], None]:
        total = stored_bytes(name) or 0
        what = f"reading {Path(shown(name)).name}"
        calls = 0

        def at(done: int) -> None:
            nonlocal calls
            calls += 1
            if calls % PROGRESS_EVERY == 0 or done >= total:
                self._emit(Progress("prepare", what, done, max(total, done), "bytes"))

        return at


def _check_conversation(row: Record) -> None:
    """Raise RowRefused for a row that a conversation's loss cannot train: learning the worse answer is no option."""
    if row.chosen is not None:
        raise RowRefused(
            "not a conversation", "a preference pair (chosen, rejected); this method trains on conversations"
        )
    if row.label is not None:
        raise RowRefused("not a conversation", "an answer with a label; this method trains on conversations")
    if row.text is not None:
        raise RowRefused("not a conversation", "plain text, in which nothing is asked and answered")


def _files(name: str, lines: Counter[str], formats: dict[str, Counter[str]]) -> tuple[SourceFile, ...]:
    """What the manifest says of each local file, archives with their members; of any other source, of it as a whole."""
    local = stored_files(name)

    def told(path: str, sha256: str, size: int, *, whole: bool) -> SourceFile:
        within = [file for file in lines if whole or file == path or file.startswith(f"{path}/")]
        counted = sum((formats.get(file, Counter()) for file in within), Counter[str]())
        return SourceFile(
            path=path,
            sha256=sha256,
            size_bytes=size,
            lines=sum(lines[file] for file in within),
            formats=dict(sorted(counted.items())),
        )

    if not local:
        return (told(shown(name), fingerprint(name), 0, whole=True),)
    whole = len(local) == 1
    return tuple(
        told(name if whole else str(path), file_sha256(path), path.stat().st_size, whole=whole) for path in local
    )


def every(items: Sequence[Item], what: str, emit: Emit) -> Iterator[Item]:
    """Yield the items, and say how far it is."""
    for done, item in enumerate(items, start=1):
        yield item
        if done % PROGRESS_EVERY == 0 or done == len(items):
            emit(Progress("prepare", what, done, len(items), "rows"))
