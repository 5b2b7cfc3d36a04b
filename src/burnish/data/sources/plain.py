"""Values of tables and databases as JSON has them."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, cast

from burnish.data.record import Origin, RawRow
from burnish.data.sources.refusal import BINARY, BROKEN_JSON, SURROGATE, Refused, excerpt


def table_row(origin: Origin, cells: Mapping[str, Any]) -> RawRow:
    """A row of a table: dates as ISO text, decimals as numbers, NaN as missing. Bytes that are no text are a reason."""
    try:
        value = {str(name): plain(cell, str(name)) for name, cell in cells.items()}
        return RawRow(origin, value, excerpt(json.dumps(value, ensure_ascii=False)))
    except Refused as refusal:
        return RawRow(origin, None, "", refusal.reason, refusal.detail)
    except RecursionError:
        return RawRow(origin, None, "", BROKEN_JSON, "nested too deeply")


def plain(cell: Any, name: str) -> Any:
    """One value. Raises Refused naming the column."""
    if cell is None or isinstance(cell, (bool, int)):
        return cell
    if isinstance(cell, str):
        return _text(cell, name)
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, Decimal):
        return _number(cell)
    if isinstance(cell, (datetime.datetime, datetime.date, datetime.time)):
        return cell.isoformat()
    if isinstance(cell, (datetime.timedelta, uuid.UUID)):
        return str(cell)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return _bytes(bytes(cast(bytes, cell)), name)
    if isinstance(cell, Mapping):
        items = cast(Mapping[Any, Any], cell).items()
        return {str(key): plain(item, name) for key, item in items}
    if isinstance(cell, (Sequence, Set)):
        return [plain(item, name) for item in cast(Sequence[Any], cell)]
    return str(cell)


def _text(cell: str, name: str) -> str:
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise Refused(SURROGATE, f"column {name!r}") from error
    return cell


def _bytes(cell: bytes, name: str) -> str:
    try:
        text = cell.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(BINARY, f"column {name!r}; leave it out with `columns`") from error
    if "\0" in text:
        raise Refused(BINARY, f"column {name!r}; leave it out with `columns`")
    return text


def _number(cell: Decimal) -> int | float | str | None:
    """A whole number, a float where it says the same, or the digits as text."""
    if not cell.is_finite():
        return None
    if cell == cell.to_integral_value() and abs(cell) < 10**18:
        return int(cell)
    number = float(cell)
    return number if Decimal(repr(number)) == cell else str(cell)
