"""Find the duplicates in a stream of rows: exact ones by hash, near ones by verified similarity of n-grams.

What is a duplicate in data of requests and answers? Two rows teach the same thing twice when they ask nearly the same
and answer the same. Rows whose requests are alike but whose answers differ ("... under $300", "... under $400") are
both needed, and rows with the same answer to another phrasing are what variety is. Documents have no answer.

Rows pass once. On disk stay their sets of n-grams and the beginnings of their texts; in memory at most 200 bytes a row. A
row is removed only against a row that is kept, never through a chain of rows that are each similar to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.data.near.brake import Loss, Side, losses
from burnish.data.near.canonical import digest, plain, words_only
from burnish.data.near.join import Equal, Joined, components, join
from burnish.data.near.rows import REQUESTS, Removals, Row, Rules
from burnish.data.near.shingle import BLOCK_BYTES, I64, MOST_TEXTS, U64, Sets, Words, running, shingle_sets, words_of
from burnish.data.near.signature import U32, Keys, is_prefixed, keys, plan
from burnish.data.near.sketch import RowCounts, of_source
from burnish.data.near.spool import Excerpts, Numbers, SetFile


@dataclass(frozen=True, slots=True)
class Found:
    """All removals, what each source loses, and how many rows were too alike to be compared with all they share keys with."""

    rows: int
    removals: Removals
    losses: tuple[Loss, ...]
    cut_short: int


class Block(NamedTuple):
    """At most 4,096 rows as the search needs them, each a `Row`: its words, and what must be equal as numbers.

    digests: 16 bytes of text and answer, equal for exact duplicates alone. answers: 64 bits of the answer.
    sources: any numbers. apart: where it is given, rows with different numbers are no near duplicates of each other; against a
    row that is fixed it does not count.
    """

    numbers: I64
    words: Words
    digests: NDArray[np.void]
    answers: U64
    sources: NDArray[np.uint32]
    ranks: I64
    fixed: NDArray[np.bool_]
    apart: U32 | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """What is known of each row besides its set, in order of arrival. 49 bytes a row."""

    numbers: I64
    digests: NDArray[np.void]
    answers: U64
    sources: NDArray[np.uint32]
    ranks: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    apart: U32


def find(rows: Iterable[Row], rules: Rules = REQUESTS, *, folder: Path | None = None) -> Found:
    """Return the rows to remove, each with the row that stays instead.

    rows: any number, read once. folder: where the temporary files go (as large as the text, about), else where the system
    puts them; they have no names and go with the process.
    """
    names: dict[str, int] = {}
    with closing(Excerpts(folder)) as excerpts:
        blocks = (_block(block, names, excerpts) for block in _blocks(rows))
        removals, columns, places, cut_short = _search(blocks, rules, folder)
        side: Side = lambda place: (int(columns.numbers[place]), excerpts.one(place))  # noqa: E731 - one use, of two locals
        lost = losses(removals, places, columns.sources, tuple(names), side, rules)
    return Found(len(columns.numbers), removals, lost, cut_short)


def find_in(blocks: Iterable[Block], rules: Rules = REQUESTS, *, folder: Path | None = None) -> Removals:
    """Return what `find` removes of rows whose words are known."""
    return _search(blocks, rules, folder)[0]


def clusters(rows: Iterable[Row], rules: Rules = REQUESTS, *, folder: Path | None = None) -> I64:
    """Return for each row, in order of arrival, the place of the first row of its cluster: its own where it is alone.

    A cluster is what exact and near duplicates connect, through chains too. It is for splits, which no cluster may cross;
    leave `answer` empty there. Rows are never removed by it.
    """
    names: dict[str, int] = {}
    return clusters_in((_block(block, names) for block in _blocks(rows)), rules, folder=folder)


def clusters_in(blocks: Iterable[Block], rules: Rules = REQUESTS, *, folder: Path | None = None) -> I64:
    """Return the `clusters` of rows whose words are known."""
    with ExitStack() as stack:
        work = _prepared(blocks, rules, stack, folder)
        first_of = components(work.keys, work.sets, Equal(work.columns.answers), rules.threshold)[work.firsts]
        # Ranks and fixed rows may make a later row the first of its copies; the cluster is named after the earliest.
        earliest = np.arange(len(first_of))
        np.minimum.at(earliest, first_of, np.arange(len(first_of)))
        return earliest[first_of]


def _search(
    blocks: Iterable[Block], rules: Rules, folder: Path | None
) -> tuple[Removals, Columns, tuple[I64, I64], int]:
    with ExitStack() as stack:
        work = _prepared(blocks, rules, stack, folder)
        joined = join(
            work.keys, work.sequence, work.sets, Equal(work.columns.answers, work.columns.apart), rules.threshold,
            work.columns.fixed,
        )  # fmt: skip
        removals, places = _removals(work.columns, work.firsts, joined)
        return removals, work.columns, places, joined.cut_short


class _Prepared(NamedTuple):
    """What is known of rows that are read: all for the search itself."""

    columns: Columns
    sequence: I64
    firsts: I64
    sets: SetFile
    keys: Keys


def _prepared(blocks: Iterable[Block], rules: Rules, stack: ExitStack, folder: Path | None) -> _Prepared:
    """Read the rows, find exact copies, take templates out, make keys. The stack closes the files."""
    sets, stripped = stack.enter_context(closing(SetFile(folder))), stack.enter_context(closing(SetFile(folder)))
    columns = _read(blocks, rules, sets)
    sequence = _sequence(columns, sets, rules)
    firsts = _firsts(columns, sequence)
    found = index(sets, stripped, columns, firsts == np.arange(len(sets)), rules)
    return _Prepared(columns, sequence, firsts, stripped, found)


def index(sets: SetFile, stripped: SetFile, columns: Columns, counted: NDArray[np.bool_], rules: Rules) -> Keys:
    """Write the sets without the n-grams of templates, and return the keys of the rows.

    counted: rows that count for the frequency of n-grams and are compared, which exact copies are not.
    """
    counts, by_source = _count(sets, columns, counted, rules)
    rows_of = np.bincount(columns.sources[counted], minlength=columns.sources.max(initial=0) + 1)
    most = np.maximum(rules.template_rows, rules.template_share * rows_of).astype(np.uint64)
    most_of_all = np.uint64(max(rules.template_rows, int(rules.template_share * int(counted.sum()))))
    how = plan(rules.threshold)
    values = Numbers(np.uint32, sets.folder)
    sizes: list[I64] = []
    for start, block in sets.blocks():
        end = start + len(block.starts) - 1
        stays = np.repeat(counted[start:end], np.diff(block.starts))
        if rules.template_share < 1:
            stays &= counts.of(block.values) <= most_of_all
            if by_source is not None:
                source = np.repeat(columns.sources[start:end], np.diff(block.starts))
                stays &= by_source.of(of_source(block.values, source.astype(np.uint64))) <= most[source]
        kept = _select(block, stays)
        stripped.append(kept)
        block_keys = keys(kept, columns.answers[start:end], how, counts)
        values.append(block_keys.values)
        sizes.append(np.diff(block_keys.starts))
    stripped.finish()
    return Keys(values.finish(), running(sizes))


def _read(blocks: Iterable[Block], rules: Rules, sets: SetFile) -> Columns:
    parts: list[Columns] = []
    for block in blocks:
        sets.append(shingle_sets(block.words, rules.words))
        apart = np.zeros(len(block.numbers), np.uint32) if block.apart is None else block.apart
        parts.append(
            Columns(block.numbers, block.digests, block.answers, block.sources, block.ranks, block.fixed, apart)
        )
    sets.finish()
    if not parts:
        none = np.empty(0, np.int64)
        parts.append(Columns(none, np.empty(0, "V16"), none.astype(np.uint64), none.astype(np.uint32), none,
                             none.astype(np.bool_), none.astype(np.uint32)))  # fmt: skip
    return Columns(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.answers for part in parts]),
        np.concatenate([part.sources for part in parts]),
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.fixed for part in parts]),
        np.concatenate([part.apart for part in parts]),
    )


def _block(block: list[Row], names: dict[str, int], excerpts: Excerpts | None = None) -> Block:
    """Return a block of rows; number new sources, and keep the beginnings of the texts."""
    plains = [plain(row.text) for row in block]
    if excerpts is not None:
        excerpts.append([row.text for row in block])
    both = b"".join(digest(row.answer) + digest(text, row.answer) for row, text in zip(block, plains, strict=True))
    halves = np.frombuffer(both, np.uint64).reshape(len(block), 4)
    return Block(
        np.array([row.number for row in block], np.int64),
        words_of([words_only(text) for text in plains]),
        np.ascontiguousarray(halves[:, 2:]).view(np.dtype("V16")).ravel(),
        halves[:, 0].copy(),
        np.array([names.setdefault(row.source, len(names)) for row in block], np.uint32),
        np.array([row.rank for row in block], np.int64),
        np.array([row.fixed for row in block], np.bool_),
    )


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.text)
        if size >= BLOCK_BYTES or len(block) == MOST_TEXTS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _sequence(columns: Columns, sets: SetFile, rules: Rules) -> I64:
    """Return the rows in the order in which they are kept: fixed ones, then by rank, by size if asked, by arrival."""
    sizes = -np.diff(sets.starts) if rules.prefer == "longer" else np.zeros(len(sets), np.int64)
    return np.lexsort((sizes, columns.ranks, ~columns.fixed))


def _firsts(columns: Columns, sequence: I64) -> I64:
    """Return for each row the first in sequence that is exactly equal: itself for all but copies."""
    pairs = columns.digests.view(np.uint64).reshape(-1, 2)[sequence]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ordered = pairs[order]
    first = np.ones(len(order), np.bool_)
    if len(order):
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    begins = np.flatnonzero(first)
    leaders = sequence[order[begins]][np.cumsum(first) - 1]
    firsts = np.empty(len(sequence), np.int64)
    firsts[sequence[order]] = leaders
    firsts[columns.fixed] = np.flatnonzero(columns.fixed)
    return firsts


def _count(
    sets: SetFile, columns: Columns, counted: NDArray[np.bool_], rules: Rules
) -> tuple[RowCounts, RowCounts | None]:
    """Count n-grams over all rows, and within each source where there are several."""
    counts = RowCounts(int(sets.starts[-1]))
    how = plan(rules.threshold)
    split = rules.template_share < 1 and bool((columns.sources[1:] != columns.sources[:-1]).any())
    by_source = RowCounts(int(sets.starts[-1])) if split else None
    for start, block in sets.blocks():
        sizes = np.diff(block.starts)
        rows = counted[start : start + len(sizes)]
        chosen = np.repeat(rows if rules.template_share < 1 else rows & is_prefixed(sizes, how), sizes)
        values = block.values[chosen]
        counts.add(values)
        if by_source is not None:
            sources = np.repeat(columns.sources[start : start + len(sizes)], sizes)[chosen]
            by_source.add(of_source(values, sources.astype(np.uint64)))
    return counts, by_source


def _select(sets: Sets, stays: NDArray[np.bool_]) -> Sets:
    if stays.all():
        return sets
    return Sets(sets.values[stays], running([stays])[sets.starts])


def _removals(columns: Columns, firsts: I64, matches: Joined) -> tuple[Removals, tuple[I64, I64]]:
    """Return the removals by row, and the places in order of arrival of removed and kept rows.

    A copy of a row that is itself removed is recorded against the row that stays: its text is the same, so the score holds.
    """
    count = len(firsts)
    kept, scores, kinds = firsts.copy(), np.ones(count), np.zeros(count, np.uint8)
    kept[matches.rows], scores[matches.rows], kinds[matches.rows] = matches.kept, matches.scores, 1
    copies = firsts != np.arange(count)
    kinds[copies] = kinds[firsts[copies]]
    scores[copies] = scores[firsts[copies]]
    kept[copies] = kept[firsts[copies]]
    removed = np.flatnonzero(kept != np.arange(count))
    numbers = columns.numbers
    removals = Removals(numbers[removed], numbers[kept[removed]], scores[removed], kinds[removed])
    return removals, (removed, kept[removed])
