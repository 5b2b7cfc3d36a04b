"""CSV and TSV: a header, then rows of as many cells. Every cell is text; a row that does not fit is a row with a reason."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.encoding import encoding_of
from burnish.data.sources.refusal import (
    BLANK,
    BROKEN_CSV,
    COLUMNS,
    HEADER,
    LONGEST_ROW_BYTES,
    NOT_UTF8,
    NUL,
    TOO_LONG,
    Refused,
    excerpt,
)
from burnish.data.sources.spec import SourceSpec

_DELIMITERS = ",;\t|"
_SAMPLE_BYTES = 64 * 1024
_LONGEST_NAME = 80


def read_csv(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows; `line` is the line of the file where the row begins. The delimiter is found where it is not given."""
    encoding = encoding_of(stream)
    delimiter = spec.delimiter
    if delimiter is None:
        sample = stream.read(_SAMPLE_BYTES).decode(encoding, "replace")
        stream.seek(0)
        delimiter = _delimiter(sample)
    return _read(stream, spec, file, delimiter, encoding)


def read_tsv(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows of a table with tabs between its columns."""
    return _read(stream, spec, file, spec.delimiter or "\t", encoding_of(stream))


def _delimiter(sample: str) -> str:
    """The delimiter that gives the most rows the same number of columns, two or more."""

    def score(delimiter: str) -> tuple[float, int]:
        lines = sample.splitlines(keepends=True)
        rows = [row for row in csv.reader(lines[:-1] if len(lines) > 2 else lines, delimiter=delimiter) if row]
        widths = [len(row) for row in rows[:200]]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return widths.count(widths[0]) / len(widths), widths[0]

    try:
        return max(_DELIMITERS, key=score)  # the comma wins where all are equal
    except csv.Error:
        return ","


class _Lines:
    """Feeds the parser line by line, remembers the lines of the present row, and stops a row that has no end."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: list[str] = []
        self.row: list[str] = []
        self.number = 0
        self._size = 0

    def begin(self) -> None:
        self.row = []
        self._size = 0

    def again(self) -> None:
        """Give all lines of this row but the first once more: a quote that never ends must not swallow what follows."""
        rest = self.row[1:]
        self._again.extend(reversed(rest))
        self.number -= len(rest)
        del self.row[1:]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._text.readline(LONGEST_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._size += len(line)
        if len(line) > LONGEST_ROW_BYTES:
            while not line.endswith(("\n", "\r")) and (more := self._text.readline(LONGEST_ROW_BYTES)):
                line = more
            self.row.append(line[:1000])
            raise Refused(TOO_LONG)
        self.row.append(line)
        if self._size > LONGEST_ROW_BYTES:
            raise Refused(BROKEN_CSV, "a quote that does not end")
        return line


def _read(stream: BinaryIO, spec: SourceSpec, file: str, delimiter: str, encoding: str) -> Iterator[RawRow]:
    if (
        csv.field_size_limit() < LONGEST_ROW_BYTES
    ):  # the module has one limit for the process; documents need more than its 128 KiB
        csv.field_size_limit(LONGEST_ROW_BYTES + 1)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    try:
        yield from _rows(_Lines(text), spec, file, delimiter)
    except UnicodeDecodeError as error:
        raise Refused(NOT_UTF8, f"broken {encoding}") from error
    finally:
        text.detach()


def _rows(lines: _Lines, spec: SourceSpec, file: str, delimiter: str) -> Iterator[RawRow]:
    parser = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        lines.begin()
        line = lines.number + 1
        try:
            cells = next(parser, None)
            if cells is None:
                return
            raw = "".join(lines.row)
            _check(raw, cells)
            if names is None:
                names, is_header = _header(cells, spec.header)
                if is_header:
                    continue
            if len(cells) != len(names):
                raise Refused(COLUMNS, f"found {len(cells)}, the header has {len(names)}")
            row = RawRow(Origin(spec.shown, file, line), dict(zip(names, cells, strict=True)), excerpt(raw))
        except csv.Error as error:
            row = _refused(lines, spec, file, line, Refused(BROKEN_CSV, str(error)))
        except Refused as refusal:
            if refusal.reason == HEADER:
                raise
            row = _refused(lines, spec, file, line, refusal)
        yield row


def _refused(lines: _Lines, spec: SourceSpec, file: str, line: int, refusal: Refused) -> RawRow:
    if refusal.reason == BROKEN_CSV:
        lines.again()
    text = excerpt("".join(lines.row).encode("utf-8", "surrogateescape"))
    return RawRow(Origin(spec.shown, file, line), None, text, refusal.reason, refusal.detail)


def _check(raw: str, cells: Sequence[str]) -> None:
    if not cells:
        raise Refused(BLANK)
    if "\0" in raw:
        raise Refused(NUL)
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            raise Refused(NOT_UTF8, f"at character {error.start}") from error


def _header(cells: list[str], given: bool | None) -> tuple[list[str], bool]:
    """(names, whether the row was a header). A row of short, different, not numeric words is one."""
    names = [cell.strip() for cell in cells]
    words = all(name and len(name) <= _LONGEST_NAME and not _is_number(name) and "\n" not in name for name in names)
    if given is False or (given is None and (not words or len(set(names)) != len(names)) and not _looks_named(names)):
        return [f"column_{number}" for number in range(1, len(cells) + 1)], False
    names = [name or f"column_{number}" for number, name in enumerate(names, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(HEADER, f"the column {twice!r} is named twice")
    return names, True


def _looks_named(names: Sequence[str]) -> bool:
    """A header with a twin or a gap is still a header: taken for a row it would be lost in silence."""
    return all(len(name) <= 24 and name.replace("_", "").replace(" ", "").isalpha() for name in names if name) and any(
        names
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
