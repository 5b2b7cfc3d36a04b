"""Word n-grams as numbers, for many texts at once.

Cutting texts into n-grams is what costs most when it is done word by word in Python. Here it is done for a block of texts
with numpy: a table tells the bytes of words from the rest; a word's hash is a polynomial over random numbers for its bytes,
read off one running sum over the whole block (the hash of bytes i..j is (sum to j - sum to i) / P^i, and odd P have inverses
modulo 2^64); an n-gram's hash is a polynomial over its words' hashes. A hash has 52 bits: the upper 12 of a 64-bit number
then hold the text's place in its block, so that one sort gives the sorted set of every text. Two different n-grams
of two texts of 1,000 words get the same hash with a chance of 2e-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
HASH_BITS = 52
HASH_MASK = np.uint64(2**HASH_BITS - 1)
MOST_TEXTS = 2 ** (64 - HASH_BITS)
BLOCK_BYTES = 2**18
"""A block's running sums then fit into a second-level cache."""

_MULTIPLIER = 0x9E3779B97F4A7C15
_SEED = 0x6275726E697368


class Sets(NamedTuple):
    """The sets of some texts, one after the other: text i has values[starts[i] : starts[i + 1]], sorted, each once."""

    values: U64
    starts: I64


def mix(values: U64) -> U64:
    """Return numbers of 64 bits each of which depends on every bit (the finaliser of MurmurHash3, by Austin Appleby)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


class Words(NamedTuple):
    """The hashes of the words of some texts, in order: text i has hashes[starts[i] : starts[i + 1]]."""

    hashes: U64
    starts: I64

    def joined(self, every: int) -> Words:
        """Return the words with each `every` texts taken as one."""
        return Words(self.hashes, self.starts[::every])

    def of(self, texts: I64) -> Words:
        """Return the words of some of the texts."""
        sizes = np.diff(self.starts)
        chosen = np.zeros(len(sizes), np.bool_)
        chosen[texts] = True
        return self if chosen.all() else Words(self.hashes[np.repeat(chosen, sizes)], running([sizes[texts]]))


def words_of(texts: Sequence[bytes]) -> Words:
    """Return the words of texts. texts: as `canonical.words_only` returns them."""
    data = np.frombuffer(b" " + b" ".join(texts) + b" ", np.uint8)
    ends_of_texts = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    hashes, word_starts = _word_hashes(data)
    return Words(hashes, np.concatenate((np.zeros(1, np.int64), np.searchsorted(word_starts, ends_of_texts))))


def shingle_sets(texts: Words | Sequence[bytes], words: int, *, short: bool = True) -> Sets:
    """Return the sets of n-grams of `words` words of at most 4,096 texts; a shorter text is one n-gram, an empty one none.

    texts: as `canonical.words_only` returns them, or their words. short: False if a shorter text has no n-gram either.
    """
    hashes, firsts = texts if isinstance(texts, Words) else words_of(texts)
    count = len(firsts) - 1
    if count > MOST_TEXTS:
        raise ValueError(f"{count} texts in a block; at most {MOST_TEXTS} fit")
    grams, counts = _grams(hashes, firsts, words, short=short)
    places = np.repeat(np.arange(count, dtype=np.uint64), counts)
    keys = (mix(grams) >> np.uint64(64 - HASH_BITS)) | (places << np.uint64(HASH_BITS))
    return unique_sets(keys, count)


def unique_sets(keys: U64, texts: int) -> Sets:
    """Return the sets from numbers with a text's place above the hash, in any order, any number of times."""
    keys.sort()
    if len(keys):
        first = np.empty(len(keys), np.bool_)
        first[0] = True
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        keys = keys[first]
    bounds = np.arange(texts, dtype=np.uint64) << np.uint64(HASH_BITS)
    starts = np.append(np.searchsorted(keys, bounds), len(keys)).astype(np.int64)
    return Sets(keys & HASH_MASK, starts)


def running(sizes: Sequence[NDArray[Any]]) -> I64:
    """Return where each of a row of pieces begins and the last ends. sizes: the pieces' sizes, in any number of arrays."""
    starts = np.concatenate((np.zeros(1, np.int64), *sizes))
    np.cumsum(starts, out=starts)
    return starts.astype(np.int64, copy=False)


def _word_table() -> tuple[NDArray[np.bool_], U64]:
    word = np.zeros(256, np.bool_)
    word[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] = True
    word[128:] = True
    numbers = np.random.default_rng(_SEED).integers(1, 2**64, 256, np.uint64)
    numbers[list(range(65, 91))] = numbers[list(range(97, 123))]
    return word, numbers


_IS_WORD, _NUMBERS = _word_table()


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[U64, U64]:
    """P^i and P^-i modulo 2^64 for i below count; the last sizes asked for are kept."""
    both: list[U64] = []
    inverse: int = pow(_MULTIPLIER, -1, 2**64)
    for base in (_MULTIPLIER, inverse):
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors, dtype=np.uint64))
    return both[0], both[1]


_POWERS, _INVERSES = _powers(2 * BLOCK_BYTES)


def _word_hashes(data: NDArray[np.uint8]) -> tuple[U64, I64]:
    """Return the hash of each word of a block that begins and ends with a space, and where it begins."""
    is_word = _IS_WORD[data].view(np.int8)
    changes = np.flatnonzero(np.diff(is_word)) + 1
    starts, ends = changes[::2], changes[1::2]
    powers, inverses = (_POWERS, _INVERSES) if len(data) <= len(_POWERS) else _powers(1 << len(data).bit_length())
    sums = np.cumsum(_NUMBERS[data] * powers[: len(data)], dtype=np.uint64)
    return mix((sums[ends - 1] - sums[starts - 1]) * inverses[starts]), starts


def _grams(hashes: U64, firsts: I64, words: int, *, short: bool) -> tuple[U64, I64]:
    """Return the hashes of all n-grams, text by text, and how many each text has."""
    lengths = np.diff(firsts)
    counts = np.where(lengths >= words, lengths - words + 1, np.minimum(lengths, 1) if short else 0)
    multiplier = np.uint64(_MULTIPLIER)
    padded = np.concatenate((hashes, np.zeros(words - 1, np.uint64)))
    grams = hashes.copy()
    for later in range(1, words):
        grams *= multiplier
        grams += padded[later : later + len(hashes)]
    stays = np.ones(len(hashes), np.bool_)
    for back in range(1, words):
        at = firsts[1:] - back
        stays[at[at > firsts[:-1]]] = False
    few = np.flatnonzero((lengths > 0) & (lengths < words))
    stays[firsts[:-1][few]] = short
    if short:
        grams[firsts[:-1][few]] = _short_grams(hashes, firsts[:-1][few], lengths[few])
    return grams[stays], counts


def _short_grams(hashes: U64, starts: I64, lengths: I64) -> U64:
    """Return one hash for each text that has fewer words than an n-gram."""
    grams = hashes[starts] + lengths.astype(np.uint64)
    for later in range(1, int(lengths.max(initial=1))):
        longer = np.flatnonzero(lengths > later)
        grams[longer] = grams[longer] * np.uint64(_MULTIPLIER) + hashes[starts[longer] + later]
    return grams
