"""Word 13-grams of the rows that are tested, and which of them a stream of other rows holds.

13 words is what GPT-3 was checked with (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C). The index
holds the tested rows only, about 24 bytes a gram; what was trained on streams past it, so that its size costs no memory.
A gram is known by 52 bits of hash: among 8 million tested grams and 100 million others, one in five passes shows a single gram
that is not there, which moves no row over a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from burnish.data.near.canonical import plain, words_only
from burnish.data.near.shingle import BLOCK_BYTES, MOST_TEXTS, Sets, Words, shingle_sets, words_of
from burnish.data.splits.positions import I64, U64

WORDS = 13
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.05, 20
"""A gram in more than this share of the tested rows, and in more than so many, is the template's and says nothing."""
_SCREEN_BITS = 26


def word_blocks(texts: Iterable[str]) -> Iterator[Words]:
    """Yield the words of texts, block by block."""
    block: list[bytes] = []
    length = 0
    for text in texts:
        block.append(words_only(plain(text)))
        length += len(block[-1])
        if length >= BLOCK_BYTES or len(block) == MOST_TEXTS:
            yield words_of(block)
            block, length = [], 0
    if block:
        yield words_of(block)


def gram_blocks(blocks: Iterable[Words], size: int = WORDS) -> Iterator[tuple[int, Sets]]:
    """Yield for each block of texts the number of its first one, and the sets of n-grams. A shorter text has none."""
    first = 0
    for words in blocks:
        yield first, shingle_sets(words, size, short=False)
        first += len(words.starts) - 1


class GramIndex:
    """The grams of tested rows, sorted by hash, and which of them have been seen in a stream of rows."""

    def __init__(self, blocks: Iterable[Words], size: int = WORDS) -> None:
        """Index texts by their words."""
        self.size = size
        flat, row, self._texts = _all_grams(blocks, size)
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        new = np.ones(len(flat), dtype=np.bool_)
        new[1:] = flat[1:] != flat[:-1]
        gram = np.empty(len(flat), dtype=np.int32)
        gram[order] = np.cumsum(new, dtype=np.int32) - np.int32(1)
        self._hashes = flat[new]
        del flat, order, new
        rows = np.bincount(gram, minlength=len(self._hashes))
        useful = rows[gram] <= max(TEMPLATE_ROWS, TEMPLATE_SHARE * self._texts)
        self._row, self._gram = row[useful], gram[useful]
        self._seen = np.full(len(self._hashes), -1, dtype=np.int32)
        # Most grams that stream past are not here: one look into a table of bits tells.
        self._screen = np.zeros(1 << min(_SCREEN_BITS, max(10, 3 + len(self._hashes).bit_length())), dtype=np.bool_)
        self._screen[self._bucket(self._hashes)] = True

    def _bucket(self, hashes: U64) -> I64:
        return (hashes & np.uint64(len(self._screen) - 1)).astype(np.int64)

    def unfit(self) -> int:
        """Return how many rows have no gram of their own: shorter than a gram, or all template."""
        return self._texts - len(np.unique(self._row))

    def see(self, first: int, grams: Sets) -> None:
        """Mark the grams that some rows of the stream hold; `first` is the number of the first of them."""
        if not len(self._hashes):
            return
        likely = np.flatnonzero(self._screen[self._bucket(grams.values)])
        values = grams.values[likely]
        at = np.minimum(np.searchsorted(self._hashes, values), len(self._hashes) - 1)
        found = (self._hashes[at] == values) & (self._seen[at] < 0)
        numbers = first + np.searchsorted(grams.starts, likely[found], side="right") - 1
        # Backwards, so that of several rows with one gram the first writes last.
        self._seen[at[found][::-1]] = numbers[::-1]

    def shares(self) -> tuple[npt.NDArray[np.float64], I64]:
        """Return for each tested row the share of its grams that were seen, and the stream's row that showed most of them.

        The row is the first that held each gram; -1 where none was seen.
        """
        total = np.bincount(self._row, minlength=self._texts)
        seen = self._seen[self._gram]
        hit = seen >= 0
        share = np.bincount(self._row[hit], minlength=self._texts) / np.maximum(total, 1)
        best = np.full(self._texts, -1, dtype=np.int64)
        pairs, times = np.unique(np.stack([self._row[hit], seen[hit]], axis=1), axis=0, return_counts=True)
        order = np.lexsort((-pairs[:, 1], times)) if len(pairs) else np.empty(0, dtype=np.int64)
        best[pairs[order, 0]] = pairs[order, 1]  # the last write wins: most grams, then the earliest row
        return share, best


def _all_grams(blocks: Iterable[Words], size: int) -> tuple[U64, npt.NDArray[np.int32], int]:
    """Return the hash and the row of each different gram of each row, and how many rows there are."""
    found, rows = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int32)]
    count = 0
    for first, block in gram_blocks(blocks, size):
        sizes = np.diff(block.starts)
        count = first + len(sizes)
        found.append(block.values)
        rows.append(np.repeat(np.arange(first, count, dtype=np.int32), sizes))
    return np.concatenate(found), np.concatenate(rows), count
