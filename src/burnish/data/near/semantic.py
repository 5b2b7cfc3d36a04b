"""Semantic duplicates: rows that say the same in other words, by the cosine of embeddings made elsewhere.

The rules are those of near duplicates: answers must be equal, a row is removed only against a row that is kept, and each
removal names that row and the score. The search is exact: every row is compared with every kept row that could be its
duplicate, a block of rows against a block of kept rows at a time.

Embeddings blur what matters in requests. With all-MiniLM-L6-v2 "fly from Paris to Rome" and "fly from Rome to Paris" have a
cosine of 0.998, Tuesday and Friday in one sentence 0.95, and two ways to ask for a password's reset 0.89. So two texts are
compared only when they agree in all numbers and in the count of English words of negation. With requests the equal answers
keep the rest apart; documents have none, so for them a threshold says less: look at the pairs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import DataError
from burnish.data.near.brake import Loss, losses
from burnish.data.near.canonical import digest, plain
from burnish.data.near.rows import KINDS, Removals, Row, Rules
from burnish.data.near.shingle import I64, U64

F32 = NDArray[np.float32]
Embed = Callable[[Sequence[str]], F32]
"""From texts to a matrix of a row each, of length 1."""

MOST_ROWS = 200_000
BLOCK = 1024
TILE = 8192
EMBED_AT_ONCE = 2048
_ROUNDING = 1e-4
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NEGATION = re.compile(r"\b(?:no|not|never|none|nor|neither|without|cannot|\w+n['’]t)\b")


@dataclass(frozen=True, slots=True)
class Similar:
    """The removals, what each source loses, and how many rows had to be embedded."""

    rows: int
    embedded: int
    removals: Removals
    losses: tuple[Loss, ...]


def find_semantic(
    rows: Sequence[Row], embed: Embed, rules: Rules, *, threshold: float = 0.95, folder: Path | None = None
) -> Similar:
    """Return the rows to remove because a kept row says the same.

    rows: those that exact and near duplicates have left. threshold: cosine. rules: for the brake alone. Raises DataError when
    more than 200,000 rows could be duplicates of each other, or when `embed` returns something else than it should.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"threshold = {threshold}: the cosine of semantic duplicates is above 0 and at most 1")
    order = np.lexsort((np.array([row.rank for row in rows], np.int64), np.array([not row.fixed for row in rows])))
    groups = list(_groups(rows, order))
    needed = sum(map(len, groups))
    largest = max(map(len, groups), default=0)
    if largest > MOST_ROWS:
        raise DataError(
            f"{largest} rows have the same answer, so each could be a semantic duplicate of each; at most {MOST_ROWS} are "
            "compared. Remove exact and near duplicates first, take a sample, or leave semantic duplicates off."
        )
    kept, scores = np.arange(len(rows)), np.ones(len(rows))
    with tempfile.TemporaryFile(dir=folder) as file:
        for bundle in _bundles(groups):
            vectors = _embedded(
                [rows[int(place)].text for group in bundle for place in group], embed, cast(BinaryIO, file)
            )
            start = 0
            for group in bundle:
                fixed = np.array([rows[int(place)].fixed for place in group], np.bool_)
                for place, other, score in _similar(vectors[start : start + len(group)], fixed, threshold):
                    kept[group[place]], scores[group[place]] = group[other], score
                start += len(group)
    removed = np.flatnonzero(kept != np.arange(len(rows)))
    numbers = np.array([row.number for row in rows], np.int64)
    kinds = np.full(len(removed), KINDS.index("semantic duplicate"), np.uint8)
    removals = Removals(numbers[removed], numbers[kept[removed]], scores[removed], kinds)
    names: dict[str, int] = {}
    sources = np.array([names.setdefault(row.source, len(names)) for row in rows], np.uint32)
    lost = losses(removals, (removed, kept[removed]), sources, tuple(names), _side(rows), rules)
    return Similar(len(rows), needed, removals, lost)


def details(text: str) -> str:
    """Return what must be equal in texts that mean the same: their numbers, in any order, and the count of negations."""
    text = plain(text)
    return f"{sorted(_NUMBER.findall(text))} {len(_NEGATION.findall(text))}"


def _groups(rows: Sequence[Row], order: I64) -> Iterator[I64]:
    """Yield places of rows that could be duplicates of each other, in the order in which they are kept."""
    pairs = b"".join(digest(row.answer, details(row.text)) for row in rows)
    keys: U64 = np.frombuffer(pairs, np.uint64).reshape(-1, 2)[order, 0]
    by_key = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[by_key])) + 1
    for group in np.split(order[by_key], ends):
        if len(group) > 1:
            yield group


def _bundles(groups: Sequence[I64]) -> Iterator[list[I64]]:
    """Yield small groups together, so that an embedder has enough texts to put those of one length side by side."""
    bundle: list[I64] = []
    texts = 0
    for group in groups:
        if bundle and texts + len(group) > EMBED_AT_ONCE:
            yield bundle
            bundle, texts = [], 0
        bundle.append(group)
        texts += len(group)
    if bundle:
        yield bundle


def _embedded(texts: Sequence[str], embed: Embed, file: BinaryIO) -> F32:
    """Return the embeddings; when there are many, in a file."""
    matrix: F32 | None = None
    for start in range(0, len(texts), EMBED_AT_ONCE):
        part = texts[start : start + EMBED_AT_ONCE]
        vectors = embed(part)
        _check(vectors, len(part))
        if len(texts) <= TILE:
            matrix = vectors if matrix is None else np.concatenate((matrix, vectors))
            continue
        if matrix is None:
            file.truncate(0)
            matrix = np.memmap(file, np.float32, "w+", shape=(len(texts), vectors.shape[1]))
        matrix[start : start + len(part)] = vectors
    assert matrix is not None, "a group has rows"
    return matrix


def _check(vectors: F32, count: int) -> None:
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        raise DataError(
            f"embed returned {vectors.dtype} of shape {vectors.shape} for {count} texts; a float32 row for each is wanted"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1) < 1e-3):
        worst = float(lengths[np.argmax(np.abs(np.nan_to_num(lengths) - 1))])
        raise DataError(
            f"embed returned a row of length {worst:.4g}; rows must be of length 1. Divide each by its length."
        )


def _similar(vectors: F32, fixed: NDArray[np.bool_], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (row, first kept row that is similar, cosine). Rows are kept or removed one after the other."""
    stays = np.ones(len(vectors), np.bool_)
    for start in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[start : start + BLOCK])
        found: dict[int, tuple[int, float]] = {}
        for before in range(0, start, TILE):
            after = min(start, before + TILE)
            _compare(block, vectors, before, after, stays, threshold, found)
        inside = block @ block.T >= threshold - _ROUNDING
        for row in range(len(block)):
            if fixed[start + row]:
                continue
            if row not in found:
                earlier = np.flatnonzero(inside[row, :row] & stays[start : start + row]) + start
                match = _first(block[row], vectors, earlier, threshold)
                if match is None:
                    continue
                found[row] = match
            stays[start + row] = False
            yield (start + row, *found[row])


def _compare(
    block: F32, vectors: F32, before: int, after: int, stays: NDArray[np.bool_], threshold: float,
    found: dict[int, tuple[int, float]],
) -> None:  # fmt: skip
    """Find for the rows of a block that have no match yet the first kept row among those before..after."""
    near = (block @ np.asarray(vectors[before:after]).T >= threshold - _ROUNDING) & stays[before:after]
    for row in np.flatnonzero(near.any(axis=1)).tolist():
        if row not in found:
            match = _first(block[row], vectors, np.flatnonzero(near[row]) + before, threshold)
            if match is not None:
                found[row] = match


def _first(vector: F32, vectors: F32, candidates: I64, threshold: float) -> tuple[int, float] | None:
    """Verify candidates in 64 bits, so that the result does not depend on how a product was cut up."""
    for other in candidates.tolist():
        score = float(np.sum(vector.astype(np.float64) * vectors[other].astype(np.float64)))
        if score >= threshold:
            return other, min(1.0, score)
    return None


def _side(rows: Sequence[Row]) -> Callable[[int], tuple[int, str]]:
    return lambda place: (rows[place].number, rows[place].text)
