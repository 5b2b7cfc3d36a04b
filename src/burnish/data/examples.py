"""Before and after: what was changed in some rows, as people may see it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from burnish.data.private.kinds import Found
from burnish.data.private.replace import Redacted
from burnish.data.record import Origin
from burnish.data.repair import repair

MOST = 10
"""Examples of each change."""
_FIRST_LINES = 10_000
"""Of a file: later on a chunk gives one example of each change, for each is looked through for personal data."""
_NEAR, _PART = 30, 160
"""Characters shown on both sides of a change, and of the change itself."""
_LONGEST = 20_000
"""Characters of a text of which a change is kept: each is looked through for personal data, which takes time."""
_UNSEEN, _MARKS = frozenset({"Cc", "Cf", "Co", "Cn", "Zl", "Zp"}), frozenset({"Mn"})
"""Categories of Unicode that nobody sees by themselves: controls and formats; marks, which stand on the letter before."""
_LINE_ENDS = {"\r": "\\r", "\n": "\\n\n", "\t": "\t"}


class Changed(NamedTuple):
    """A change in one row: the text around it before and after, personal data as its shape."""

    file: str
    line: int
    before: str
    after: str


def shape(_: Found, value: str) -> str:
    """Write of a value what it looks like and nothing of what it says: letters as x, digits as 0."""
    return "".join("0" if sign.isdigit() else "x" if sign.isalnum() else sign for sign in value)


@dataclass(slots=True)
class Examples:
    """Keeps the first examples of each change. mask: writes personal data of a text as its shape, and counts it."""

    mask: Callable[[str], Redacted]
    found: dict[str, list[Changed]] = field(default_factory=dict[str, list[Changed]])

    def full(self, change: str, origin: Origin) -> bool:
        """Whether no more of this change is wanted, or none of this row."""
        found = self.found.get(change)
        if not found:
            return False
        last = found[-1]
        return len(found) >= (MOST if origin.line <= _FIRST_LINES else 1) or (last.file, last.line) == (
            origin.file,
            origin.line,
        )

    def add(self, change: str, origin: Origin, before: str, after: str, whole: str | None = None) -> None:
        """Keep a change of a text, unless it is enough. whole: the text after all repairs, where this is one of them.

        Where a repair uncovers personal data, the text before would show it, for nothing finds it there. So a change is kept
        only where it makes no difference whether a text is masked before or after it is repaired.
        """
        if self.full(change, origin) or len(before) > _LONGEST:
            return
        masked = [self.mask(text).text for text in (before, after)]
        if whole is None or {repair(text).text for text in masked} == {self.mask(whole).text}:
            self._keep(change, origin, *masked)

    def add_replaced(self, change: str, origin: Origin, before: str, after: str) -> None:
        """Keep what was written instead of personal data, unless it is enough. after: as it may be shown."""
        if not self.full(change, origin) and len(before) <= _LONGEST:
            self._keep(change, origin, self.mask(before).text, after)

    def add_as_it_is(self, change: str, origin: Origin, before: str, after: str) -> None:
        """Keep what holds no text of the row."""
        if not self.full(change, origin):
            self.found.setdefault(change, []).append(Changed(origin.file, origin.line, before, after))

    def _keep(self, change: str, origin: Origin, before: str, after: str) -> None:
        parts = changed_part(before, after)
        if parts is not None:
            self.found.setdefault(change, []).append(Changed(origin.file, origin.line, *parts))


def changed_part(before: str, after: str) -> tuple[str, str] | None:
    """Return the part of two texts in which they differ, with a few characters around it; signs that nobody sees as escapes.

    Marks on letters are escapes only where that is the difference. None where the texts do not differ.
    """
    if before == after:
        return None
    start = _common(before, after)
    end = min(_common(before[::-1], after[::-1]), min(len(before), len(after)) - start)
    spans = [(text, start, len(text) - end) for text in (before, after)]
    composed = {unicodedata.normalize("NFC", text[first:last]) for text, first, last in spans}
    one, other = (_shown(*span, _UNSEEN | _MARKS if len(composed) == 1 else _UNSEEN) for span in spans)
    return one, other


def _common(one: str, other: str) -> int:
    """Return how many characters two texts have in common at the beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _shown(text: str, start: int, end: int, unseen: frozenset[str]) -> str:
    """Return a part of a text with what stands around it. unseen: categories of characters to write as escapes."""
    first, last = max(0, start - _NEAR), min(len(text), end + _NEAR)
    part = _escaped(text[start:end], unseen)
    if len(part) > _PART:
        part = f"{part[: _PART - 3]}..."
    begin = ("..." if first else "") + _escaped(text[first:start], _UNSEEN)
    return begin + part + _escaped(text[end:last], _UNSEEN) + ("..." if last < len(text) else "")


def _escaped(text: str, unseen: frozenset[str]) -> str:
    return "".join(
        _LINE_ENDS.get(sign) or (_escape(sign) if unicodedata.category(sign) in unseen else sign) for sign in text
    )


def _escape(sign: str) -> str:
    number = ord(sign)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
