"""Personal data replaced in a text: one function, whatever the action is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from burnish.data.private.find import find
from burnish.data.private.kinds import Found

Action = Callable[[Found, str], str]
"""What to write instead of a find, from the find and its text."""
Finder = Callable[[str], list[Found]]
"""What finds personal data in a text: `find`, a model for names, or several together."""

_ROUNDS = 4
"""Replacing a value frees its neighbours, so a text is looked at until nothing is found; in practice twice."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """The text with what was put in, and how many of each kind were replaced."""

    text: str
    counts: Counter[str]


def placeholder(item: Found, _: str) -> str:
    """Write the kind in brackets: [EMAIL]."""
    return f"[{item.kind}]"


def remove(_: Found, __: str) -> str:
    """Write nothing."""
    return ""


def redact(text: str) -> Redacted:
    """Replace all personal data that rules find by placeholders, for messages and files that people read. JSON stays JSON."""
    return replace(text)


def replace(text: str, action: Action = placeholder, finder: Finder = find, *, settles: bool | None = None) -> Redacted:
    """Replace what the finder finds by what the action writes. JSON stays JSON: a number that is replaced becomes a string.

    With `placeholder` and `remove`, and where `settles`, the result is looked at again until nothing is found in it, so that
    replacing twice changes nothing. Other actions write values that may themselves look like personal data; they see a text
    once.
    """
    counts: Counter[str] = Counter()
    again = action in (placeholder, remove) if settles is None else settles
    for _ in range(_ROUNDS if again else 1):
        found = finder(text)
        if not found:
            break
        counts.update(str(item.kind) for item in found)
        text = _rewritten(text, found, action, finder)
    return Redacted(text, counts)


def rewrite(text: str, found: Iterable[Found], change: Callable[[Found], str]) -> str:
    """Return the text with each find, in order and without overlaps, replaced by what `change` gives for it."""
    parts: list[str] = []
    after = 0
    for item in found:
        parts += (text[after : item.start], change(item))
        after = item.end
    return "".join([*parts, text[after:]])


def _rewritten(text: str, found: list[Found], action: Action, finder: Finder) -> str:
    plain = rewrite(text, found, lambda item: action(item, text[item.start : item.end]))
    if not _is_json(text) or _is_json(plain):
        return plain

    def quoted(item: Found) -> str:
        written = action(item, text[item.start : item.end])
        return written if _in_string(text, item.start) else json.dumps(written, ensure_ascii=False)

    careful = rewrite(text, found, quoted)
    if _is_json(careful):
        return careful
    # A find began inside an escape such as \\n or \\u00fc: read the values as they are meant, and write them anew.
    return json.dumps(_by_value(json.loads(text), action, finder), ensure_ascii=text.isascii())


def _by_value(value: Any, action: Action, finder: Finder) -> Any:
    if isinstance(value, str):
        return rewrite(value, finder(value), lambda item: action(item, value[item.start : item.end]))
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {_by_value(key, action, finder): _by_value(inner, action, finder) for key, inner in items}
    if isinstance(value, list):
        return [_by_value(inner, action, finder) for inner in cast(list[Any], value)]
    if isinstance(value, int | float) and not isinstance(value, bool) and finder(str(value)):
        return _by_value(str(value), action, finder)
    return value


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
