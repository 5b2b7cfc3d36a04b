"""Find near duplicates among rows that share keys: each pair verified on its sets, no row removed through a chain."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.data.near.shingle import I64, U64, running
from burnish.data.near.signature import U32, Keys
from burnish.data.near.spool import SetFile, room

I32 = NDArray[np.int32]
MOST_CANDIDATES = 512
"""Rows that one row is compared with; more only when hundreds of kept rows share its keys and are not its duplicates."""
CLUSTER_CANDIDATES = 64

_PARTS = 16
_ROWS_AT_ONCE = 2**16
_ROUNDING = 1e-9


class Equal(NamedTuple):
    """What two similar rows must have in common to be duplicates: the answer; and `apart`, unless one of them is fixed."""

    answers: U64
    apart: U32 | None = None

    def of(self, row: int, candidates: I64, fixed: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Return which candidates may be duplicates of a row."""
        same = self.answers[candidates] == self.answers[row]
        if self.apart is None:
            return same
        alike = self.apart[candidates] == self.apart[row]
        return same & (alike if fixed is None else alike | fixed[candidates])


class Joined(NamedTuple):
    """Matches in the order they were found: rows, the kept rows they duplicate, their Jaccard similarities.

    cut_short: how many rows had more candidates than were looked at.
    """

    rows: I64
    kept: I64
    scores: NDArray[np.float64]
    cut_short: int


def join(
    keys: Keys, sequence: I64, sets: SetFile, equal: Equal, threshold: float, fixed: NDArray[np.bool_] | None = None
) -> Joined:
    """Go through the rows in sequence; each is kept, or removed against the first of those kept before it.

    A row is removed when its Jaccard similarity with a kept row that is `equal` reaches the threshold. Of several such rows
    it is matched with the one that came first. Rows that are `fixed` are always kept.
    """
    shared = _shared(keys, sets.folder)
    kept = _Kept(shared, sets.folder)
    places = np.empty(len(sequence), np.int64)
    places[sequence] = np.arange(len(sequence))
    matches = _Matches()
    cut_short = 0
    for row in sequence[np.diff(shared.starts)[sequence] > 0].tolist():
        if fixed is None or not fixed[row]:
            candidates = kept.candidates(row, MOST_CANDIDATES)
            cut_short += len(candidates) >= MOST_CANDIDATES
            match = _first_similar(row, candidates, places, sets, equal, threshold, fixed)
            if match is not None:
                matches.add(row, *match)
                continue
        kept.add(row)
    return matches.joined(cut_short)


def pairs(keys: Keys, sets: SetFile, equal: Equal, threshold: float) -> Joined:
    """Return every pair of rows that are similar, later row first; work grows with the square of a group of equals."""
    shared = _shared(keys, sets.folder)
    seen = _Kept(shared, sets.folder)
    matches = _Matches()
    for row in np.flatnonzero(np.diff(shared.starts)).tolist():
        candidates = seen.candidates(row, most=len(sets))
        candidates, scores = _similar(row, np.sort(candidates), sets, equal, threshold, None)
        for other, score in zip(candidates.tolist(), scores.tolist(), strict=True):
            matches.add(row, other, score)
        seen.add(row)
    return matches.joined(0)


def components(keys: Keys, sets: SetFile, equal: Equal, threshold: float) -> I64:
    """Return for each row the first row that it is connected with through a chain of similar rows: its cluster.

    For keeping clusters together, never for removing rows. A row is compared with at most 64 others, those with which it
    shares most keys, so that a cluster of very many rows does not cost the square of its size.
    """
    shared = _shared(keys, sets.folder)
    seen = _Kept(shared, sets.folder)
    parents = np.arange(len(sets))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    for row in np.flatnonzero(np.diff(shared.starts)).tolist():
        similar, _ = _similar(row, seen.candidates(row, most=CLUSTER_CANDIDATES), sets, equal, threshold, None)
        roots = sorted({row, *map(root, similar.tolist())})
        parents[roots] = roots[0]
        seen.add(row)
    return np.array([root(row) for row in range(len(sets))], np.int64)


class _Matches:
    """Matches as they are found, in 24 bytes each."""

    def __init__(self) -> None:
        self._rows, self._kept, self._scores = array("q"), array("q"), array("d")

    def add(self, row: int, kept: int, score: float) -> None:
        self._rows.append(row)
        self._kept.append(kept)
        self._scores.append(score)

    def joined(self, cut_short: int) -> Joined:
        rows, kept = np.array(self._rows, np.int64), np.array(self._kept, np.int64)
        return Joined(rows, kept, np.array(self._scores, np.float64), cut_short)


class _Shared(NamedTuple):
    """The groups of rows that share a key: row i is in groups values[starts[i] : starts[i + 1]]."""

    values: I32
    starts: I64
    groups: int


def _shared(keys: Keys, folder: Path | None) -> _Shared:
    """Number the keys that two or more rows have, and forget the others; a sixteenth of the keys at a time."""
    groups: I32 = room(len(keys.values), -1, np.int32, folder)
    count = 0
    for part in range(_PARTS):
        places = np.flatnonzero(keys.values >> np.uint32(28) == part)
        order = np.argsort(keys.values[places], kind="stable")
        places = places[order]
        ordered = keys.values[places]
        if len(ordered) < 2:
            continue
        same = ordered[1:] == ordered[:-1]
        member = np.concatenate((same, [False])) | np.concatenate(([False], same))
        begins = member & np.concatenate(([True], ~same))
        numbers = np.cumsum(begins) - 1 + count
        groups[places[member]] = numbers[member]
        count += int(begins.sum())
    return _Shared(*_grouped(groups, keys.starts), count)


def _grouped(groups: I32, starts: I64) -> tuple[I32, I64]:
    """Move the keys that are in a group together, in place, and return them and where each row's begin."""
    rows = len(starts) - 1
    sizes = np.zeros(rows, np.int64)
    end = 0
    for row in range(0, rows, _ROWS_AT_ONCE):
        bounds = starts[row : row + _ROWS_AT_ONCE + 1]
        part = groups[bounds[0] : bounds[-1]]
        stays = part >= 0
        sizes[row : row + _ROWS_AT_ONCE] = np.diff(running([stays])[bounds - bounds[0]])
        part = part[stays]
        groups[end : end + len(part)] = part
        end += len(part)
    return groups[:end], running([sizes])


class _Kept:
    """The kept rows of each group, as linked lists in two arrays: 4 bytes a group, 4 bytes a row and group."""

    def __init__(self, shared: _Shared, folder: Path | None) -> None:
        self._shared = shared
        self._newest: I32 = room(shared.groups, -1, np.int32, folder)
        self._older: I32 = room(len(shared.values), -1, np.int32, folder)

    def add(self, row: int) -> None:
        """Put a row into its groups."""
        start, end = self._shared.starts[row : row + 2].tolist()
        groups = self._shared.values[start:end]
        self._older[start:end] = self._newest[groups]
        self._newest[groups] = np.arange(start, end, dtype=np.int32)

    def candidates(self, row: int, most: int) -> I64:
        """Return rows that share a group with this one, each once, most shared groups first when there are too many."""
        start, end = self._shared.starts[row : row + 2].tolist()
        links = self._newest[self._shared.values[start:end]]
        found: list[I32] = []
        total = 0
        while len(links := links[links >= 0]) and total < 8 * most:
            found.append(links)
            total += len(links)
            links = self._older[links]
        if not found:
            return np.empty(0, np.int64)
        owners = np.searchsorted(self._shared.starts, np.concatenate(found), side="right") - 1
        if (owners == owners[0]).all():
            return owners[:1]
        rows, times = np.unique(owners, return_counts=True)
        return rows if len(rows) <= most else rows[np.argsort(-times, kind="stable")[:most]]


def _first_similar(
    row: int,
    candidates: I64,
    places: I64,
    sets: SetFile,
    equal: Equal,
    threshold: float,
    fixed: NDArray[np.bool_] | None,
) -> tuple[int, float] | None:
    if not len(candidates):
        return None
    candidates = candidates[np.argsort(places[candidates])]
    similar, scores = _similar(row, candidates, sets, equal, threshold, fixed)
    return (int(similar[0]), float(scores[0])) if len(similar) else None


def _similar(
    row: int, candidates: I64, sets: SetFile, equal: Equal, threshold: float, fixed: NDArray[np.bool_] | None
) -> tuple[I64, NDArray[np.float64]]:
    """Return those of the candidates, in their order, that are similar, and how much."""
    starts = sets.starts
    size = int(starts[row + 1] - starts[row])
    sizes = starts[candidates + 1] - starts[candidates]
    possible = (np.minimum(sizes, size) >= threshold * np.maximum(sizes, size) - _ROUNDING) & (sizes > 0)
    candidates = candidates[possible & equal.of(row, candidates, fixed)]
    if not len(candidates):
        return candidates, np.empty(0)
    own = sets.one(row)
    sizes = starts[candidates + 1] - starts[candidates]
    both = _overlaps(own, [sets.one(other) for other in candidates.tolist()], sizes)
    scores = both / (size + sizes - both)
    similar = scores >= threshold
    return candidates[similar], scores[similar]


def _overlaps(own: U64, others: list[U64], sizes: I64) -> I64:
    """Return how many numbers each of the other sets has in common with the first; none of them is empty."""
    values = np.concatenate(others)
    found = own[np.minimum(np.searchsorted(own, values), len(own) - 1)] == values
    return np.add.reduceat(found, np.cumsum(sizes) - sizes, dtype=np.int64)
