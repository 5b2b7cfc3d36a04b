"""Card numbers and IBANs, told from other numbers by their checksums and lengths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CARD = re.compile(
    r"(?:"
    r"\d{4}(?P<sep>[ -])\d{4}(?P=sep)\d{4}(?P=sep)\d{4}(?:(?P=sep)\d{1,3})?"  # 4-4-4-4, Visa and Maestro up to 19
    r"|\d{4}(?P<sep6>[ -])\d{6}(?P=sep6)\d{4,5}"  # American Express 4-6-5, Diners 4-6-4
    r"|\d{12,19}"
    r")(?![\w-]|\.\d)",
    re.ASCII,
)
_SAID = re.compile(r"\b(?:card|visa|mastercard|maestro|amex|credit|debit)\b", re.IGNORECASE)
_LOOK_BACK = 30
_BEFORE = re.compile(r"[\w.+-]", re.ASCII)
_BRAND = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12,15}"  # Discover
    r"|35\d{14,17}|(?:2131|1800)\d{11}"  # JCB, and its old 15-digit numbers
    r"|62\d{14,17}"  # UnionPay
    r"|(?:50|5[6-9]|6[0-9])\d{10,17}",  # Maestro
    re.ASCII,
)
"""Ranges and lengths of card numbers, from ISO/IEC 7812 issuer prefixes as the networks publish them."""

_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
IBAN_LENGTH: dict[str, int] = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}
"""Length of an IBAN by country, from the SWIFT IBAN registry (ISO 13616)."""


def cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where card numbers are in a run of digits and separators: a known range and length, and a valid Luhn sum.

    start, end: the run, first and last character digits, what stands around it no digit.
    """
    at = start
    while at + 12 <= end:
        match = _CARD.match(text, at)
        if match is not None and not (at and _BEFORE.match(text, at - 1)) and _is_right(text, match):
            yield match.span()
            at = match.end()
        # The next group may begin one: skip the digits that belong to this start, and what stands between.
        while at < end and text[at].isdigit():
            at += 1
        while at < end and not text[at].isdigit():
            at += 1


def _is_right(text: str, match: re.Match[str]) -> bool:
    return is_card(match[0]) or (_is_said(text, match.start()) and luhn(_digits(match[0])))


def _is_said(text: str, start: int) -> bool:
    """Whether a word before the number says that it is a card's: then its range need not be known."""
    return _SAID.search(text, max(0, start - _LOOK_BACK), start) is not None


def _digits(value: str) -> str:
    return value.replace(" ", "").replace("-", "")


def is_card(value: str) -> bool:
    """Return whether digits, with or without separators, are a card number."""
    digits = _digits(value)
    return _BRAND.fullmatch(digits) is not None and luhn(digits)


def ibans(text: str, checks: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield where IBANs begin and end, written in one or in groups: the country's length, and a valid mod 97.

    checks: where two digits stand after two letters, in order.
    """
    after = 0
    for check in checks:
        start = check - 2
        if start and text[start - 1].isalnum() and text[start - 1].isascii():
            continue
        length = IBAN_LENGTH.get(text[start : start + 2].upper())
        if length is None or start < after:
            continue
        end = _end_of_group(text, start, length)
        if end is not None and mod97(text[start:end].replace(" ", "")):
            after = end
            yield start, end


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""Twice a digit, its own digits added."""


def luhn(digits: str) -> bool:
    """Return whether the digits end in their Luhn check digit (ISO/IEC 7812-1, annex B)."""
    return luhn_sum(digits) % 10 == 0


def luhn_sum(digits: str) -> int:
    """Return the digits' sum with every second from the right, the last but one first, doubled."""
    numbers = [int(digit) for digit in reversed(digits)]
    return sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])


def mod97(iban: str) -> bool:
    """Return whether an IBAN without spaces has valid check digits (ISO 7064 MOD 97-10)."""
    return remainder97(iban[4:] + iban[:4]) == 1


def remainder97(rearranged: str) -> int:
    """Return the remainder by 97 of digits and letters, letters standing for 10 to 35."""
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97


def _end_of_group(text: str, start: int, length: int) -> int | None:
    """The end of `length` ASCII letters and digits from `start`, single spaces between allowed; None if cut short."""
    seen, at = 0, start
    while seen < length and at < len(text):
        character = text[at]
        if character.isascii() and character.isalnum():
            seen += 1
        elif character != " " or text[at - 1] == " ":
            return None
        at += 1
    ends = at == len(text) or not text[at].isalnum()
    return at if seen == length and ends else None
