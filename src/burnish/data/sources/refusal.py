"""Why something is not a row: a few fixed words that can be counted, and what exactly was wrong."""

from __future__ import annotations

from burnish.core.units import format_bytes

LONGEST_ROW_BYTES = 16 * 2**20
EXCERPT_BYTES = 16_000

BLANK = "blank line"
NUL = "NUL byte"
NOT_UTF8 = "not UTF-8"
BROKEN_JSON = "broken JSON"
SURROGATE = "half a surrogate pair"
NOT_AN_OBJECT = "not a JSON object"
TOO_LONG = f"line over {format_bytes(LONGEST_ROW_BYTES)}"
COLUMNS = "wrong number of columns"
BROKEN_CSV = "broken CSV"
HEADER = "unusable header"
FORMULA = "formula without a value"
BINARY = "binary value"
NO_TEXT = "no text"
UNKNOWN_KIND = "unknown kind of file"
UNREADABLE = "cannot be read"
NOT_A_FILE = "not a regular file"
EMPTY = "empty file"
NO_ROWS = "no rows"
DAMAGED = "damaged file"
ENCRYPTED = "encrypted"
BOMB = "expands too far"
CHANGED = "changed while it was read"
UNSAFE_NAME = "unsafe name in an archive"
NESTED = "archive within an archive"
LOOP = "link that leads back"

REASONS = frozenset(
    {
        BLANK, NUL, NOT_UTF8, BROKEN_JSON, SURROGATE, NOT_AN_OBJECT, TOO_LONG, COLUMNS, BROKEN_CSV, HEADER, FORMULA, BINARY,
        NO_TEXT, UNKNOWN_KIND, UNREADABLE, NOT_A_FILE, EMPTY, NO_ROWS, DAMAGED, ENCRYPTED, BOMB, CHANGED, UNSAFE_NAME, NESTED, LOOP,
    }
)  # fmt: skip
"""Every reason that a reader gives."""


class Refused(Exception):
    """This line, row or file is no row. Caught in `sources`; it never leaves it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def excerpt(raw: bytes | str) -> str:
    """The beginning of a row, for the ledger: text that can be written anywhere, of a bounded length."""
    if isinstance(raw, str):
        raw = raw[:EXCERPT_BYTES].encode("utf-8", "replace")
    return raw[:EXCERPT_BYTES].decode("utf-8", "replace").strip("\ufeff\r\n")
