"""Phone numbers that are possible: the right digits in groups that people write, in use or not (555 counts too).

Numbers are everywhere in requests (prices, dates, codes), so a run of digits alone is no phone number. It must be
written with a country code, in the groups of a national plan, or after a word such as "call".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEP = r"[ .\-\u00a0\u2010\u2011\u2013]"
_START = r"(?<![\w.,$€£¥+\-])(?<!\d/)"
_END = r"(?:\s?(?:x|ext\.?)\s?\d{1,5})?(?![\w%$€£¥]|[.,\-/:]\d)"

_INTERNATIONAL = re.compile(rf"(?<![\w+])(?:\+|00)[1-9](?:(?:{_SEP}|/)?(?:\(\d+\)|\d+)){{0,12}}", re.ASCII)
_NATIONAL = re.compile(
    _START
    + r"(?:"
    + rf"(?:1{_SEP})?(?:\([2-9]\d\d\) ?|[2-9]\d\d{_SEP})\d{{3}}{_SEP}\d{{4}}"  # North America: 212-555-0123
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
_AFTER_A_WORD = re.compile(
    r"(?:\b(?:call|phone|telephone|tel|text|reach|dial|ring|sms|fax|whatsapp|cell|cellphone|mobile)(?:_?(?:no|number))?"
    r"|\b(?:my|his|her|their|our) number)\b[^\d\n+,;]{0,16}"
    + rf"(?P<number>\(?\d(?:{_SEP}?[()]?\d){{6,14}})(?![\w%$€£¥]|[.,\-/:]\d)",
    re.ASCII | re.IGNORECASE,
)
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


def phones(text: str) -> Iterator[tuple[int, int]]:
    """Yield where phone numbers begin and end; the places may overlap."""
    for match in _INTERNATIONAL.finditer(text):
        end = _international_end(match)
        if end is not None:
            yield match.start(), end
    for match in _NATIONAL.finditer(text):
        if not (match["plain"] and _AFTER_AN_ID.search(text, max(0, match.start() - 24), match.start())):
            yield match.span()
    for match in _AFTER_A_WORD.finditer(text):
        if not _DATE.match(match["number"]):
            yield match.span("number")


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
