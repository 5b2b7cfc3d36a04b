"""An answer as lines to show, each marked by how it compares with the expected one."""

from __future__ import annotations

import difflib
import enum
import json
import re
from typing import Any, NamedTuple

from burnish.evaluate.grade import Ending, Leaf, flatten, grade, parse, read_answer
from burnish.evaluate.grade import Path as LeafPath

DEEPEST = 30
"""JSON nested deeper is shown as it was written: no person reads it by its indentation."""


class Mark(enum.StrEnum):
    """How a piece of an answer compares."""

    PLAIN = "plain"
    """Nothing to compare: a brace, or text."""
    SAME = "same"
    WRONG = "wrong"
    EXTRA = "extra"
    """A field or word that is not in the expected answer."""
    MISSING = "missing"
    """A field of the expected answer that is not in this one."""


class Piece(NamedTuple):
    """A line of an answer, or a run of words. `note` says what was expected instead."""

    text: str
    mark: Mark
    note: str = ""


class Shown(NamedTuple):
    """An answer to show: what it is in a few words, its pieces, and whether they are lines of JSON or running text."""

    verdict: str
    pieces: list[Piece]
    is_json: bool


def show_answer(expected: str, answer: str) -> Shown:
    """Compare an answer with the expected one, field by field where both are JSON, else word by word."""
    graded = grade(expected, answer)
    wanted = parse(expected)
    if graded.ending is None:
        verdict = "equal to what was expected" if graded.exact else f"word F1 {graded.field_f1:.2f}"
        return Shown(verdict, _words(expected, answer), is_json=False)
    if graded.ending is not Ending.VALID:
        return Shown(NOT_VALID[graded.ending], [Piece(answer, Mark.PLAIN)] if answer.strip() else [], is_json=False)
    _, given = read_answer(answer, type(wanted))
    right = f"{graded.matched} of {graded.expected} fields right"
    too_many = len(flatten(given).keys() - flatten(wanted).keys())
    verdict = right + (f", {too_many} too many" if too_many else "")
    if max(len(path) for path in flatten(given)) > DEEPEST:
        return Shown(verdict, [Piece(answer, Mark.PLAIN)], is_json=False)
    return Shown(verdict, [*_lines(given, flatten(wanted)), *_missing(given, wanted)], is_json=True)


NOT_VALID = {
    Ending.OTHER_JSON: "JSON, but of another kind than expected",
    Ending.SURROUNDED: "not valid JSON: there is text around it",
    Ending.UNFINISHED: "not valid JSON: broken or unfinished",
    Ending.PROSE: "not JSON",
    Ending.EMPTY: "an empty answer",
}


def _lines(
    value: Any, wanted: dict[LeafPath, Leaf], path: LeafPath = (), name: str = "", comma: str = ""
) -> list[Piece]:
    """Return the lines of a parsed value, two spaces a level, each leaf marked."""
    indent = "  " * len(path)
    if not isinstance(value, dict | list) or not value:
        return [_leaf_line(indent + name + json.dumps(value, ensure_ascii=False) + comma, value, wanted, path)]
    items: list[tuple[str | int, Any]] = list(value.items() if isinstance(value, dict) else enumerate(value))
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    pieces = [Piece(indent + name + opening, Mark.PLAIN)]
    for place, (key, below) in enumerate(items):
        label = f"{json.dumps(key, ensure_ascii=False)}: " if isinstance(key, str) else ""
        pieces += _lines(below, wanted, (*path, key), label, "," if place < len(items) - 1 else "")
    return [*pieces, Piece(indent + closing + comma, Mark.PLAIN)]


def _leaf_line(text: str, value: Any, wanted: dict[LeafPath, Leaf], path: LeafPath) -> Piece:
    leaf = flatten(value)[()]
    if path in wanted:
        return Piece(text, Mark.SAME) if wanted[path] == leaf else Piece(text, Mark.WRONG, _write(wanted[path]))
    deeper = any(other[: len(path)] == path for other in wanted)
    return Piece(text, Mark.WRONG, "fields inside") if deeper else Piece(text, Mark.EXTRA)


def _missing(given: Any, wanted: Any) -> list[Piece]:
    """Return a line for each expected leaf that the answer has nothing at, nor at a place above or below it."""
    answered, expected = flatten(given), flatten(wanted)
    return [
        Piece(".".join(map(str, path)), Mark.MISSING, _write(leaf))
        for path, leaf in sorted(expected.items(), key=lambda item: tuple(map(str, item[0])))
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in answered)
    ]


def _write(leaf: Leaf) -> str:
    kind, value = leaf
    return {"dict": "{}", "list": "[]"}[str(value)] if kind == "empty" else json.dumps(value, ensure_ascii=False)


def _words(expected: str, answer: str) -> list[Piece]:
    """Return the answer as runs of words, those that are not in the expected one at that place marked."""
    wanted, given = re.findall(r"\s+|\S+", expected.strip()), re.findall(r"\s+|\S+", answer.strip())
    pieces: list[Piece] = []
    for kind, start, stop, at, end in difflib.SequenceMatcher(None, wanted, given, autojunk=False).get_opcodes():
        if kind != "equal" and wanted[start:stop]:
            pieces.append(Piece("".join(wanted[start:stop]), Mark.MISSING))
        if at < end:
            pieces.append(Piece("".join(given[at:end]), Mark.SAME if kind == "equal" else Mark.EXTRA))
    return pieces
