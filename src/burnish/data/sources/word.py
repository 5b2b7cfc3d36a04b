"""Word documents: a row for each section, a heading beginning one; tables as Markdown."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.kinds import need
from burnish.data.sources.refusal import DAMAGED, NO_TEXT, Refused, excerpt
from burnish.data.sources.spec import SourceSpec
from burnish.data.sources.workbook import check_office

_BREAKS = (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError, SyntaxError, zipfile.BadZipFile)


def read_docx(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the sections; `line` is the paragraph of the heading, the span is in characters of the document's text."""
    check_office(stream)
    docx: Any = need("docx", "python-docx", "reading .docx files", "readers")  # it imports docx.table itself
    try:
        blocks = list(_blocks(docx.Document(stream), docx.table.Table))
    except _BREAKS as error:  # what python-docx lets out for a broken package
        raise Refused(DAMAGED, f"{type(error).__name__}: {error}"[:200]) from error
    name = PurePosixPath(file).stem
    path: list[tuple[int, str]] = []
    section: list[str] = []
    line, place, some = 1, 0, False
    for number, (level, text) in enumerate([*blocks, (1, "")], 1):
        if level and section:
            body = "\n\n".join(section)
            title = " > ".join(words for _, words in path) or name
            origin = Origin(spec.shown, file, line, place, place + len(body))
            yield RawRow(origin, {"text": body, "title": title}, excerpt(body))
            place, section, some = place + len(body) + 2, [], True
        if level:
            line = number
            path = [*((above, words) for above, words in path if above < level), (level, text)]
        if text:
            section.append(text)
    if not some:
        raise Refused(NO_TEXT)


def _blocks(document: Any, table: type) -> Iterator[tuple[int, str]]:
    """(level of a heading or 0, text) of each paragraph and table, in order."""
    for block in document.iter_inner_content():
        if isinstance(block, table):
            yield 0, _table(block)
            continue
        style = str(block.style.name) if block.style is not None else ""
        level = int(style[-1]) if style.startswith("Heading ") and style[-1].isdigit() else int(style == "Title")
        text = str(block.text).strip()
        yield level if text else 0, text


def _table(table: Any) -> str:
    rows = [[" ".join(str(cell.text).split()).replace("|", "\\|") for cell in row.cells] for row in table.rows]
    if not rows:
        return ""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
