"""Excel workbooks: the first row of a sheet names its columns, each row after it is a row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from burnish.data.record import Origin, RawRow
from burnish.data.sources.compression import Guard, Limits
from burnish.data.sources.kinds import need
from burnish.data.sources.plain import table_row
from burnish.data.sources.refusal import BLANK, COLUMNS, DAMAGED, ENCRYPTED, HEADER, Refused
from burnish.data.sources.spec import SourceSpec

OFFICE_LIMITS = Limits(ratio=250.0, free=64 * 2**20, total=2**30)
"""A workbook or document in memory: its shared texts are held whole by the library."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def check_office(stream: BinaryIO) -> None:
    """Raise Refused for what is no Office file, has a password, or is a zip bomb; else leave the stream at its beginning."""
    begins = stream.read(8)
    if begins == _OLE:
        raise Refused(ENCRYPTED, "it has a password, or is in the old format of before 2007; save it again without")
    size = stream.seek(0, 2)
    stream.seek(0)
    guard = Guard(size, OFFICE_LIMITS)
    try:
        with zipfile.ZipFile(stream) as parts:
            for part in parts.infolist():
                guard.add(part.file_size)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Refused(DAMAGED, str(error)[:200]) from error
    stream.seek(0)


def read_xlsx(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows of each sheet, or of `spec.sheet`; `line` is the row's number in its sheet."""
    check_office(stream)
    openpyxl: Any = need("openpyxl", "openpyxl", "reading .xlsx files", "readers")
    book: Any = None
    try:
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
        names = [str(sheet.title) for sheet in book.worksheets]
        if spec.sheet is not None and spec.sheet not in names:
            raise Refused(HEADER, f"no sheet {spec.sheet!r}; it has {', '.join(names)}")
        for sheet in book.worksheets:
            if spec.sheet in (None, sheet.title):
                yield from _sheet(sheet, spec, f"{file}#{sheet.title}" if len(names) > 1 else file)
    except _BREAKS as error:
        raise Refused(DAMAGED, f"{type(error).__name__}: {error}"[:200]) from error
    finally:
        if book is not None:
            book.close()


_BREAKS = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    EOFError,
    SyntaxError,
    zipfile.BadZipFile,
)
"""What openpyxl lets out when the XML within a workbook is wrong (SyntaxError is the parser's)."""


def _sheet(sheet: Any, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    names: list[str] | None = None
    blank = 0
    for number, cells in enumerate(cast(Iterator[tuple[Any, ...]], sheet.iter_rows(values_only=True)), 1):
        if all(cell is None or cell == "" for cell in cells):
            blank += 1
            continue
        if names is None:
            names = _names(cells, spec.header)
            blank = 0
            if spec.header is not False:
                continue
        if blank:  # a run of empty rows counts once, and none counts at the end: Excel formats a million of them
            yield RawRow(Origin(spec.shown, file, number - blank), None, "", BLANK, f"{blank} empty rows")
            blank = 0
        origin = Origin(spec.shown, file, number)
        beyond = [cell for cell in cells[len(names) :] if cell is not None]
        if beyond:
            detail = f"a cell beyond the {len(names)} columns of the header"
            yield RawRow(origin, None, str(cells)[:1000], COLUMNS, detail)
            continue
        padded = (*cells, *[None] * (len(names) - len(cells)))
        yield table_row(origin, dict(zip(names, padded, strict=False)))


def _names(cells: tuple[Any, ...], header: bool | None) -> list[str]:
    if header is False:
        return [f"column_{number}" for number in range(1, len(cells) + 1)]
    while cells and cells[-1] is None:
        cells = cells[:-1]
    names = [f"column_{n}" if cell is None else str(cell).strip() for n, cell in enumerate(cells, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(HEADER, f"the column {twice!r} is named twice")
    return names
