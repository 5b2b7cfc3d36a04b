"""Words and phrases found in many texts at once, by the hashes that their words have anyway.

The texts' words come as hashes (`near.shingle.Words`), made once for the search for duplicates. A phrase of n words is one
number, a polynomial over the hashes of its words; so finding some hundred phrases in a megabyte takes one pass for each length of a
phrase that occurs: a table of 65,536 bits leaves few places over, and a binary search decides about those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.data.near.canonical import plain, words_only
from burnish.data.near.shingle import I64, U64, Words, words_of

_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_TABLE_BITS = 16


class Hits(NamedTuple):
    """Where phrases were found: number of the text, place of the first word in all words, number of the entry."""

    texts: I64
    places: I64
    entries: I64


class _Length(NamedTuple):
    """The phrases of so many words: a table by the upper bits, the phrases' numbers sorted, and which entry each is of."""

    words: int
    table: npt.NDArray[np.bool_]
    keys: U64
    entries: I64


class Lexicon:
    """Entries, each of any number of phrases. A phrase belongs to one entry; where it is given twice, to the first."""

    def __init__(self, entries: Mapping[str, Iterable[str]]) -> None:
        """Take entries in order. Phrases are compared without case and punctuation."""
        self.names = tuple(entries)
        first: dict[str, int] = {}
        for number, phrases in enumerate(entries.values()):
            for phrase in phrases:
                first.setdefault(plain(phrase), number)
        words = words_of([words_only(phrase) for phrase in first])
        sizes = np.diff(words.starts)
        of = np.fromiter(first.values(), np.int64, len(first))
        self._lengths: list[_Length] = []
        for size in np.unique(sizes[sizes > 0]).tolist():
            starts = words.starts[:-1][sizes == size]
            keys, at = np.unique(_keys(words.hashes, size)[starts], return_index=True)
            table = np.zeros(1 << _TABLE_BITS, np.bool_)
            table[_cell(keys)] = True
            self._lengths.append(_Length(size, table, keys, of[sizes == size][at]))

    def hits(self, words: Words) -> Hits:
        """Return every place of a phrase in some texts, ordered by length of the phrase, then by place."""
        texts: list[I64] = []
        places: list[I64] = []
        entries: list[I64] = []
        for length in self._lengths:
            keys = _keys(words.hashes, length.words)
            near = np.flatnonzero(length.table[_cell(keys)])
            at = np.minimum(np.searchsorted(length.keys, keys[near]), len(length.keys) - 1)
            found = length.keys[at] == keys[near]
            near, at = near[found], at[found]
            text = np.searchsorted(words.starts, near, side="right") - 1
            inside = near + length.words <= words.starts[text + 1]  # a phrase does not run into the next text
            texts.append(text[inside])
            places.append(near[inside])
            entries.append(length.entries[at[inside]])
        none = [np.empty(0, np.int64)]
        return Hits(*(np.concatenate(each or none) for each in (texts, places, entries)))


def lines_of(name: str) -> list[str]:
    """Return the lines of a list in this folder, without comments."""
    text = (files("burnish.data.filters") / "lists" / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _keys(hashes: U64, words: int) -> U64:
    """Return one number for each run of `words` words; the last ones run on into nothing."""
    keys = hashes.copy()
    for later in range(1, words):
        keys *= _MULTIPLIER
        keys[: max(0, len(keys) - later)] += hashes[later:]
    return keys


def _cell(keys: U64) -> U64:
    return keys >> np.uint64(64 - _TABLE_BITS)
