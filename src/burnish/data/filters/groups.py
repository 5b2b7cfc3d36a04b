"""Which groups of people a text names, by words and names of its language."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.core.recipe_filters import LANGUAGES
from burnish.data.filters.language import UNKNOWN
from burnish.data.filters.lexicon import Lexicon, lines_of
from burnish.data.near.shingle import U64, Words, mix
from burnish.text.counterfactual import name_pairs

U32 = npt.NDArray[np.uint32]


class Group(NamedTuple):
    """A group of people, and the axis on which it stands beside others."""

    axis: str
    name: str


NAMES = ("names read as white", "names read as Black")
"""Bertrand and Mullainathan's names, which the counterfactual swap puts in each other's place; English alone."""


def _read() -> dict[str, dict[Group, tuple[str, ...]]]:
    found: dict[str, dict[Group, tuple[str, ...]]] = {}
    for line in lines_of("groups"):
        language, axis, name, words = line.split("\t")
        found.setdefault(language, {})[Group(axis, name)] = tuple(each.strip() for each in words.split(","))
    for name, names in zip(NAMES, zip(*name_pairs(), strict=True), strict=True):
        found["en"][Group("names", name)] = names
    return found


_WORDS = _read()
GROUP_LANGUAGES = tuple(_WORDS)
"""Languages in whose texts groups are looked for."""
GROUPS = tuple(_WORDS["en"])
"""All groups; a text's mentions have a bit for each, in this order."""
assert len(GROUPS) <= 32, "mentions have 32 bits"


@cache
def _lexicon(language: str) -> Lexicon:
    return Lexicon({f"{group.axis}/{group.name}": _WORDS[language].get(group, ()) for group in GROUPS})


class Mentions(NamedTuple):
    """For each text the bits of the groups that it names, and a number for these groups in the order of their first mention."""

    groups: U32
    order: U32


def mentioned(words: Words, languages: npt.NDArray[np.uint8]) -> Mentions:
    """Return what texts name. languages: of each text, as LANGUAGES numbers them; UNKNOWN is looked at as English.

    The order is 0 for texts that name nobody. It tells "a man and his wife" from "a woman and her husband".
    """
    found = Mentions(np.zeros(len(languages), np.uint32), np.zeros(len(languages), np.uint32))
    for language in GROUP_LANGUAGES:
        own = languages == LANGUAGES.index(language) + 1
        own = np.flatnonzero(own | (languages == UNKNOWN) if language == "en" else own)
        if len(own):
            some = _mentioned(words.of(own), _lexicon(language))
            found.groups[own], found.order[own] = some
    return found


def _mentioned(words: Words, lexicon: Lexicon) -> Mentions:
    hits = lexicon.hits(words)
    texts = len(words.starts) - 1
    groups, order = np.zeros(texts, np.uint32), np.zeros(texts, np.uint64)
    np.bitwise_or.at(groups, hits.texts, np.uint32(1) << hits.entries.astype(np.uint32))
    by_place = np.argsort(hits.places, kind="stable")
    text, entry = hits.texts[by_place], hits.entries[by_place]
    _, first = np.unique(text * len(GROUPS) + entry, return_index=True)
    first.sort()  # the first mention of each group in each text, in the order of the texts
    text, entry = text[first], entry[first]
    place = np.arange(len(text)) - np.searchsorted(text, text)
    np.add.at(order, text, _number(entry, place))
    return Mentions(groups, (order >> np.uint64(32)).astype(np.uint32))


def _number(entries: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> U64:
    return mix((1 + entries * len(GROUPS) + places).astype(np.uint64))
