"""Front matter of Markdown: YAML between lines of --- (Jekyll, Pandoc), or TOML between lines of +++ (Hugo), before the text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

import yaml

_FENCES = {b"---": (b"---", b"..."), b"+++": (b"+++",)}
"""What begins it, and what may end it."""
_LONGEST_BYTES = 2**16
_KEYS = {key: key for key in ("title", "date", "created_at", "group", "license", "language")} | {"lang": "language"}
REST = "front_matter"
"""Key of a row under which the other values are, so that `prepare` tells of them as it does of every key without use."""

Values = dict[str, Any]


def front_matter(lines: Iterator[bytes]) -> tuple[Values, int, int, Iterator[bytes]]:
    """Return what a text's front matter says, its lines and bytes, and the lines of the text itself.

    Values are texts, or lists of texts; what is nested deeper is left out. Without front matter, or where what looks like it is
    neither a mapping in YAML nor TOML (a rule at the top of a page, say), nothing is said, and all lines are text.
    """
    first = next(lines, None)
    if first is None:
        return {}, 0, 0, lines
    taken = [first]
    ends = _FENCES.get(first.removeprefix(b"\xef\xbb\xbf").rstrip(), ())
    size = len(first)
    while ends and size <= _LONGEST_BYTES and (line := next(lines, None)) is not None:
        taken.append(line)
        size += len(line)
        if line.rstrip() in ends:
            said = _said(b"".join(taken[1:-1]), toml=ends == _FENCES[b"+++"])
            if said is None:
                break
            return _values(said), len(taken), size, lines
    return {}, 0, 0, chain(taken, lines)


def _said(raw: bytes, *, toml: bool) -> dict[Any, Any] | None:
    try:
        text = raw.decode("utf-8")
        # The base loader makes texts of everything: a date stays as it is written.
        said: object = tomllib.loads(text) if toml else yaml.load(text, Loader=yaml.BaseLoader)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None
    return cast(dict[Any, Any], said) if isinstance(said, dict) else None


def _values(said: dict[Any, Any]) -> Values:
    values: Values = {}
    rest: Values = {}
    for key, item in said.items():
        value = _plain(item)
        if value is None or not isinstance(key, str):
            continue
        name = _KEYS.get(key.lower())
        if name is not None and isinstance(value, str) and value.strip():
            values.setdefault(name, value.strip())
        else:
            rest[key] = value
    return values | ({REST: rest} if rest else {})


def _plain(item: object) -> str | list[str] | None:
    if isinstance(item, list):
        return [str(each) for each in cast(list[object], item) if not isinstance(each, dict | list)]
    return None if isinstance(item, dict) else str(item)
