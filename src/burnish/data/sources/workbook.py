"""Excel workbooks: the first row of a sheet names its columns, each row after it is a row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from burnish.data.record import Origin, RawRow
from burnish.data.sources.compression import Guard, Limits
from burnish.data.sources.item import BLOCK_BYTES
from burnish.data.sources.kinds import need
from burnish.data.sources.plain import table_row
from burnish.data.sources.refusal import BLANK, COLUMNS, DAMAGED, ENCRYPTED, FORMULA, HEADER, Refused
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
    """Yield the rows of each sheet, or of `spec.sheet`; `line` is the row's number in its sheet.

    Of formulas the values are read that the program which saved the workbook computed. A row with a formula that none has
    computed, or with an error for a value, is refused: an empty cell or "#DIV/0!" would be learned as if somebody had written it.
    """
    check_office(stream)
    openpyxl: Any = need("openpyxl", "openpyxl", "reading .xlsx files", "readers")
    books: list[Any] = []
    try:
        books.append(openpyxl.load_workbook(stream, read_only=True, data_only=True))
        if _has_formulas(stream):
            books.append(openpyxl.load_workbook(stream, read_only=True, data_only=False))
        names = [str(sheet.title) for sheet in books[0].worksheets]
        if spec.sheet is not None and spec.sheet not in names:
            raise Refused(HEADER, f"no sheet {spec.sheet!r}; it has {', '.join(names)}")
        for sheets in zip(*(book.worksheets for book in books), strict=True):
            title = str(sheets[0].title)
            if spec.sheet in (None, title):
                yield from _sheet(sheets, spec, f"{file}#{title}" if len(names) > 1 else file)
    except _BREAKS as error:
        raise Refused(DAMAGED, f"{type(error).__name__}: {error}"[:200]) from error
    finally:
        for book in books:
            book.close()


def _has_formulas(stream: BinaryIO) -> bool:
    """Whether any sheet has a formula, by the beginning of its element."""
    with zipfile.ZipFile(stream) as parts:
        for name in parts.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                with parts.open(name) as part:
                    tail = b""
                    while block := part.read(BLOCK_BYTES):
                        if any(begin in tail + block for begin in (b"<f>", b"<f ", b":f>", b":f ")):
                            return True
                        tail = block[-2:]
    return False


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


def _sheet(sheets: tuple[Any, ...], spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the rows of a sheet. sheets: with values; and with formulas, where there are any."""
    for sheet in sheets:
        sheet.reset_dimensions()  # what a file says of its size is often wrong, and rows beyond it would be lost
    names: list[str] | None = None
    blank = 0
    for number, both in enumerate(
        zip(*(cast(Iterator[tuple[Any, ...]], sheet.rows) for sheet in sheets), strict=True), 1
    ):
        cells = tuple(cell.value for cell in both[0])
        unusable = _unusable(both)
        if unusable is None and all(cell is None or cell == "" for cell in cells):
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
        if unusable is not None:
            yield RawRow(origin, None, str(cells)[:1000], FORMULA, unusable)
            continue
        beyond = [cell for cell in cells[len(names) :] if cell is not None]
        if beyond:
            detail = f"a cell beyond the {len(names)} columns of the header"
            yield RawRow(origin, None, str(cells)[:1000], COLUMNS, detail)
            continue
        padded = (*cells, *[None] * (len(names) - len(cells)))
        yield table_row(origin, dict(zip(names, padded, strict=False)))


def _unusable(both: tuple[tuple[Any, ...], ...]) -> str | None:
    """What is wrong with a row's formulas, if anything. both: its cells with values, and with formulas."""
    for cell in both[0]:
        if cell.data_type == "e":
            return f"{cell.coordinate} is {cell.value}"
    for cell, formula in zip(both[0], both[-1], strict=False):
        if cell.value is None and formula.data_type == "f":
            return f"{formula.coordinate} was never computed; open the file in a spreadsheet program and save it there"
    return None


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
