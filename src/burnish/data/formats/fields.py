"""Texts made of a table's columns: `"{question} {context}"`, and back into the columns while nothing was changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from burnish.data.formats.refusal import RowRefused, need_text, short

Note = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One text of a record: a column, or a template that names columns in braces.

    pieces: what stands before each column, and the column's name; None after the last one.
    """

    spec: str
    pieces: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it is made of, each as often as it is named."""
        return tuple(column for _, column in self.pieces if column is not None)


def parse_field(spec: str) -> Field:
    """Read a column's name or a template. Raises ValueError for what is neither."""
    if "{" not in spec and "}" not in spec:
        return Field(spec, (("", spec),))
    pieces: list[tuple[str, str | None]] = []
    for literal, column, form, conversion in Formatter().parse(spec):
        if column == "":
            raise ValueError("braces must hold a column's name")
        if form or conversion:
            raise ValueError("a column's name in braces cannot have a format (: or !)")
        pieces.append((literal, column))
    if not any(column for _, column in pieces):
        raise ValueError("a template must name a column in braces; a fixed text for every row is the recipe's `system`")
    return Field(spec, tuple(pieces))


def fill(field: Field, row: Mapping[str, Any], note: Note) -> str:
    """Return the text of a field for one row; numbers count as text. Raises RowRefused for null and for lists.

    `note` takes how long each column's text is, and which columns were numbers.
    """
    parts: list[str] = []
    lengths: list[int] = []
    for literal, column in field.pieces:
        parts.append(literal)
        if column is not None:
            text = _text(row[column], column, note)
            parts.append(text)
            lengths.append(len(text))
    if field.columns != (field.spec,):
        note.setdefault("cuts", {})[field.spec] = tuple(lengths)
    return "".join(parts)


def empty(field: Field, text: str, note: Note) -> dict[str, Any]:
    """Return the columns that a field's text was made of. Raises RowRefused when it no longer shows which is which."""
    numbers: dict[str, str] = note.get("numbers", {})
    lengths: tuple[int, ...] | None = note.get("cuts", {}).get(field.spec)
    if lengths is None:
        return {column: _value(text, numbers.get(column)) for column in field.columns}
    values: dict[str, Any] = {}
    at = 0
    left = list(lengths)
    for literal, column in field.pieces:
        if not text.startswith(literal, at):
            raise _changed(field)
        at += len(literal)
        if column is not None:
            length = left.pop(0)
            values[column] = _value(text[at : at + length], numbers.get(column))
            at += length
    if at != len(text):
        raise _changed(field)
    return values


def _text(value: Any, column: str, note: Note) -> str:
    if value != value:
        raise RowRefused("wrong type", f"{column} is not a number, not text")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        note.setdefault("numbers", {})[column] = type(value).__name__
        return repr(value)
    return need_text(value, column)


def _value(text: str, number: str | None) -> Any:
    try:
        return text if number is None else int(text) if number == "int" else float(text)
    except ValueError:  # it became a placeholder
        return text


def _changed(field: Field) -> RowRefused:
    return RowRefused("cannot be written so", f"the text of {short(field.spec)} was changed; write it as messages")
