"""Broken text made whole: mojibake, control characters, line ends, composition. Nothing else is changed.

ftfy (https://ftfy.readthedocs.io) knows how UTF-8 looks after it was read as something else. Its tidying of quotes,
ligatures, widths and HTML stays off: answers may need those characters exactly as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import ftfy
import ftfy.fixes

_SUSPICIOUS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""ASCII text without any of these needs no repair: most text does not."""
_MOST_ROUNDS = 4
# One repair can uncover another (a composed letter that was part of mojibake); more than this is not natural text.


@dataclass(frozen=True, slots=True)
class Repaired:
    """The text, and what had to be changed in it."""

    text: str
    changes: frozenset[str]


def repair(text: str) -> Repaired:
    """Return the text with mojibake decoded, CRLF as LF, control characters and terminal escapes removed, in NFC."""
    if text.isascii() and _SUSPICIOUS.search(text) is None:
        return Repaired(text, frozenset())
    changes: set[str] = set()
    for _ in range(_MOST_ROUNDS):
        before = text
        for name, fix in _FIXES.items():
            fixed = fix(text)
            if fixed != text:
                changes.add(name)
            text = fixed
        if text == before:
            break
    return Repaired(text, frozenset(changes))


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mojibake(text: str) -> str:
    return text if text.isascii() else ftfy.fix_encoding(text)


def _control_characters(text: str) -> str:
    return ftfy.fixes.remove_control_chars(ftfy.fixes.remove_terminal_escapes(text))


def _composition(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_FIXES: dict[str, Callable[[str], str]] = {
    "line ends": _line_ends,
    "mojibake": _mojibake,
    "control characters": _control_characters,
    "composition": _composition,
}
