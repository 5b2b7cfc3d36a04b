"""Phone numbers that are possible: the right digits in groups that people write, in use or not (555 counts too).

Numbers are everywhere in requests (prices, dates, codes), so a run of digits alone is no phone number. It must be
written with a country code, in the groups of a national plan, or after a word such as "call".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from burnish.data.private.signs import beginnings

_SEP = r"[ .\-\u00a0\u2010\u2011\u2013]"
_ESCAPE = r"(?<=\\[nrt])"
"""In raw JSON or source a line's end is a backslash and a letter."""
_START = rf"(?:{_ESCAPE}|(?<![\w.$€£¥+\-])(?<!\d[,/])(?<![$€£¥],))"
_END = r"(?:\s?(?:x|ext\.?)\s?\d{1,5})?(?![\w%$€£¥]|[.,\-/:]\d)"

_INTERNATIONAL = re.compile(
    rf"(?:{_ESCAPE}|(?<![\w+]))(?:\+|00)[1-9](?:(?:{_SEP}|/)?(?:\(\d+\)|\d+)){{0,12}}", re.ASCII
)
_NATIONAL = re.compile(
    _START
    + r"(?:"
    + rf"(?:1{_SEP})?(?:\([2-9]\d\d\) ?|[2-9]\d\d{_SEP})\d{{3}}{_SEP}\d{{4}}"  # North America: 212-555-0123
    + r"|\d{3}(?P<same>[-.])\d{3}(?P=same)\d{4}"  # the same from a generator: 060.804.1932
    + rf"|0\d{{2,3}}[ /]\d{{2,3}}(?:{_SEP}\d\d){{2}}"  # Austria, Switzerland, Belgium, Hungary: 0472 51 11 42
    + r"|555[-.]\d{4}"  # the local half of one
    + r"|(?P<plain>(?:\d{3}555|555\d{3})\d{4})"  # without groups, where the 555 gives it away
    + rf"|0\d(?:{_SEP}\d\d){{4}}"  # France, Belgium: 06 12 34 56 78
    + r"|(?:\(0\d{2,4}\)|0\d{2,4})[ \-/]{1,2}\d{3,4}[ \-]?\d{3,5}"  # United Kingdom, Germany, Italy: 020 7946 0958
    + r"|(?:\(0\d\)|0\d) \d{4} \d{4}"  # Australia: (02) 5550 1234
    + r"|0[1-9]\d{8,9}"
    + r")"
    + _END,
    re.ASCII,
)
_WORDS = (
    "call|phone|telephone|tel|text|reach|reached|dial|ring|sms|fax|whatsapp|cell|cellphone|mobile|desk"
    "|messages? to|answering at|reached at|reached on"
)
_SAID = re.compile(
    rf"(?:(?:\b|(?<=\\n))(?:{_WORDS})(?:_?(?:no|number))?|\b(?:my|his|her|their|our) number)\b"
    r"(?:[^\d\n+,;]{0,16}|:\s{1,4})\Z",
    re.ASCII,
)
_THEN_SAID = re.compile(
    r"[ ]?[-(]?[ ]?(?:is (?:my|his|her|their|our|the) )?(?:office|fax|mobile|cell|desk|home|work|phone)\b",
    re.ASCII,
)
_LOOK_BACK = 40
_BEGINNINGS = beginnings([*_WORDS.split("|"), *(f"n{word}" for word in _WORDS.split("|")), "number"])
_NUMBER = re.compile(rf"\(?\d(?:[()]?{_SEP}?[()]?\d){{6,14}}(?![\w%$€£¥]|[.,\-/:]\d)", re.ASCII)
_EXTENSION = 12
"""Characters after a run that an extension ("ext. 12345") or a look at what follows may need."""
_AFTER_AN_ID = re.compile(
    r"(?:\b|_)(?:id|no|nr|ref|reference|order|invoice|ticket|account|code|booking)[\"'\s:#._=-]{0,6}$", re.I
)
_DATE = re.compile(r"\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4}|(?:19|20)\d{6}", re.ASCII)

_COUNTRY_CODE = re.compile(r"1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|\d{3}", re.ASCII)
"""Country calling codes of one and two digits; all others have three (ITU-T E.164)."""

_NATIONAL_DIGITS: dict[str, tuple[int, int]] = {
    "1": (10, 10), "7": (10, 10), "20": (9, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9), "33": (9, 9),
    "34": (9, 9), "36": (8, 9), "39": (8, 11), "40": (9, 9), "41": (9, 9), "43": (7, 12), "44": (9, 10), "45": (8, 8),
    "46": (7, 9), "47": (8, 8), "48": (9, 9), "49": (7, 11), "52": (10, 11), "54": (10, 11), "55": (10, 11),
    "60": (8, 10), "61": (9, 9), "62": (8, 11), "63": (9, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9),
    "81": (9, 10), "82": (8, 10), "84": (9, 10), "86": (10, 11), "90": (10, 10), "91": (10, 10), "351": (9, 9),
    "353": (7, 9), "358": (6, 11), "420": (9, 9), "852": (8, 8), "971": (8, 9), "972": (8, 9),
}  # fmt: skip
"""Fewest and most digits after the country code, from national numbering plans; others 7 to 11."""


def phones(text: str, lower: str, start: int, end: int, before: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where phone numbers are in a run of digits and separators; the places may overlap.

    start, end: the run, first and last character digits, what stands around it no digit. A sign or bracket before it
    belongs to the number. lower: the text in small letters. before: as `signs.before` gives it for the run.
    """
    opening = _opening(text, start)
    found = False
    if "+" in text[opening:start] or text.find("00", start, end) >= 0:
        for match in _INTERNATIONAL.finditer(text, opening, end):
            last = _international_end(match)
            if last is not None:
                found = True
                yield match.start(), last
    for match in _NATIONAL.finditer(text, opening, end + _EXTENSION):
        if match.start() >= end:
            break
        if not (match["plain"] and _AFTER_AN_ID.search(text, max(0, match.start() - 24), match.start())):
            found = True
            yield match.span()
    if found:
        return
    may_be_said = not _BEGINNINGS.isdisjoint(before)
    if (may_be_said and _SAID.search(lower, max(0, opening - _LOOK_BACK), opening)) or _THEN_SAID.match(lower, end):
        number = _NUMBER.match(text, opening)
        if number is not None and not _DATE.match(number[0]):
            yield number.span()


def _opening(text: str, start: int) -> int:
    """The place of the + and the bracket that belong to a run, or its own start."""
    while start and text[start - 1] in "+(":
        start -= 1
    return start


def _international_end(match: re.Match[str]) -> int | None:
    """The end of a number with a country code: the longest run of whole groups that its country's plan allows."""
    text = match[0]
    start = 1 if text.startswith("+") else 2
    digits = re.sub(r"\D", "", text[start:].replace("(0)", ""))
    code = _COUNTRY_CODE.match(digits)
    if code is None:
        return None
    fewest, most = _NATIONAL_DIGITS.get(code[0], (7, 11))
    ends = [group.end() for group in re.finditer(r"\d+", text)]
    for end in reversed(ends):
        count = len(re.sub(r"\D", "", text[start:end].replace("(0)", ""))) - len(code[0])
        if fewest <= count <= most:
            return match.start() + end
    return None
