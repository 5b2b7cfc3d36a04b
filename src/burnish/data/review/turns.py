"""A row as a reviewer sees it: labelled texts, and the row again from texts that were edited."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

from burnish.core.errors import UsageError

PARTS = (("messages", ""), ("prompt", ""), ("chosen", "better "), ("rejected", "worse "))
"""Keys of a row that hold turns, and what stands before the role of each."""
LONGEST = 200_000
"""Characters of one edited text."""


def turns_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return label and text of each turn of a conversation or a preference pair."""
    return [(f"{before}{turn['role']}", str(turn.get("content") or "")) for before, turn in _turns(row)]


def problem_of_row(row: dict[str, Any]) -> str | None:
    """Return why a row cannot be used as it is; None when it can."""
    turns = turns_of(row)
    if not turns:
        return "it holds no turns"
    empty = [label for label, text in turns if not text.strip() and "system" not in label]
    calls = any("tool_calls" in turn for _, turn in _turns(row))
    return f"the {empty[0]}'s text is empty" if empty and not calls else None


def with_texts(row: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the row with other texts, one for each turn. Raises UsageError when they are too many, too few or too long."""
    new = copy.deepcopy(row)
    turns = [turn for _, turn in _turns(new)]
    if len(texts) != len(turns):
        raise UsageError(f"the row has {len(turns)} turns, and {len(texts)} texts were given")
    for turn, text in zip(turns, texts, strict=True):
        if len(text) > LONGEST:
            raise UsageError(f"a text has {len(text):,} characters; at most {LONGEST:,} are taken")
        turn["content"] = text.encode("utf-8", "replace").decode()
    return new


def _turns(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, before in PARTS:
        for turn in cast("list[dict[str, Any]]", row.get(key) or []):
            yield before, turn
