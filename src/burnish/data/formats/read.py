"""The door: a row read as what it is, as what it is said to be, or by what the recipe says about columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.data.formats.columns import ColumnMapping, compile_mapping
from burnish.data.formats.rows import Value, read_any, read_as
from burnish.data.record import Record


def read(
    value: Value,
    name: str | None = None,
    mapping: ColumnMapping | Mapping[str, Any] | None = None,
    *,
    merge: bool = False,
) -> Record:
    """Read one row into the canonical record.

    name:    the format, or None to tell it by the row itself.
    mapping: what the recipe says about columns; it decides alone. Compile it once for many rows.
    merge:   join turns of the same speaker that follow each other instead of refusing the row.

    Raises RowRefused with the reason, and RecipeError when the mapping itself is wrong.
    """
    if mapping is not None:
        compiled = mapping if isinstance(mapping, ColumnMapping) else compile_mapping(mapping)
        return compiled.read(value)
    return read_any(value, merge=merge) if name is None else read_as(value, name, merge=merge)
