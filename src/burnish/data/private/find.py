"""The pass: one walk over a text, in which cheap signs (an @, a run of digits, a long word) decide what is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from burnish.data.private.context import BIRTH_WORDS, births, coordinates
from burnish.data.private.crypto import wallet
from burnish.data.private.ids import documents, lettered_ids, said_ids, strong_ids
from burnish.data.private.keys import SAID_WORDS, WORD, private_keys, provider_keys, said_secrets, url_credentials
from burnish.data.private.kinds import STRUCTURED, Found, Kind, resolve
from burnish.data.private.network import emails, ipv4, ipv6, macs, urls
from burnish.data.private.payments import cards, ibans
from burnish.data.private.phones import phones

_RUN = re.compile(r"\d[\d .\-()/\u00a0\u2010\u2011\u2013]{5,}(?<=\d)", re.ASCII)
"""Digits and what people put between them, at least seven characters, a digit at both ends."""
_DIGIT = re.compile(r"\d", re.ASCII)
_FINE = re.compile(r"\d\.\d{3}|\d°", re.ASCII)
"""Three decimals of a degree are 100 m."""
_GONE = dict.fromkeys(map(ord, " .-()/\u00a0\u2010\u2011\u2013"))
_FEWEST_DIGITS = 6
"""Of a passport; a phone number has 7, a card 12."""
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def find(text: str, kinds: Set[Kind] = STRUCTURED) -> list[Found]:
    """Return the personal data and secrets of a text in its order, without overlaps.

    Names, places and organisations are not found here (see `names`), plain web addresses only if `kinds` has URL.
    """
    found: list[Found] = []
    lower = text.lower()
    if len(lower) != len(text):  # a letter such as İ has two small ones; places must stay the same
        lower = text.translate(_ASCII_LOWER)
    if Kind.SECRET in kinds or Kind.CRYPTO in kinds:
        found += _words(text, lower, kinds)
    if "@" in text and Kind.EMAIL in kinds:
        found += (Found(Kind.EMAIL, *span) for span in emails(text))
    if ":" in text or "-" in text or "." in text:
        found += _machines(text, kinds)
    if _DIGIT.search(text) is None:
        return resolve(found)
    found += _numbers(text, lower, kinds)
    if Kind.IBAN in kinds:
        found += (Found(Kind.IBAN, *span) for span in ibans(text))
    if Kind.DATE_OF_BIRTH in kinds and any(word in lower for word in BIRTH_WORDS):
        found += (Found(Kind.DATE_OF_BIRTH, *span) for span in births(lower))
    if Kind.COORDINATES in kinds and _FINE.search(text):
        found += (Found(Kind.COORDINATES, *span) for span in coordinates(text))
    return resolve(found)


def _words(text: str, lower: str, kinds: Set[Kind]) -> Iterator[Found]:
    """Secrets and wallets: long words, key prefixes, what is said to be a password."""
    words = [match.span() for match in WORD.finditer(text)]
    # In raw JSON or source a line's end may stand before a key as a backslash and a letter.
    words = [(s + 1, e) if s and text[s - 1] == "\\" and text[s] in "nrt" else (s, e) for s, e in words]
    if Kind.CRYPTO in kinds:
        for start, _ in words:
            end = wallet(text, start) if text[start] in "13bB0" else None
            if end is not None:
                yield Found(Kind.CRYPTO, start, end)
    if Kind.SECRET in kinds:
        for start, end, rule in _secrets(text, lower, words):
            yield Found(Kind.SECRET, start, end, rule)


def _secrets(text: str, lower: str, words: list[tuple[int, int]]) -> Iterator[tuple[int, int, str]]:
    yield from provider_keys(text, lower, words)
    if "-----BEGIN" in text:
        yield from private_keys(text)
    if "://" in text and "@" in text:
        yield from url_credentials(text)
    if any(word in lower for word in SAID_WORDS):
        yield from said_secrets(text, lower)


def _machines(text: str, kinds: Set[Kind]) -> Iterator[Found]:
    """Addresses of machines and pages."""
    if Kind.IP in kinds and text.count(":") > 1:
        for start, end in ipv6(text):
            yield Found(Kind.IP, start, end, "ipv6")
    if Kind.MAC in kinds and (text.count(":") > 4 or text.count("-") > 4 or text.count(".") > 1):
        for start, end in macs(text):
            yield Found(Kind.MAC, start, end)
    if Kind.URL in kinds:
        for start, end in urls(text):
            yield Found(Kind.URL, start, end)


def _numbers(text: str, lower: str, kinds: Set[Kind]) -> Iterator[Found]:
    """All that is made of digits: cards, phones, identity numbers, addresses of IP version 4."""
    identity = Kind.SSN in kinds or Kind.NATIONAL_ID in kinds
    for match in _RUN.finditer(text):
        start, end = match.span()
        run = match[0]
        if Kind.IP in kinds and run.count(".") > 2:
            for span in ipv4(text, start, end):
                yield Found(Kind.IP, *span, "ipv4")
        digits = len(run.translate(_GONE))
        if digits > 6:
            yield from _payments_and_phones(text, start, end, digits, kinds)
        if identity and digits >= _FEWEST_DIGITS:
            yield from (item for item in strong_ids(text, start, end) if item.kind in kinds)
            yield from (item for item in said_ids(text, lower, start, end) if item.kind in kinds)
    if Kind.NATIONAL_ID in kinds:
        yield from lettered_ids(text)
        if "licen" in lower or "passport" in lower:
            yield from documents(lower)


def _payments_and_phones(text: str, start: int, end: int, digits: int, kinds: Set[Kind]) -> Iterator[Found]:
    if digits > 11 and Kind.CARD in kinds:
        for span in cards(text, start, end):
            yield Found(Kind.CARD, *span)
    if Kind.PHONE in kinds:
        for span in phones(text, start, end):
            yield Found(Kind.PHONE, *span)
