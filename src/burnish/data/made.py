"""Rows that a model wrote: how they say so, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from burnish.core.recipe_data import SYNTHETIC
from burnish.data.record import Record

UNSAID = "synthetic"
"""The kind of a row that says no more than that it is synthetic."""
LONGEST = 200
TEACHER = "teacher"
_NO = ("", "0", "false", "no", "none")
_YES = ("1", "1.0", "true", "yes")


@dataclass(frozen=True, slots=True)
class Made:
    """How a synthetic row was made: the kind of making, the model, and the hash of the words of the row it came from (0: none)."""

    kind: str
    teacher: str | None
    parent: int


def take_made(record: Record) -> tuple[Record, Made | None]:
    """Return the record without its key `synthetic`, and what that key says; None where the row is not synthetic.

    A table says it with a word or a number, so "false", "no" and 0 stand for no. Another word is the kind, and a column `teacher`
    beside it says which model: so an exported dataset reads as it was.
    """
    if SYNTHETIC not in record.unused:
        return record, None
    said = record.unused[SYNTHETIC]
    word = str(said).strip().lower()
    no = not said or word in _NO
    about: dict[str, Any] = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    taken = {SYNTHETIC}
    if isinstance(said, str) and not no and word not in _YES:
        about = {"kind": said, "teacher": record.unused.get(TEACHER)}
        taken.add(TEACHER)
    unused = {key: value for key, value in record.unused.items() if key not in taken}
    record = replace(record, meta={**record.meta, "unused": unused})
    if no:
        return record, None
    return record, Made(_text(about.get("kind")) or UNSAID, _text(about.get("teacher")), _hash(about.get("parent")))


def _text(value: Any) -> str | None:
    return value[:LONGEST] if isinstance(value, str) and value.strip() else None


def _hash(value: Any) -> int:
    """Return the 64 bits that 16 hexadecimal digits stand for; 0 for anything else."""
    if not isinstance(value, str) or len(value) != 16:
        return 0
    try:
        return int(value, 16)
    except ValueError:
        return 0
