"""What two rows must share to be compared: a few keys of 32 bits for each row.

Small sets get prefixes, which miss nothing: two sets with Jaccard similarity >= t share an element among the
|x| - ceil(t |x|) + 1 rarest of each (Chaudhuri et al. 2006; Bayardo et al. 2007). Where that would be more than 16
elements, rows get bands of a MinHash signature instead. Sets of sizes that a pair could have on both sides get both.

The signature is a one-permutation MinHash (Li, Owen and Zhang 2012): the range of the hash is cut into equal bins, and the
smallest hash in each bin is kept. The sets are sorted, so these are the first ones of each bin, and the whole
signature costs one pass over a set instead of one for each number of it. An empty bin takes the number of another bin, the
first that is not empty in an order fixed for it (Shrivastava 2017, "Optimal Densification for Fast and Accurate
Minwise Hashing").
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.data.near.shingle import HASH_BITS, HASH_MASK, I64, U64, Sets, mix
from burnish.data.near.sketch import RowCounts

U32 = NDArray[np.uint32]
PREFIX = 16
MISSED = 2e-4
MOST_BANDS = 24
MOST_BINS = 96
_EMPTY = np.uint64(2**64 - 1)
_COUNT_BITS = 20


class Plan(NamedTuple):
    """How keys are made for a threshold."""

    threshold: float
    bands: int
    rows: int
    largest_prefixed: int
    smallest_banded: int

    @property
    def bins(self) -> int:
        """Numbers in a signature."""
        return self.bands * self.rows


class Keys(NamedTuple):
    """Keys of some rows, one after the other; row i has values[starts[i] : starts[i + 1]]."""

    values: U32
    starts: I64


def plan(threshold: float) -> Plan:
    """Return the keys for a threshold above 0.

    A pair just at the threshold is missed with a chance of (1 - t^rows)^bands <= 0.0002; more rows in a band mean fewer
    comparisons, more bands more memory.
    """
    bands, rows = _bands(threshold, 1), 1
    for more in range(2, 9):
        needed = _bands(threshold, more)
        if needed <= MOST_BANDS and needed * more <= MOST_BINS:
            bands, rows = needed, more
    largest = 0
    while prefix_length(largest + 1, threshold) <= PREFIX and largest < 10_000:
        largest += 1
    return Plan(threshold, bands, rows, largest, math.ceil(threshold * largest - 1e-9))


def is_prefixed(sizes: I64, how: Plan) -> NDArray[np.bool_]:
    """Return which sets are small enough for prefixes."""
    return (sizes > 0) & (sizes <= how.largest_prefixed)


def prefix_length(size: int, threshold: float) -> int:
    """Return how many of the rarest elements of a set must be looked at."""
    # The small number keeps a product such as 0.8 * 5 = 4.000000000000001 from being rounded up to 5.
    return size - math.ceil(threshold * size - 1e-9) + 1 if size else 0


def keys(sets: Sets, answers: U64, how: Plan, counts: RowCounts) -> Keys:
    """Return the keys of at most 4,096 rows.

    answers: 64 bits for each row; rows with different answers share no key but by accident.
    counts: of the n-grams, at least in the rows that are `prefixed`. Any counts give the same pairs in the end; the
    right ones give fewer to compare.
    """
    sizes = np.diff(sets.starts)
    banded = np.flatnonzero(sizes >= max(1, how.smallest_banded))
    prefixed = np.flatnonzero(is_prefixed(sizes, how))
    band_keys = _band_keys(_signatures(_rows_of(sets, banded), how.bins), answers[banded], how)
    prefix_keys, lengths = _prefix_keys(_rows_of(sets, prefixed), answers[prefixed], how, counts)
    owners = np.concatenate((np.repeat(banded, how.bands), np.repeat(prefixed, lengths)))
    values = np.concatenate((band_keys.ravel(), prefix_keys))
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(len(sizes) + 1))
    return Keys((values[order] >> np.uint64(32)).astype(np.uint32), starts.astype(np.int64))


def _bands(threshold: float, rows: int) -> int:
    hit = threshold**rows
    return 1 if hit >= 1 else math.ceil(math.log(MISSED) / math.log1p(-hit))


def _rows_of(sets: Sets, rows: I64) -> Sets:
    sizes = np.diff(sets.starts)
    if len(rows) == len(sizes):
        return sets
    wanted = np.zeros(len(sizes), np.bool_)
    wanted[rows] = True
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes[rows])))
    return Sets(sets.values[np.repeat(wanted, sizes)], starts)


def _signatures(sets: Sets, bins: int) -> U64:
    """Return rows x bins numbers."""
    rows = len(sets.starts) - 1
    flat = np.full(rows * bins, _EMPTY, np.uint64)
    upper = sets.values >> np.uint64(HASH_BITS - 32)
    places = ((upper * np.uint64(bins)) >> np.uint64(32)).astype(np.int64)
    places += np.repeat(np.arange(rows) * bins, np.diff(sets.starts))
    if len(places):
        first = np.empty(len(places), np.bool_)
        first[0] = True
        np.not_equal(places[1:], places[:-1], out=first[1:])
        flat[places[first]] = sets.values[first]
    return _densified(flat.reshape(rows, bins), bins)


def _densified(signatures: U64, bins: int) -> U64:
    rows, columns = np.nonzero(signatures == _EMPTY)
    filled = signatures.copy()
    orders = _orders(bins)
    for attempt in range(bins):
        if not len(rows):
            break
        values = signatures[rows, orders[columns, attempt]]
        filled[rows, columns] = values
        still = values == _EMPTY
        rows, columns = rows[still], columns[still]
    return filled


@cache
def _orders(bins: int) -> I64:
    """Return for each bin the order in which an empty one asks the others."""
    random = np.random.default_rng(bins)
    return np.stack([random.permutation(bins) for _ in range(bins)])


def _band_keys(signatures: U64, answers: U64, how: Plan) -> U64:
    bands = signatures.reshape(len(signatures), how.bands, how.rows)
    keys = np.arange(1, how.bands + 1, dtype=np.uint64)[None, :] + answers[:, None]
    for row in range(how.rows):
        keys = mix(keys ^ bands[:, :, row])
    return keys


def _prefix_keys(sets: Sets, answers: U64, how: Plan, counts: RowCounts) -> tuple[U64, I64]:
    """Return the keys, row by row, and how many each row has.

    The order from rare to frequent is that of (count, lower bits of the hash). Two elements that are equal in both are as
    one for the index, which adds a candidate but loses none.
    """
    sizes = np.diff(sets.starts)
    seen = np.minimum(counts.of(sets.values), np.uint64(2**_COUNT_BITS - 1))
    ranks = (seen << np.uint64(HASH_BITS - _COUNT_BITS)) | (sets.values & np.uint64(2 ** (HASH_BITS - _COUNT_BITS) - 1))
    ranks |= np.repeat(np.arange(len(sizes), dtype=np.uint64) << np.uint64(HASH_BITS), sizes)
    ranks.sort()
    by_size = np.array([prefix_length(size, how.threshold) for size in range(int(sizes.max(initial=0)) + 1)], np.int64)
    lengths = by_size[sizes]
    place = np.arange(len(ranks)) - np.repeat(sets.starts[:-1], sizes)
    inside = place < np.repeat(lengths, sizes)
    return mix((ranks[inside] & HASH_MASK) ^ mix(np.repeat(answers + np.uint64(0x5052), lengths))), lengths
