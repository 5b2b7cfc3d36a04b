"""Word 13-grams of the rows that are tested, and which of them a stream of other rows holds.

13 words is what GPT-3 was checked with (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C). The index
holds the tested rows only, 28 bytes a gram; what was trained on streams past it, so that its size costs no memory. A hash
that occurs is confirmed word by word.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from burnish.data.splits.positions import I64, U64

WORDS = 13
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.05, 20
"""A gram in more than this share of the tested rows, and in more than so many, is the template's and says nothing."""
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_KNOWN_WORDS = 500_000


def words_of(text: str) -> list[str]:
    """Return the words that count: lower case, one form of each character, no punctuation."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _WORD.findall(plain.casefold())


class Hasher:
    """Turns words into the hashes of their n-grams. Hashes of words are kept; the store is emptied when it is large."""

    def __init__(self, size: int = WORDS) -> None:
        """Hash `size` words at a time."""
        self._size = size
        self._words: dict[str, int] = {}

    def grams(self, words: Sequence[str]) -> U64:
        """Return one hash for each run of `size` words, in order; none where there are fewer words."""
        count = len(words) - self._size + 1
        if count < 1:
            return np.empty(0, dtype=np.uint64)
        each = np.fromiter((self._word(word) for word in words), dtype=np.uint64, count=len(words))
        total = np.zeros(count, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for offset in range(self._size):
                total = total * _FACTOR + each[offset : offset + count]
        return total

    def _word(self, word: str) -> int:
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= _KNOWN_WORDS:
                self._words.clear()
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known = self._words[word] = int.from_bytes(digest, "big")
        return known


class GramIndex:
    """The grams of tested rows, sorted by hash, and which of them have been seen in a stream of rows."""

    def __init__(self, texts: Sequence[str], size: int = WORDS, hasher: Hasher | None = None) -> None:
        """Index `texts`. Two grams of one hash (chance 1e-7 among a million) would count as one."""
        self.hasher = hasher or Hasher(size)
        self._size = size
        self._texts = texts
        self._last: tuple[int, list[str]] = (-1, [])
        flat, row, start = self._all_grams(texts)
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        new = np.ones(len(flat), dtype=np.bool_)
        new[1:] = flat[1:] != flat[:-1]
        number = np.cumsum(new, dtype=np.int32) - np.int32(1)
        gram = np.empty(len(flat), dtype=np.int32)
        gram[order] = number
        first = order[new]  # the sort is stable: the gram's first row
        self._hashes = flat[new]
        self._where = np.stack([row[first], start[first]], axis=1)
        rows = np.bincount(number, minlength=len(first))
        del flat, order, new, number, first, start
        useful = rows[gram] <= max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(texts))
        self._row, self._gram = row[useful], gram[useful]
        self._seen = np.full(len(self._hashes), -1, dtype=np.int32)

    def _all_grams(self, texts: Sequence[str]) -> tuple[U64, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the hash, the row and the first place in it of each different gram of each row."""
        found = [np.empty(0, dtype=np.uint64)]
        start = [np.empty(0, dtype=np.int32)]
        for text in texts:
            grams, at = np.unique(self.hasher.grams(words_of(text)), return_index=True)
            found.append(grams)
            start.append(at.astype(np.int32))
        row = np.repeat(np.arange(len(texts), dtype=np.int32), [len(grams) for grams in found[1:]])
        return np.concatenate(found), row, np.concatenate(start)

    def unfit(self) -> int:
        """Return how many rows have no gram of their own: shorter than a gram, or all template."""
        return len(self._texts) - len(np.unique(self._row))

    def see(self, number: int, words: Sequence[str], grams: U64) -> None:
        """Mark the grams that a row of the stream holds, given its words and `hasher.grams` of them."""
        if not len(self._hashes):
            return
        at = np.minimum(np.searchsorted(self._hashes, grams), len(self._hashes) - 1)
        found = np.flatnonzero((self._hashes[at] == grams) & (self._seen[at] < 0))
        for place in found.tolist():
            row, start = self._where[at[place]].tolist()
            if self._words(row)[start : start + self._size] == words[place : place + self._size]:
                self._seen[at[place]] = number

    def _words(self, row: int) -> list[str]:
        """Return the words of a tested row; what is seen next is mostly in the same row."""
        if self._last[0] != row:
            self._last = (row, words_of(self._texts[row]))
        return self._last[1]

    def shares(self) -> tuple[npt.NDArray[np.float64], I64]:
        """Return for each tested row the share of its grams that were seen, and the stream's row that showed most of them.

        The row is the first that held each gram; -1 where none was seen.
        """
        total = np.bincount(self._row, minlength=len(self._texts))
        seen = self._seen[self._gram]
        hit = seen >= 0
        share = np.bincount(self._row[hit], minlength=len(self._texts)) / np.maximum(total, 1)
        best = np.full(len(self._texts), -1, dtype=np.int64)
        pairs, times = np.unique(np.stack([self._row[hit], seen[hit]], axis=1), axis=0, return_counts=True)
        order = np.lexsort((-pairs[:, 1], times)) if len(pairs) else np.empty(0, dtype=np.int64)
        best[pairs[order, 0]] = pairs[order, 1]  # the last write wins: most grams, then the earliest row
        return share, best
