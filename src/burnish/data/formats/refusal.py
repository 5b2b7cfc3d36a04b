"""Why a row cannot be used: a reason in a few fixed words that can be counted, and the detail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

_LONGEST_WORD = 40


class RowRefused(Exception):
    """A row that cannot be used: the reason in a few fixed words that can be counted, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RowRefused], tuple[str, str]]:
        """Pickle by the two arguments, so that worker processes can hand a refusal back."""
        return type(self), (self.reason, self.detail)


def need_text(value: Any, key: str) -> str:
    """Return the value if it is text. Raises RowRefused."""
    if not isinstance(value, str):
        raise RowRefused("wrong type", f"{key} is {type_name(value)}, not text")
    return value


def type_name(value: Any) -> str:
    """Return the name of a JSON value's type as messages say it."""
    return "null" if value is None else type(value).__name__


def short(value: Any) -> str:
    """Return a word for a message, cut where it is long."""
    return str(value)[:_LONGEST_WORD]


def listed(words: Iterable[str], none: str = "none") -> str:
    """Return words for a message: sorted, and not more than a dozen."""
    found = sorted(short(word) for word in words)
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    return ", ".join(found[:12]) + more if found else none


def check_depth(value: Any, deepest: int = 100) -> None:
    """Raise RowRefused when lists and objects lie in each other deeper than any real row's: code that follows recurses."""
    level: list[Any] = [value]
    for _ in range(deepest):
        level = [item for parent in level if isinstance(parent, (dict, list)) for item in _items(parent)]
        if not level:
            return
    raise RowRefused("nested too deeply", f"more than {deepest} levels")


def _items(parent: Any) -> Iterable[Any]:
    return cast(dict[str, Any], parent).values() if isinstance(parent, dict) else cast(list[Any], parent)
