"""The pass: cheap signs of a text (an @, a run of digits, a long word) decide what is looked at, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from functools import cache
from typing import NamedTuple

from burnish.data.private.context import BORN_ELSEWHERE, birth_elsewhere, births, coordinates
from burnish.data.private.crypto import FIRST_LETTERS, wallet
from burnish.data.private.ids import documents, lettered_ids, said_ids, strong_ids
from burnish.data.private.keys import private_keys, provider_keys, said_secrets, url_credentials
from burnish.data.private.kinds import STRUCTURED, Found, Kind, resolve
from burnish.data.private.network import emails, ipv4, ipv6, macs, urls
from burnish.data.private.payments import cards, ibans
from burnish.data.private.phones import phones
from burnish.data.private.signs import Signs, before

_FEWEST_DIGITS = 6
"""Of a passport; a phone number has 7, a card 12."""
_WIDE = re.compile("[\uff10-\uff19\uff20-\uff3a\uff41-\uff5a\u0660-\u0669\u06f0-\u06f9\u0966-\u096f]")
"""Digits, letters and the @ in full width, and digits of Arabic, Persian and Hindi."""
_FEW = 200
"""Characters beyond ASCII that are looked at one by one."""
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    zero + digit: ord("0") + digit for zero in (0x660, 0x6F0, 0x966) for digit in range(10)
}
_WIDE_CHARACTERS = frozenset(chr(code) for code in _NARROW if _WIDE.match(chr(code)))
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


class _Wanted(NamedTuple):
    """What is looked for, by sign: asking a set of kinds again and again costs more than looking."""

    kinds: frozenset[Kind]
    secrets: bool
    wallets: bool
    emails: bool
    urls: bool
    addresses: bool
    macs: bool
    cards: bool
    phones: bool
    documents: bool
    ibans: bool
    births: bool
    coordinates: bool


@cache
def _wanted(kinds: frozenset[Kind]) -> _Wanted:
    signs = (
        Kind.SECRET, Kind.CRYPTO, Kind.EMAIL, Kind.URL, Kind.IP, Kind.MAC, Kind.CARD, Kind.PHONE,
        Kind.NATIONAL_ID, Kind.IBAN, Kind.DATE_OF_BIRTH, Kind.COORDINATES,
    )  # fmt: skip
    return _Wanted(kinds, *(kind in kinds for kind in signs))


def find(text: str, kinds: Set[Kind] = STRUCTURED) -> list[Found]:
    """Return the personal data and secrets of a text in its order, without overlaps.

    Names, places and organisations are not found here (see `names`), plain web addresses only if `kinds` has URL.
    """
    wanted = _wanted(frozenset(kinds))
    signs = Signs(text)
    if not text.isascii() and _is_wide(text, signs):
        text = text.translate(_NARROW)  # character by character, so places stay the same
        signs = Signs(text)
    lower = text.lower()
    if len(lower) != len(text):  # a letter such as İ has two small ones; places must stay the same
        lower = text.translate(_ASCII_LOWER)
    found = _written(text, lower, signs, wanted)
    version_6, card = signs.machines()
    if version_6 and wanted.addresses:
        found += [Found(Kind.IP, *span, "ipv6") for span in ipv6(text)]
    if card and wanted.macs:
        found += [Found(Kind.MAC, *span) for span in macs(text)]
    if signs.digits:
        found += _of_runs(text, lower, signs, wanted)
        found += _with_digits(text, lower, signs, wanted)
    return resolve(found)


def _is_wide(text: str, signs: Signs) -> bool:
    """Whether a text has characters that are written as others here. Most have a quotation mark or a dash beyond ASCII alone."""
    for count, place in enumerate(signs.beyond_ascii()):
        if text[place] in _WIDE_CHARACTERS:
            return True
        if count == _FEW:
            return _WIDE.search(text, place) is not None
    return False


def _written(text: str, lower: str, signs: Signs, wanted: _Wanted) -> list[Found]:
    """Keys, wallets, what is said to be a secret, addresses of mailboxes and pages."""
    found: list[Found] = []
    words = signs.long_words()
    if words:
        # In raw JSON or source a line's end may stand before a key as a backslash and a letter.
        words = [(s + 1, e) if s and text[s - 1] == "\\" and text[s] in "nrt" else (s, e) for s, e in words]
        found += _of_words(text, lower, words, wanted)
    if wanted.secrets:
        found += [Found(Kind.SECRET, *hit) for hit in said_secrets(text, lower)]
        if "-----BEGIN" in text:
            found += [Found(Kind.SECRET, *hit) for hit in private_keys(text)]
        if "://" in text and "@" in text:
            found += [Found(Kind.SECRET, *hit) for hit in url_credentials(text)]
    if wanted.emails and ("@" in text or ("%" in text and "%40" in text)):
        found += [Found(Kind.EMAIL, *span) for span in emails(text)]
    if wanted.urls:
        found += [Found(Kind.URL, *span) for span in urls(text)]
    return found


def _of_words(text: str, lower: str, words: list[tuple[int, int]], wanted: _Wanted) -> Iterator[Found]:
    """What is made of a long word: wallets, and the keys of providers, or the name before such a key."""
    if wanted.wallets:
        for start, _ in words:
            end = wallet(text, start) if text[start] in FIRST_LETTERS else None
            if end is not None:
                yield Found(Kind.CRYPTO, start, end)
    if wanted.secrets:
        yield from (Found(Kind.SECRET, *hit) for hit in provider_keys(text, lower, words))


def _of_runs(text: str, lower: str, signs: Signs, wanted: _Wanted) -> list[Found]:
    """What runs of digits and separators are: addresses of IP version 4, cards, identity numbers, phones."""
    found: list[Found] = []
    for start, end in signs.runs():
        digits = signs.numbers.count(b"d", start, end)
        if digits >= _FEWEST_DIGITS:
            found += _of_run(text, lower, start, end, digits, wanted)
        if wanted.addresses and text.count(".", start, end) > 2:
            found += [Found(Kind.IP, *span, "ipv4") for span in ipv4(text, start, end)]
    return found


def _of_run(text: str, lower: str, start: int, end: int, digits: int, wanted: _Wanted) -> list[Found]:
    """What a run of digits and separators is: cards, identity numbers, phones.

    In this order: what is all of the run leaves nothing to those of a lower rank (`Kind`).
    """
    found: list[Found] = []
    if digits > 11 and wanted.cards:
        for span in cards(text, start, end):
            found.append(Found(Kind.CARD, *span))
            if span == (start, end):
                return found
    words = before(lower, start)
    dated = text[start + 1] in "./-" or text[start + 2] in "./-" or text[start + 4] in "./-"
    if dated and wanted.births and not BORN_ELSEWHERE.isdisjoint(words) and (born := birth_elsewhere(lower, start)):
        return [Found(Kind.DATE_OF_BIRTH, *born)]
    identities = [*strong_ids(text, start, end), *said_ids(text, lower, start, words)]
    if identities:
        found += [item for item in identities if item.kind in wanted.kinds]
        if any(item.start <= start and item.end >= end for item in found):
            return found
    if digits > _FEWEST_DIGITS and wanted.phones:
        found += [Found(Kind.PHONE, *span) for span in phones(text, lower, start, end, words)]
    return found


def _with_digits(text: str, lower: str, signs: Signs, wanted: _Wanted) -> list[Found]:
    """What has digits among other things: IBANs, numbers of documents, dates of birth, places."""
    found: list[Found] = []
    letters, capitals = signs.after_letters()
    if letters and wanted.ibans:
        found += [Found(Kind.IBAN, *span) for span in ibans(text, letters)]
    if capitals and wanted.documents:
        found += lettered_ids(text, capitals)
    if wanted.documents and ("licen" in lower or "passport" in lower):
        found += documents(lower)
    if wanted.births and ("birth" in lower or "born" in lower or "dob" in lower or "d.o.b" in lower):
        found += [Found(Kind.DATE_OF_BIRTH, *span) for span in births(lower)]
    decimals = signs.decimals()
    if (decimals or "°" in text) and wanted.coordinates:
        found += [Found(Kind.COORDINATES, *span) for span in coordinates(text, decimals)]
    return found
