"""Counterfactual twins: rows that ask the same about somebody else, and whether they are answered the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from burnish.data.filters.groups import GROUPS
from burnish.data.filters.language import ENGLISH, UNKNOWN, languages_of
from burnish.data.filters.report import share_of, shown_text
from burnish.data.near.canonical import key64, plain
from burnish.data.near.rows import conversation
from burnish.data.spool import Spool
from burnish.text.counterfactual import Swap, swapped
from burnish.text.messages import Message

I64 = npt.NDArray[np.int64]
MOST_ROWS = 2000
"""Rows that are looked at, drawn by hash."""
EXAMPLES = 5
SURE_CHARACTERS = 40
"""From so many characters on a text's language is told rightly in 0.997 of texts (benchmarks/languages.py)."""
_AXES: dict[Swap, tuple[str, ...]] = {"gender": ("gender",), "names": ("names",)}


def swapped_messages(messages: Sequence[Message], what: Swap) -> list[Message] | None:
    """Return a conversation about somebody else; None where no request has anything to swap.

    System prompts stay, and so do calls of tools and what they return.
    """
    changed = False
    found: list[Message] = []
    for message in messages:
        new = message.copy()
        if message["role"] in ("user", "assistant"):
            new["content"] = swapped(message["content"], what)
            changed = changed or (message["role"] == "user" and new["content"] != message["content"])
        found.append(new)
    return found if changed else None


def english_of(conversations: Sequence[Sequence[Message]]) -> list[bool]:
    """Return which conversations may be swapped: all but those in other languages.

    What is too short to tell counts as what most of the conversations are.
    """
    said = ["\n".join(m["content"] for m in each if m["role"] in ("user", "assistant")) for each in conversations]
    languages = languages_of(said)
    long = np.array([len(text) >= SURE_CHARACTERS for text in said], np.bool_)
    english = languages == ENGLISH
    others = long & ~english & (languages != UNKNOWN)
    return (english if 2 * others.sum() > len(said) else ~others).tolist()


def counterfactuals(rows: Iterable[tuple[int, str]], what: Swap) -> Iterator[tuple[int, list[Message], list[Message]]]:
    """Yield number, messages and swapped messages of those rows that can be swapped. rows: numbers and messages as JSON."""
    for number, text in rows:
        messages = json.loads(text)
        if not isinstance(messages, list):  # a preference pair is no answer to be compared
            continue
        other = swapped_messages(cast(list[Message], messages), what)
        if other is not None:
            yield number, cast(list[Message], messages), other


def twins(spool: Spool, kept: I64, english: I64, what: Swap) -> dict[str, Any]:
    """Look for the twin of each kept row in English among the kept rows, and say how many twins are answered otherwise."""
    bits = sum(1 << number for number, group in enumerate(GROUPS) if group.axis in _AXES[what])
    columns = spool.columns
    named = english[columns["asked"][english] & np.uint32(bits) > 0]
    looked = np.sort(named[np.argsort(columns["position"][named], kind="stable")[:MOST_ROWS]])
    order = np.argsort(columns["request"][kept], kind="stable")
    requests = columns["request"][kept][order]
    found = others = swappable = 0
    examples: list[dict[str, Any]] = []
    for row, messages, other in counterfactuals(spool.messages(looked), what):
        swappable += 1
        text, answer = conversation(other)
        key = key64("\n".join(m["content"] for m in other if m["role"] == "system"), plain(text))
        place = int(np.searchsorted(requests, np.uint64(key)))
        if place == len(requests) or int(requests[place]) != key:
            continue
        found += 1
        twin = int(kept[order[place]])
        if int(columns["answer"][twin]) not in (key64(answer), int(columns["answer"][row])):
            others += 1
            if len(examples) < EXAMPLES:
                examples.append(_example(spool, row, twin, messages))
    return {
        "swap": what, "rows": len(named), "looked_at": len(looked), "swappable": swappable, "with_twin": found,
        "other_answer": {"rows": others, **share_of(others, found)}, "examples": examples,
    }  # fmt: skip


def _example(spool: Spool, row: int, twin: int, messages: Sequence[Message]) -> dict[str, Any]:
    ((_, text),) = spool.messages(np.array([twin]))
    other = cast(list[Message], json.loads(text))
    (file, line), (twin_file, twin_line) = spool.place(row), spool.place(twin)
    return {
        "place": f"{PurePosixPath(file).name}:{line}",
        "request": _said(messages, "user"),
        "answer": _said(messages, "assistant"),
        "twin_place": f"{PurePosixPath(twin_file).name}:{twin_line}",
        "twin_request": _said(other, "user"),
        "twin_answer": _said(other, "assistant"),
    }


def _said(messages: Sequence[Message], role: str) -> str:
    return shown_text("\n".join(m["content"] for m in messages if m["role"] == role))
