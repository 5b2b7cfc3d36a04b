"""Decided rows go into the files of their splits, the others into `rejected.jsonl`; each token is accounted for on the way."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from burnish.core.account import TokenAccount
from burnish.core.artifacts import FileRef, Split
from burnish.core.dataset import SplitShard, SplitSource
from burnish.core.events import Emit, Progress
from burnish.data.accounting import TokenBook
from burnish.data.chunk import Refused
from burnish.data.fates import FORGOTTEN, KEPT, REASONS, Fates
from burnish.data.histogram import histogram
from burnish.data.ledger import Book, redacted_line, rejected_line, shown_line
from burnish.data.pair import content_line
from burnish.data.rows import SplitWriter
from burnish.data.shelf import SHELF, Shelved
from burnish.data.spool import Spool
from burnish.data.tables import Tables
from burnish.store.files import file_ref, unwritable

I64 = npt.NDArray[np.int64]
_NOTHING = {"rows": 0, "tokens": 0, "trained_tokens": 0}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the splits by name, the rejected rows, and where every token went."""

    splits: dict[str, Split]
    rejected_file: FileRef
    account: TokenAccount


def write(
    spool: Spool,
    fates: Fates,
    sides: Mapping[str, int],
    folder: Path,
    root: Path,
    book: Book,
    emit: Emit,
    *,
    clean: bool,
    names: Sequence[str] = (),
) -> Written:
    """Write every row of the spool to the split that its fate names, or to the rejected rows with the reason.

    sides: the splits' names and numbers. `book` is told of the rows that go because of others. clean: no row holds
    personal data any more; where one may, rejected rows are redacted as they are written down. names: of the data's sources,
    where the recipe names several.
    """
    tokens = TokenBook()
    splits = {side: _Open(name, folder, root / SHELF, names) for name, side in sides.items()}
    rejected = folder / "rejected.jsonl"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_private(rejected))
        done = 0
        for source, first, rows, refusals in spool.tables():
            for _, refused in refusals:
                if refused.tokens:
                    tokens.drop(refused.file, refused.tokens, refused.reason)
            own = np.arange(first, first + len(rows))
            kept = fates.reasons[own] == KEPT
            for side in np.unique(fates.sides[own[kept]]).tolist():
                here = np.flatnonzero(kept & (fates.sides[own] == side))
                splits[side].add(rows.taken(here), spool, own[here], tokens)
            for place in np.flatnonzero(~kept).tolist():
                refused = _refused(spool, fates, first + place, rows, place, clean)
                book.reject(source, refused)
                tokens.drop(refused.file, int(spool.columns["tokens_in"][first + place]), refused.reason)
                refusals.append((place, refused))
            # In the order of reading; the sort keeps what is equal in order, so a refusal stays before the row it precedes.
            for _, refused in sorted(refusals, key=lambda each: each[0]):
                file.write(rejected_line(refused))
            done += len(own)
            emit(Progress("prepare", "writing rows", done, len(spool), "rows"))
        file.flush()
        os.fsync(file.fileno())
    return Written(
        splits={name: splits[side].finish(root) for name, side in sides.items()},
        rejected_file=file_ref(rejected, root),
        account=tokens.account(book.counts.tokens_in, book.counts.rows_in),
    )


def _refused(spool: Spool, fates: Fates, row: int, rows: Tables, place: int, clean: bool) -> Refused:
    reason = REASONS[int(fates.reasons[row])]
    file, line = spool.place(row)
    twin = int(fates.twins[row])
    detail = ""
    if twin >= 0:
        score = float(fates.scores[row])
        detail = f"of {':'.join(map(str, spool.place(twin)))}" + (
            f", similarity {score:.2f}" if "near" in reason or "semantic" in reason else ""
        )
    if reason == REASONS[FORGOTTEN]:  # what is to be forgotten is not written down once more
        return Refused(line, file, reason, detail, "")
    messages = content_line(rows.messages(place))
    return Refused(line, file, reason, detail, shown_line(messages) if clean else redacted_line(messages))


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
    shelf: Path
    names: Sequence[str] = ()
    writer: SplitWriter = field(init=False)
    lengths: list[I64] = field(default_factory=list[I64])
    prefixes: dict[bytes, int] = field(default_factory=dict[bytes, int])
    counts: Counter[str] = field(default_factory=Counter[str])
    longest_answer: int = 0
    by_source: dict[int, Counter[str]] = field(default_factory=dict[int, Counter[str]])

    def __post_init__(self) -> None:
        self.writer = SplitWriter(self.folder, self.name, self.shelf)

    def add(self, rows: Tables, spool: Spool, numbers: I64, tokens: TokenBook) -> None:
        """Take rows of which the spool knows these numbers."""
        self.writer.add(rows)
        own = rows.sizes()
        self.prefixes.update(rows.prefixes())
        self.lengths.append(own.tokens)
        self.counts["own"] += int((own.tokens - own.prefixes).sum())
        self.counts["rows"] += len(numbers)
        self.counts["trained"] += int(own.trained.sum())
        self.longest_answer = max(self.longest_answer, int(own.answers.max(initial=0)))
        columns = spool.columns[numbers]
        of_rows = np.repeat(np.arange(len(numbers)), rows.renderings)
        trained = np.bincount(of_rows, own.trained, minlength=len(numbers)).astype(np.int64)
        self._count_sources(spool.sources[numbers], columns["tokens"], trained)
        whole, cut = columns["tokens"].astype(np.int64), columns["tokens_in"].astype(np.int64)
        present: list[int] = np.unique(columns["file"]).tolist()
        for number in present:
            here = columns["file"] == number
            tokens.keep(
                spool.files[number],
                trained=trained[here],
                masked=(whole - trained)[here],
                truncated=(cut - whole)[here],
            )

    def _count_sources(self, sources: npt.NDArray[Any], tokens: npt.NDArray[Any], trained: I64) -> None:
        for number, _ in enumerate(self.names):
            here = sources == number
            found = {"rows": here.sum(), "tokens": tokens[here].sum(), "trained_tokens": trained[here].sum()}
            self.by_source.setdefault(number, Counter()).update({name: int(count) for name, count in found.items()})

    def finish(self, root: Path) -> Split:
        self.writer.close()
        lengths = np.concatenate(self.lengths or [np.empty(0, np.int64)])
        return Split(
            rows=self.counts["rows"],
            tokens=int(lengths.sum()),
            unique_tokens=self.counts["own"] + sum(self.prefixes.values()),
            trained_tokens=self.counts["trained"],
            longest_tokens=int(lengths.max(initial=0)),
            longest_answer_tokens=self.longest_answer,
            lengths=histogram(lengths),
            file=file_ref(self.writer.rows_file, root),
            token_file=file_ref(self.writer.tokens_file, root),
            shards=tuple(
                SplitShard(rows=rows.rows, file=self._ref(rows, root), token_file=self._ref(tokens, root))
                for rows, tokens in self.writer.files
            ),
            sources={
                name: SplitSource.model_validate(dict(self.by_source.get(number) or _NOTHING))
                for number, name in enumerate(self.names)
            }
            or None,
        )

    def _ref(self, file: Shelved, root: Path) -> FileRef:
        path = (self.shelf / f"{file.sha256}.parquet").relative_to(root).as_posix()
        return FileRef(path=path, sha256=file.sha256, size_bytes=file.size_bytes)
