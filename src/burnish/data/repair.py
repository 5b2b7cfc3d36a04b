"""Broken text made whole: mojibake, control characters, characters that nobody sees, line ends, composition. Nothing else.

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
from ftfy.badness import is_bad

_SUSPICIOUS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""ASCII text without any of these needs no repair: most text does not."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_NEAR = 8
"""Characters on both sides of one beyond ASCII that ftfy may look at to call it bad."""
_MOST_ROUNDS = 4
# One repair can uncover another (a composed letter that was part of mojibake); more than this is not natural text.


@dataclass(frozen=True, slots=True)
class Repaired:
    """The text, and each change that was made: what it is called, the text before and after it."""

    text: str
    steps: tuple[tuple[str, str, str], ...] = ()

    @property
    def changes(self) -> frozenset[str]:
        """What had to be changed."""
        return frozenset(name for name, _, _ in self.steps)


def repair(text: str) -> Repaired:
    """Return the text with mojibake decoded, CRLF as LF, control and invisible characters and terminal escapes removed, in NFC."""
    if text.isascii() and _SUSPICIOUS.search(text) is None:
        return Repaired(text)
    steps: list[tuple[str, str, str]] = []
    for _ in range(_MOST_ROUNDS):
        before = text
        for name, fix in _FIXES.items():
            fixed = fix(text)
            if fixed != text:
                steps.append((name, text, fixed))
            text = fixed
        if text == before:
            break
    return Repaired(text, tuple(steps))


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mojibake(text: str) -> str:
    """Fix the encoding where something looks broken. What ftfy calls bad is few characters together, one of them beyond ASCII."""
    if text.isascii():
        return text
    found = [match.span() for match in _BEYOND_ASCII.finditer(text)]
    near = "\n".join([text[max(0, start - _NEAR) : end + _NEAR] for start, end in found])
    # Some of it is bad only at the beginning of a text.
    return ftfy.fix_encoding(text) if is_bad(near if found[0][0] < _NEAR else f"\n{near}") else text


def _control_characters(text: str) -> str:
    return ftfy.fixes.remove_control_chars(ftfy.fixes.remove_terminal_escapes(text))


_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]+")
"""Soft hyphens, spaces without width, invisible operators, overrides of the writing direction, tag characters. What makes a letter
or an emoji (joiners, variation selectors) is not among them."""
_WORD_BREAKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Thai, Lao, Burmese and Khmer, which may put a space without width between words."""
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_FLAG = "\U0001f3f4"
"""The black flag: tag characters after it say of which region."""


def _invisible_characters(text: str) -> str:
    """Remove what nobody sees, where no script or emoji of the text needs it: it hides words from readers, and readers from models.

    Tag characters and overrides of the writing direction are how instructions are hidden in texts (Boucher and Anderson 2023,
    "Trojan Source", USENIX Security).
    """
    if text.isascii() or _INVISIBLE.search(text) is None:
        return text
    breaks, turns = _WORD_BREAKS.search(text) is not None, _RIGHT_TO_LEFT.search(text) is not None

    def needed(found: re.Match[str]) -> str:
        if found.start() and text[found.start() - 1] == _FLAG and found.group().endswith("\U000e007f"):
            return found.group()
        return "".join(
            sign
            for sign in found.group()
            if (breaks and sign == "\u200b")
            or (turns and ("\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069"))
        )

    return _INVISIBLE.sub(needed, text)


def _composition(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_FIXES: dict[str, Callable[[str], str]] = {
    "line ends": _line_ends,
    "mojibake": _mojibake,
    "control characters": _control_characters,
    "invisible characters": _invisible_characters,
    "composition": _composition,
}
