"""ROUGE-L against many texts: the longest common subsequence of words, by which Self-Instruct tells what is new.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3: with LCS words in common in order, precision
LCS/m and recall LCS/n, the score is their harmonic mean, 2 LCS / (m + n). Most texts share too few words to reach a threshold
in any order, and are not compared. The LCS is found with bit operations on whole numbers (Hyyrö 2004).
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from burnish.data.near.canonical import plain

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text in canonical form."""
    return _WORD.findall(plain(text))


def lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    places: dict[str, int] = {}
    for number, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << number)
    everything = (1 << len(a)) - 1
    rest = everything
    for word in b:
        here = rest & places.get(word, 0)
        rest = ((rest + here) | (rest - here)) & everything
    return len(a) - rest.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """Return ROUGE-L of two texts by their words, from 0 to 1."""
    return 2 * lcs(a, b) / (len(a) + len(b)) if a or b else 1.0


class Index:
    """Texts, of which the most similar to a new one is found. 8 bytes a word."""

    def __init__(self) -> None:
        """Begin empty."""
        self._texts: list[list[str]] = []
        self._lengths = array("q")
        self._of: dict[tuple[str, int], array[int]] = {}

    def add(self, text: str) -> None:
        """Add a text; they are numbered from 0."""
        own = words(text)
        for key in _occurrences(own):
            self._of.setdefault(key, array("q")).append(len(self._texts))
        self._texts.append(own)
        self._lengths.append(len(own))

    def closest(self, text: str, least: float) -> tuple[int, float] | None:
        """Return the number and score of the most similar text, where that reaches `least`; of equals the first."""
        own = words(text)
        lists = [np.frombuffer(self._of[key], np.int64) for key in _occurrences(own) if key in self._of]
        if not lists:
            return None
        common = np.bincount(np.concatenate(lists), minlength=len(self._texts))
        bound = 2 * common / (np.frombuffer(self._lengths, np.int64) + len(own))
        best: tuple[int, float] | None = None
        places = np.flatnonzero(bound >= least)
        order: list[int] = places[np.argsort(-bound[places], kind="stable")].tolist()
        for place in order:
            if best is not None and bound[place] < best[1]:
                break
            score = rouge_l(own, self._texts[place])
            if score >= least and (best is None or (score, -place) > (best[1], -best[0])):
                best = place, score
        return best


def _occurrences(text: Sequence[str]) -> list[tuple[str, int]]:
    """Return each word with how often it came before, so that two texts share as many as both have."""
    seen: Counter[str] = Counter()
    keys: list[tuple[str, int]] = []
    for word in text:
        keys.append((word, seen[word]))
        seen[word] += 1
    return keys
