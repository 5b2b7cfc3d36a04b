"""JSON Lines, read as a stream. A line that cannot be a row comes back with the reason; nothing raises half-way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from burnish.core.errors import DataError
from burnish.core.units import format_bytes

LONGEST_LINE_BYTES = 16 * 2**20
_EXCERPT_BYTES = 16_000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line of a file: the object in it, or the reason why there is none.

    file:    as the recipe names it.
    line:    counted from 1.
    value:   the JSON object, or None.
    text:    the line as text for the ledger, cut where it is long.
    reason:  None, or why the line is not a row, in a few fixed words that can be counted.
    detail:  what exactly was wrong there.
    """

    file: str
    line: int
    value: dict[str, Any] | None
    text: str
    reason: str | None = None
    detail: str = ""


def read_lines(
    path: Path, *, longest: int = LONGEST_LINE_BYTES, at: Callable[[int], None] | None = None
) -> Iterator[RawLine]:
    """Yield every line of a file. `at` hears how many bytes are read.

    Raises DataError when the file is missing, a folder, unreadable or empty.
    """
    _check_file(path)
    done = 0
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(longest + 1):
                number += 1
                done += len(raw)
                whole = raw.endswith(b"\n") or len(raw) <= longest
                if not whole:
                    done += _skip_line(file, longest)
                yield _line(str(path), number, raw.removeprefix(_BOM) if number == 1 else raw, whole=whole)
                if at is not None:
                    at(done)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; `data` must name one file of rows (.jsonl)")
        if not path.exists():
            raise DataError(f"{path} does not exist (looked in {Path.cwd()}); `data` is relative to the working folder")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; `data` must name a file of rows (.jsonl)")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; it should hold one JSON object a line")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _skip_line(file: Any, step: int) -> int:
    skipped = 0
    while rest := file.readline(step):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def _line(file: str, number: int, raw: bytes, *, whole: bool) -> RawLine:
    excerpt = raw[:_EXCERPT_BYTES].decode("utf-8", "replace").strip("\ufeff\r\n")
    try:
        if not whole:
            raise _LineRefused(f"line over {format_bytes(LONGEST_LINE_BYTES)}")
        return RawLine(file, number, _object(raw), excerpt)
    except _LineRefused as refusal:
        return RawLine(file, number, None, excerpt, refusal.reason, refusal.detail)


class _LineRefused(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def _object(raw: bytes) -> dict[str, Any]:
    """The JSON object in one line. Raises _LineRefused with the reason why there is none."""
    if b"\0" in raw:
        raise _LineRefused("NUL byte", f"at byte {raw.index(0)}")
    try:
        text = raw.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise _LineRefused("not UTF-8", f"at byte {error.start}") from error
    if not text:
        raise _LineRefused("blank line")
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
        _check_unicode(value)
    except json.JSONDecodeError as error:
        raise _LineRefused("broken JSON", f"{error.msg} at character {error.pos}") from error
    except UnicodeEncodeError as error:
        raise _LineRefused("half a surrogate pair", f"\\u{ord(error.object[error.start]):04x}") from error
    except RecursionError as error:
        raise _LineRefused("broken JSON", "nested too deeply") from error
    except ValueError as error:  # NaN, a key given twice, a number of thousands of digits
        raise _LineRefused("broken JSON", str(error)) from error
    if not isinstance(value, dict):
        raise _LineRefused("not a JSON object", f"found {type(value).__name__}")
    return cast(dict[str, Any], value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return value


def _check_unicode(value: Any) -> None:
    """Raise UnicodeEncodeError for half a surrogate pair: no file and no tokenizer can hold one."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            key.encode()
            _check_unicode(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            _check_unicode(item)
