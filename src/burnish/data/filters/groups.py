"""Which groups of people a text names, by words and names."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.data.filters.lexicon import Lexicon, lines_of
from burnish.data.near.shingle import Words
from burnish.text.counterfactual import name_pairs


class Group(NamedTuple):
    """A group of people, and the axis on which it stands beside others."""

    axis: str
    name: str
    phrases: tuple[str, ...]


def _read() -> tuple[Group, ...]:
    parts = (line.split("\t") for line in lines_of("groups"))
    groups = [Group(axis, name, tuple(each.strip() for each in words.split(","))) for axis, name, words in parts]
    # Bertrand and Mullainathan's names, which the counterfactual swap puts in each other's place.
    kinds = ("names read as white", "names read as Black")
    return (
        *groups,
        *(Group("names", kind, names) for kind, names in zip(kinds, zip(*name_pairs(), strict=True), strict=True)),
    )


GROUPS = _read()
"""All groups; a row's mentions have a bit for each, in this order."""
assert len(GROUPS) <= 32, "mentions have 32 bits"


@cache
def _lexicon() -> Lexicon:
    return Lexicon({f"{group.axis}/{group.name}": group.phrases for group in GROUPS})


def mentioned(words: Words) -> npt.NDArray[np.uint32]:
    """Return for each text the bits of the groups that it names."""
    hits = _lexicon().hits(words)
    found = np.zeros(len(words.starts) - 1, np.uint32)
    np.bitwise_or.at(found, hits.texts, (np.uint32(1) << hits.entries.astype(np.uint32)))
    return found
