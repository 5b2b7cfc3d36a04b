"""What only the words around it make personal: dates of birth and coordinates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from burnish.data.private.signs import WORDS_BEFORE, places

_BIRTH_WORDS = ("birth", "born", "dob", "d.o.b")

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = re.compile(
    r"(?<![\d])(?:(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ](?:(?:19|20)\d\d|\d\d)"
    rf"|(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?(?: of)?[ -]{_MONTH},?[ -](?:(?:19|20)\d\d|\d\d)"
    rf"|{_MONTH}[ -](?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?,?[ -](?:19|20)\d\d"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)",
    re.ASCII,
)
_BORN = re.compile(r"(?:birth(?:day|date)?|born|dob|d\.o\.b\.?)(?![a-z]{3})")
_MOST_BETWEEN = 45
"""Characters between the word and the date: "born in Springfield, Illinois on 12 March 1984"."""
_LABEL = re.compile(r"[ \t]*:?[ \t]*\n\s{0,20}(?=\d)")
BORN_ELSEWHERE = frozenset({"geb", "nac", "nai", "nas", "nat", "uro", "n"})
"""How words about birth begin in German, Dutch, Spanish, French, Portuguese, Italian and Polish, as `signs.before` has them."""
_BORN_ELSEWHERE = re.compile(
    r"\b(?:geb(?:\.|oren|urts|oorte)|naci(?:d[oa]|miento|ó)|naissance|né(?:e)?\b|nasc|nat[oa]\b|urodz)[^\n]{0,30}\Z"
)


def births(lower: str) -> Iterator[tuple[int, int]]:
    """Yield dates that follow a word about birth in the same line. Takes the text in small letters."""
    for at in sorted(at for word in _BIRTH_WORDS for at in places(lower, word)):
        word = _BORN.match(lower, at)
        if word is None:
            continue
        label = _LABEL.match(lower, word.end())  # as forms have it, with the date on the next line
        after = label.end() if label else word.end()
        line_end = lower.find("\n", after, after + _MOST_BETWEEN)
        limit = line_end if line_end >= 0 else after + _MOST_BETWEEN
        date = _DATE.search(lower, after, min(len(lower), limit + 20))
        if date is not None and date.start() <= limit:
            yield date.span()


def birth_elsewhere(lower: str, start: int) -> tuple[int, int] | None:
    """Return the date of digits that begins at `start` if a word about birth in another language stands shortly before it."""
    date = _DATE.match(lower, start)
    return date.span() if date and _BORN_ELSEWHERE.search(lower, max(0, start - WORDS_BEFORE), start) else None


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
_FIELD = re.compile(r"\b(?:lat|latitude|lon|lng|long|longitude)\\?\"?\s{0,2}[:=]\s{0,2}\"?[-+]?\Z", re.I | re.ASCII)
_VALUE = re.compile(r"\d{1,3}\.\d{3,15}(?!\d)", re.ASCII)
_LONGEST_FIELD = len('longitude\\"  :  "-')
_LOOK_BACK = 40


def coordinates(text: str, decimals: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield latitudes and longitudes: pairs that a word or N, S, E, W explains, degrees and minutes, named fields.

    decimals: where a digit stands that three others follow after a separator, in order.
    """
    if "°" in text:
        for match in _DEGREES.finditer(text):
            yield match.span()
    after = 0
    for point in decimals:
        if text[point + 1] != ".":
            continue
        start = _first_digit(text, point)
        yield from _field(text, start)
        pair = _PAIR.match(text, start - 1 if start and text[start - 1] in "+-" else start) if start >= after else None
        if pair is None:
            continue
        after = pair.end()
        first, second = re.findall(r"[-+]?\d+\.\d+", pair[0])
        explained = (pair["ns"] and pair["ew"]) or _SAID_PAIR.search(
            text, max(0, pair.start() - _LOOK_BACK), pair.start()
        )
        if abs(float(first)) <= 90 and abs(float(second)) <= 180 and explained:
            yield pair.start(), pair.start() + len(pair[0].rstrip())


def _first_digit(text: str, digit: int) -> int:
    """The first of at most three digits that end here."""
    start = digit
    while start and digit - start < 2 and text[start - 1] in "0123456789":
        start -= 1
    return start


def _field(text: str, start: int) -> Iterator[tuple[int, int]]:
    name = _FIELD.search(text, max(0, start - _LONGEST_FIELD), start)
    value = _VALUE.match(text, start) if name else None
    if name and value and abs(float(value[0])) <= 180:
        signed = start - 1 if text[start - 1] in "+-" else start
        yield signed, value.end()
