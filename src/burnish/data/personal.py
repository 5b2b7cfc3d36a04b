"""Personal data found by rules and replaced by typed placeholders: [EMAIL] [PHONE] [CARD] [IBAN] [SECRET].

Names and addresses of people are not found: no rule can. What looks like a price, a date or a code stays as it is, and
a JSON answer without personal data stays the same byte for byte.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from burnish.data.credentials import credentials
from burnish.data.payments import cards, ibans
from burnish.data.phones import phones

Span = tuple[int, int]

_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}(?:'[\w.%+-]{1,64}){0,2}@"
    r"(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """The text with placeholders, and how many of each type were put in."""

    text: str
    counts: Counter[str]


def emails(text: str) -> Iterator[Span]:
    """Yield where e-mail addresses begin and end."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.span()


_FINDERS: dict[str, Callable[[str], Iterable[Span]]] = {
    "SECRET": credentials,
    "EMAIL": emails,
    "IBAN": ibans,
    "CARD": cards,
    "PHONE": phones,
}
"""In this order: what one has replaced, the next no longer sees. A secret may contain an @, a card some phones."""


def redact(text: str) -> Redacted:
    """Replace personal data by placeholders. JSON stays JSON: a number that is replaced becomes a string."""
    redacted = _replace(text, quote=False)
    if redacted.counts and _is_json(text) and not _is_json(redacted.text):
        quoted = _replace(text, quote=True)
        return quoted if _is_json(quoted.text) else redacted
    return redacted


def _replace(text: str, *, quote: bool) -> Redacted:
    counts: Counter[str] = Counter()
    for kind, find in _FINDERS.items():
        spans = _merged(find(text))
        counts[kind] += len(spans)
        for start, end in reversed(spans):
            bare = quote and not _in_string(text, start)
            placeholder = f'"[{kind}]"' if bare else f"[{kind}]"
            text = text[:start] + placeholder + text[end:]
    return Redacted(text, +counts)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _in_string(text: str, at: int) -> bool:
    """Whether a place of a JSON text is inside a string: an odd number of unescaped quotes stands before it."""
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', text[:at])) % 2 == 1


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
