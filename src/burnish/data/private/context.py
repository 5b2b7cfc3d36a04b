"""What only the words around it make personal: dates of birth and coordinates."""

from __future__ import annotations

import re
from collections.abc import Iterator

BIRTH_WORDS = ("birth", "born", "dob", "d.o.b")

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = re.compile(
    r"(?<![\d])(?:(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ](?:(?:19|20)\d\d|\d\d)"
    rf"|(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?(?: of)?[ -]{_MONTH},?[ -](?:(?:19|20)\d\d|\d\d)"
    rf"|{_MONTH}[ -](?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?,?[ -](?:19|20)\d\d"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)",
    re.ASCII,
)
_BORN = re.compile(
    r"(?:(?:date[ _-]?of[ _-]?|birth[ _-]?|d)?birth(?:day|date)?|born|dob|d\.o\.b\.?)(?![a-z]{3})", re.ASCII
)
_MOST_BETWEEN = 45
"""Characters between the word and the date: "born in Springfield, Illinois on 12 March 1984"."""


def births(lower: str) -> Iterator[tuple[int, int]]:
    """Yield dates that follow a word about birth in the same line. Takes the text in small letters."""
    for word in _BORN.finditer(lower):
        line_end = lower.find("\n", word.end(), word.end() + _MOST_BETWEEN)
        limit = line_end if line_end >= 0 else word.end() + _MOST_BETWEEN
        date = _DATE.search(lower, word.end(), min(len(lower), limit + 20))
        if date is not None and date.start() <= limit:
            yield date.span()


_PAIR = re.compile(
    r"[-+]?(?<![\w.])\d{1,2}\.\d{3,15}°?[ ]?(?P<ns>[NS])?[,;/ ]{1,3}[-+]?\d{1,3}\.\d{3,15}°?[ ]?(?P<ew>[EW])?(?![\w.]\d)",
    re.ASCII,
)
_DEGREES = re.compile(
    r"""\d{1,2}°[ ]?\d{1,2}['′’][ ]?(?:\d{1,2}(?:\.\d+)?["″”]?[ ]?)?[NS],?[ ]{0,2}\d{1,3}°[ ]?\d{1,2}['′’][ ]?"""
    r"""(?:\d{1,2}(?:\.\d+)?["″”]?[ ]?)?[EW]"""
)
_SAID_PAIR = re.compile(
    r"\b(?:lat|latitude|long?|longitude|lng|coords?|coordinates?|gps|geo|geotag|location|position|maps)\b|/@", re.I
)
_FIELD = re.compile(
    r"\b(?:lat|latitude|lon|lng|long|longitude)\\?\"?\s{0,2}[:=]\s{0,2}\"?(?P<value>[-+]?\d{1,3}\.\d{3,15})(?!\d)",
    re.I | re.ASCII,
)
_LOOK_BACK = 40


def coordinates(text: str) -> Iterator[tuple[int, int]]:
    """Yield latitudes and longitudes: pairs that a word or N, S, E, W explains, degrees and minutes, named fields."""
    if "°" in text:
        for match in _DEGREES.finditer(text):
            yield match.span()
    for match in _PAIR.finditer(text):
        first, second = re.findall(r"[-+]?\d+\.\d+", match[0])
        explained = (match["ns"] and match["ew"]) or _SAID_PAIR.search(
            text, max(0, match.start() - _LOOK_BACK), match.start()
        )
        if abs(float(first)) <= 90 and abs(float(second)) <= 180 and explained:
            yield match.start(), match.start() + len(match[0].rstrip())
    for match in _FIELD.finditer(text):
        if abs(float(match["value"])) <= 180:
            yield match.span("value")
