"""Headings of an HTML page, put back where a text that was extracted from it has lost them."""

from __future__ import annotations

import importlib
import re
from typing import Any, NamedTuple

_LEVELS = {f"h{level}": level for level in range(1, 7)}
_APART = frozenset({"nav", "footer", "aside", "script", "style", "template", "noscript", "head"})
"""What is no part of the text."""
_SIGNS = re.compile(r"[\W_]+")
_FOLLOWING = 40
"""Letters after a heading by which its place is found."""


class Heading(NamedTuple):
    """A heading: its level from 1 to 6, its words, and the letters that follow up to the next one."""

    level: int
    words: str
    follows: str


def headings_of(tree: Any) -> list[Heading]:
    """Return the headings of a page (an element of lxml) in order."""
    etree: Any = importlib.import_module("lxml.etree")
    found: list[list[Any]] = []
    walk = etree.iterwalk(tree, events=("start", "end"))
    within = 0
    for event, element in walk:
        tag = element.tag if isinstance(element.tag, str) else ""
        if event == "start":
            if tag in _APART or not tag:
                walk.skip_subtree()
            elif tag in _LEVELS:
                within += 1
                if within == 1:
                    found.append([_LEVELS[tag], " ".join(" ".join(element.itertext()).split()), ""])
            elif not within and found:
                _add(found[-1], element.text)
            continue
        if tag in _LEVELS:
            within -= 1
        if not within and found:
            _add(found[-1], element.tail)
    return [Heading(*heading) for heading in found if letters(heading[1])]


def _add(heading: list[Any], text: str | None) -> None:
    if text and len(heading[2]) < _FOLLOWING:
        heading[2] += letters(text)[:_FOLLOWING]


def with_headings(text: str, headings: list[Heading]) -> str:
    """Return Markdown with these headings, each marked by its level, where it stands or before what follows it on the page.

    A heading is put back only before text that was extracted: what heads navigation stays out.
    """
    lines = text.strip().split("\n")
    found = [letters(line) for line in lines]
    at = 0
    for place, (level, words, follows) in enumerate(headings):
        own = letters(words)
        there = next((n for n in range(at, len(lines)) if found[n] == own), None)
        if there is not None:
            if not lines[there].lstrip().startswith("#"):
                lines[there] = f"{'#' * level} {words}"
            at = there + 1
            continue
        after = headings[place + 1] if place + 1 < len(headings) else None
        follows_heading = not follows and after is not None and after.level > level  # a title, then the first part
        if after is not None and follows_heading:
            follows = letters(after.words)
        before = next((n for n in range(at, len(lines)) if _begins(found, n, follows)), None)
        if before is not None:
            if before and lines[before - 1].startswith("```"):
                before -= 1
            lines[before:before] = [f"{'#' * level} {words}", ""]
            found[before:before] = [own, ""]
            at = before + (2 if follows_heading else 3)  # what follows it is no other heading's text
    return "\n".join(lines)


def _begins(lines: list[str], at: int, follows: str) -> bool:
    """Whether lines from `at` on, as letters, begin as what follows a heading; several, since lines of code may be short."""
    if not lines[at] or len(follows) < 2:
        return False
    here = ""
    while len(here) < len(follows) and at < len(lines):
        here += lines[at]
        at += 1
    return here.startswith(follows)


def letters(text: str) -> str:
    """Return the letters and digits of a text in small letters: what is left of it in any markup."""
    return _SIGNS.sub("", text).casefold()
