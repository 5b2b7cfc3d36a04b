"""What is looked for and which kind wins where two overlap."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple


class Kind(StrEnum):
    """A type of personal data. The value is also the word in the placeholder: [EMAIL]."""

    SECRET = "SECRET"
    EMAIL = "EMAIL"
    IBAN = "IBAN"
    CRYPTO = "CRYPTO"
    MAC = "MAC"
    IP = "IP"
    CARD = "CARD"
    SSN = "SSN"
    NATIONAL_ID = "NATIONAL_ID"
    DATE_OF_BIRTH = "DATE_OF_BIRTH"
    COORDINATES = "COORDINATES"
    PHONE = "PHONE"
    URL = "URL"
    PERSON = "PERSON"
    PLACE = "PLACE"
    ORGANISATION = "ORGANISATION"

    __hash__ = str.__hash__  # that of enumerations runs in Python, and kinds are asked for in sets all the time


class Found(NamedTuple):
    """Personal data in a text: characters start to end, and the rule that saw it (a provider, a country's id)."""

    kind: Kind
    start: int
    end: int
    rule: str = ""


NAMED = frozenset({Kind.PERSON, Kind.PLACE, Kind.ORGANISATION})
"""Kinds that only a language model finds; see `names`."""
STRUCTURED = frozenset(Kind) - NAMED - {Kind.URL}
"""Kinds that rules find, and what `find` looks for by default. A plain web address is no personal data unless asked for."""
_START = itemgetter(1)
_RANK = {kind: rank for rank, kind in enumerate(Kind)}


def resolve(found: list[Found]) -> list[Found]:
    """Return the finds in order of the text without overlaps: of two kinds the earlier in `Kind`, of one kind their union."""
    if len(found) < 2:
        return found
    found.sort(key=_START)
    if all(one.end <= other.start for one, other in pairwise(found)):
        return found
    taken: list[Found] = []
    group: list[Found] = []
    end = 0
    for item in found:  # only finds that overlap are compared with each other: a document may have very many
        if item.start >= end and group:
            taken += group if len(group) == 1 else _chosen(group)
            group = []
        group.append(item)
        end = max(end, item.end)
    return taken + (group if len(group) == 1 else _chosen(group))


def _chosen(found: list[Found]) -> list[Found]:
    """Return which of some finds that overlap stay, in order of the text."""
    taken: list[Found] = []
    for item in _merged(sorted(found, key=lambda f: (_RANK[f.kind], f.start, -f.end))):
        if all(item.end <= other.start or other.end <= item.start for other in taken):
            taken.append(item)
    return sorted(taken, key=_START)


def _merged(found: Iterable[Found]) -> list[Found]:
    """Join overlapping finds of one kind, which stand one after the other."""
    merged: list[Found] = []
    for item in found:
        last = merged[-1] if merged else None
        if last is not None and last.kind == item.kind and item.start < last.end:
            merged[-1] = last._replace(end=max(last.end, item.end))
        else:
            merged.append(item)
    return merged
