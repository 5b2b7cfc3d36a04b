"""In how many rows an n-gram occurs, counted in bounded memory: a count-min sketch (Cormode and Muthukrishnan 2005).

Two tables of counters, each n-gram has one in either; its count is the lower of the two. So a count is never too low, and
too high only where both counters are shared with other n-grams that are as frequent.
"""

from __future__ import annotations

import numpy as np

from burnish.data.near.shingle import U64, mix

FEWEST_BITS = 12
MOST_BITS = 22
"""Two tables of 4 million counters take 32 MiB."""


class RowCounts:
    """Counts of n-grams, given as hashes of 52 bits."""

    def __init__(self, expected: int) -> None:
        """Make room. expected: n-grams that will be counted; four counters for each while that is not too many."""
        self._bits = min(MOST_BITS, max(FEWEST_BITS, (4 * expected).bit_length()))
        self._tables = np.zeros((2, 2**self._bits), np.uint32)

    def add(self, hashes: U64) -> None:
        """Count each hash once more."""
        for table, places in zip(self._tables, self._places(hashes), strict=True):
            np.add.at(table, places, np.uint32(1))

    def of(self, hashes: U64) -> U64:
        """Return the count of each hash."""
        first, second = self._places(hashes)
        return np.minimum(self._tables[0][first], self._tables[1][second]).astype(np.uint64)

    def _places(self, hashes: U64) -> tuple[U64, U64]:
        mask = np.uint64(2**self._bits - 1)
        return hashes & mask, (hashes >> np.uint64(self._bits)) & mask


def of_source(hashes: U64, sources: U64) -> U64:
    """Return hashes of 52 bits for n-grams within a source."""
    return mix(hashes ^ (sources << np.uint64(40))) >> np.uint64(12)
