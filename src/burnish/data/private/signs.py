"""Cheap signs of personal data: a text as one byte a character, each the class of its character.

What a pattern would look for at every character, memory search then finds where it is, or says that it is nowhere: most texts
have no run of digits, no long word and no pair of hexadecimal digits beside a colon, and no pattern ever looks at them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits, hexdigits
from typing import AnyStr

SEPARATORS = " .-()/\u00a0\u2010\u2011\u2013"
"""What people put between the digits of a number."""
LONG_WORD = 16
"""Letters, digits, _ and - from which on a word may be a key or a wallet's address; rare in prose."""


def _table(other: str, **classes: str) -> bytes:
    """256 bytes for `bytes.translate`: each character of a class becomes the class's name, all others become `other`."""
    table = bytearray(other.encode() * 256)
    for name, characters in classes.items():
        for character in characters.encode("ascii", "ignore"):
            table[character] = ord(name)
    return bytes(table)


_NUMBERS = _table("x", d=digits, s=SEPARATORS)
_WORDS = _table(" ", w=ascii_letters + digits + "_-")
_LETTERS = _table("x", A=ascii_uppercase, a=ascii_lowercase, d=digits, s=" -")
_HEX = _table("x", **{"h": hexdigits, ":": ":", "-": "-", ".": "."})
_BEYOND_ASCII = [character for character in SEPARATORS if not character.isascii()]
_RUN = re.compile(rb"d[ds]{4,}d")
"""A number: digits and separators, six together at least, a digit at both ends. It begins with a letter, which is searched fast."""
_LONG = b"w" * LONG_WORD
WORDS_BEFORE = 50
"""Characters before a number in which a word may say what it is."""
_BEGINNING = re.compile(r"([a-z]{1,3})[a-z]*")


class Signs:
    """The classes of a text's characters; places are those of the text."""

    __slots__ = ("_bytes", "numbers")

    def __init__(self, text: str) -> None:
        """Look at the text once. `numbers` are its digits (d) and what stands between them (s)."""
        if not text.isascii():
            for separator in _BEYOND_ASCII:
                if separator in text:
                    text = text.replace(separator, "-")
        self._bytes = text.encode("ascii", "replace")  # one byte a character
        self.numbers = self._bytes.translate(_NUMBERS)

    def beyond_ascii(self) -> Iterator[int]:
        """Yield where a character is not ASCII, or a question mark."""
        return places(self._bytes, b"?")

    @property
    def digits(self) -> bool:
        """Whether there is a digit."""
        return b"d" in self.numbers

    def runs(self) -> list[tuple[int, int]]:
        """Return where runs of digits and separators begin and end."""
        return [match.span() for match in _RUN.finditer(self.numbers)]

    def long_words(self) -> list[tuple[int, int]]:
        """Return where words of `LONG_WORD` characters or more begin and end."""
        words = self._bytes.translate(_WORDS)
        found: list[tuple[int, int]] = []
        start = words.find(_LONG)
        while start >= 0:
            end = words.find(b" ", start + LONG_WORD)
            end = len(words) if end < 0 else end
            found.append((start, end))
            start = words.find(_LONG, end)
        return found

    def after_letters(self) -> tuple[list[int], list[int]]:
        """Return where two digits stand after two letters, and after a capital, a space or hyphen between allowed."""
        letters = self._bytes.translate(_LETTERS)
        after: list[int] = []
        capitals: list[int] = []
        if b"Add" in letters:
            capitals += [at + 1 for at in places(letters, b"Add")]
        if b"Asdd" in letters:
            capitals += [at + 2 for at in places(letters, b"Asdd")]
        if b"add" in letters or b"Add" in letters:
            after += [at + 2 for at in places(letters.lower(), b"aadd")]
        return after, capitals

    def decimals(self) -> list[int]:
        """Return where digits stand that three others follow after a point or a separator."""
        return list(places(self.numbers, b"dsddd")) if b"dsddd" in self.numbers else []

    def machines(self) -> tuple[bool, bool]:
        """Whether there may be an address of IP version 6, and one of a network card."""
        data = self._bytes
        colons, hyphens, dots = data.count(b":"), data.count(b"-"), data.count(b".")
        if colons < 2 and hyphens < 5 and dots < 2:
            return False, False
        hexadecimal = data.translate(_HEX)
        # Without a gap (::) an address has eight groups, or six before the four numbers of version 4.
        version_6 = colons > 1 and (b"::" in data or (colons > 5 and b"h:h" in hexadecimal))
        card = (
            (colons > 4 and b"hh:hh:hh:hh:hh:hh" in hexadecimal)
            or (hyphens > 4 and b"hh-hh-hh-hh-hh-hh" in hexadecimal)
            or (dots > 1 and b"hhhh.hhhh.hhhh" in hexadecimal)
        )
        return version_6, card


def before(lower: str, start: int) -> list[str]:
    """Return the first three letters of each word before a number, in small letters: most words that say something begin so."""
    return _BEGINNING.findall(lower, max(0, start - WORDS_BEFORE), start)


def beginnings(words: Iterable[str]) -> frozenset[str]:
    """Return what `before` gives for texts with any of these words, which are patterns that begin with letters or [letters]."""
    found: set[str] = set()
    for word in words:
        choice = re.search(r"\[(.+?)\]", word)
        spelled = [word] if choice is None else [word[: choice.start()] + c + word[choice.end() :] for c in choice[1]]
        found.update(match[1] for each in spelled if (match := _BEGINNING.match(each)))
    return frozenset(found)


def places(data: AnyStr, wanted: AnyStr) -> Iterator[int]:
    """Yield where something stands in a text or in bytes."""
    at = data.find(wanted)
    while at >= 0:
        yield at
        at = data.find(wanted, at + 1)
