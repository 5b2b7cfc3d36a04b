"""Decided rows go into the files of their splits, the others into `rejected.jsonl`; each token is accounted for on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from burnish.core.account import TokenAccount
from burnish.core.artifacts import FileRef, Split
from burnish.core.events import Emit, Progress
from burnish.data.accounting import TokenBook
from burnish.data.chunk import Refused, Row
from burnish.data.decide import FORGOTTEN, KEPT, REASONS, Fates
from burnish.data.histogram import histogram
from burnish.data.ledger import Book, redacted_line, rejected_line
from burnish.data.rows import SplitWriter
from burnish.data.spool import Spool
from burnish.store.files import file_ref, unwritable


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the splits by name, the rejected rows, and where every token went."""

    splits: dict[str, Split]
    rejected_file: FileRef
    account: TokenAccount


def write(
    spool: Spool, fates: Fates, sides: Mapping[str, int], folder: Path, root: Path, book: Book, emit: Emit
) -> Written:
    """Write every row of the spool to the split that its fate names, or to the rejected rows with the reason.

    sides: the splits' names and numbers. `book` is told of the rows that go because of others.
    """
    tokens = TokenBook()
    splits = {side: _Open(name, folder) for name, side in sides.items()}
    rejected = folder / "rejected.jsonl"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_private(rejected))
        done = 0
        for source, first, entries in spool.entries():
            row = first
            for entry in entries:
                if isinstance(entry, Refused):
                    file.write(rejected_line(entry))
                    continue
                if fates.reasons[row] == KEPT:
                    splits[int(fates.sides[row])].add(entry, tokens)
                else:
                    refused = _refused(spool, fates, row, entry)
                    book.reject(source, refused)
                    tokens.drop(entry.file, entry.tokens_in, refused.reason)
                    file.write(rejected_line(refused))
                row += 1
            done += row - first
            emit(Progress("prepare", "writing rows", done, len(spool), "rows"))
        file.flush()
        os.fsync(file.fileno())
    return Written(
        splits={name: splits[side].finish(root) for name, side in sides.items()},
        rejected_file=file_ref(rejected, root),
        account=tokens.account(book.counts.tokens_in, book.counts.rows_in),
    )


def _refused(spool: Spool, fates: Fates, row: int, entry: Row) -> Refused:
    reason = REASONS[int(fates.reasons[row])]
    twin = int(fates.twins[row])
    detail = ""
    if twin >= 0:
        place, line = spool.place(twin)
        score = float(fates.scores[row])
        detail = f"of {place}:{line}" + (f", similarity {score:.2f}" if "near" in reason else "")
    if reason == REASONS[FORGOTTEN]:  # what is to be forgotten is not written down once more
        return Refused(entry.line, entry.file, reason, detail, "")
    return Refused(entry.line, entry.file, reason, detail, redacted_line(f'{{"messages":{entry.messages}}}'))


def _private(path: Path) -> IO[bytes]:
    """A new file that only its owner may read."""
    try:
        path.unlink(missing_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise unwritable(path, error) from error


@dataclass(slots=True)
class _Open:
    """A split that is being written, and the numbers that the manifest says of it."""

    name: str
    folder: Path
    writer: SplitWriter = field(init=False)
    lengths: list[int] = field(default_factory=list[int])
    prefixes: dict[bytes, int] = field(default_factory=dict[bytes, int])
    counts: Counter[str] = field(default_factory=Counter[str])
    longest_answer: int = 0

    def __post_init__(self) -> None:
        self.writer = SplitWriter(self.folder, self.name)

    def add(self, row: Row, tokens: TokenBook) -> None:
        self.writer.add(row)
        trained = 0
        for each in row.renderings:
            prefix = hashlib.blake2b(each.ids[: each.prefix].astype(np.int32).tobytes(), digest_size=16).digest()
            self.prefixes[prefix] = each.prefix
            self.lengths.append(len(each.ids))
            self.counts["own"] += len(each.ids) - each.prefix
            trained += int(each.mask.sum())
            self.longest_answer = max(self.longest_answer, int(each.mask[each.prompt :].sum()))
        self.counts["rows"] += 1
        self.counts["trained"] += trained
        tokens.keep(row.file, trained=trained, masked=row.tokens - trained, truncated=row.tokens_in - row.tokens)

    def finish(self, root: Path) -> Split:
        self.writer.close()
        return Split(
            rows=self.counts["rows"],
            tokens=sum(self.lengths),
            unique_tokens=self.counts["own"] + sum(self.prefixes.values()),
            trained_tokens=self.counts["trained"],
            longest_tokens=max(self.lengths, default=0),
            longest_answer_tokens=self.longest_answer,
            lengths=histogram(self.lengths),
            file=file_ref(self.writer.rows_file, root),
            token_file=file_ref(self.writer.tokens_file, root),
        )
