"""A text about somebody else: gendered words, or given names, swapped, and nothing else changed.

A model that treats people alike answers the swapped request as it answers the other one. Swapping words in the data is
counterfactual data augmentation (Lu et al. 2018, arXiv 1807.11714); names go by pairs, so that the number of different
names stays what it is (Hall Maudslay et al. 2019, arXiv 1909.00871). English alone.

What it cannot know: "her" before an adverb, names that are words (Kenya), and facts that depend on who it is ("she is
pregnant"). Look at what it makes before you train on it; for comparing answers a few odd ones do no harm.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Literal

Swap = Literal["gender", "names"]
SWAPS: tuple[Swap, ...] = ("gender", "names")

_WORD = re.compile(r"[^\W\d_]+(?![\w@]*@)")
"""A word; none that is part of an e-mail address."""
_AFTER = re.compile(r"[ \t]+([^\W\d_]+)")
_NO_NOUN = frozenset({
    "a", "an", "the", "and", "or", "but", "if", "when", "while", "because", "as", "than", "that", "this", "these",
    "those", "to", "of", "in", "on", "at", "by", "for", "from", "with", "about", "into", "over", "after", "before",
    "under", "again", "then", "there", "here", "now", "today", "tomorrow", "yesterday", "soon", "later", "too",
    "also", "not", "no", "yes", "is", "are", "was", "were", "be", "been", "being", "am", "do", "does", "did",
    "have", "has", "had", "will", "would", "can", "could", "should", "may", "might", "must", "shall", "i", "you",
    "he", "she", "it", "we", "they", "me", "him", "us", "them", "what", "which", "who", "whom", "whose", "where",
    "why", "how", "all", "so", "very", "just", "only", "back", "up", "down", "out", "off", "away", "home",
    "please",
})  # fmt: skip
"""Words that do not begin what belongs to somebody: after them "her" is whom something is done to."""


def swapped(text: str, what: Swap) -> str:
    """Return the text with gendered words or names swapped; the same text where it has none."""
    table = _gender() if what == "gender" else _names()

    def other(found: re.Match[str]) -> str:
        word = found.group()
        if what == "gender" and word.lower() in ("her", "hers", "his", "him"):
            return _cased(word, _pronoun(word.lower(), text, found.end()))
        if what == "names":
            return table.get(word, word)
        twin = table.get(word.lower())
        return word if twin is None else _cased(word, twin)

    return _WORD.sub(other, text)


def _pronoun(word: str, text: str, end: int) -> str:
    if word == "him":
        return "her"
    if word == "hers":
        return "his"
    following = _AFTER.match(text, end)
    owned = following is not None and following.group(1).lower() not in _NO_NOUN
    if word == "her":
        return "his" if owned else "him"
    return "her" if owned else "hers"


def _cased(like: str, word: str) -> str:
    """Return `word`, of small letters, in capitals or with a capital as `like` is."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


@cache
def _gender() -> dict[str, str]:
    pairs = [(a, b) for a, _, b in (line.partition("\t") for line in _lines("swaps.txt"))]
    return dict(pairs) | {"mrs": "mr"} | {b: a for a, b in pairs}


@cache
def _names() -> dict[str, str]:
    return dict(name_pairs()) | {b: a for a, b in name_pairs()}


def name_pairs() -> list[tuple[str, str]]:
    """Return names and their counterparts."""
    parts = (line.split("\t") for line in _lines("names.txt"))
    return [(name, counterpart) for _, name, counterpart in parts]


def _lines(name: str) -> list[str]:
    text = (files("burnish.text") / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
