"""PDF: a row for each page, with the text that is in it. Scans hold none and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.kinds import need
from burnish.data.sources.refusal import DAMAGED, ENCRYPTED, NO_TEXT, Refused, excerpt
from burnish.data.sources.spec import SourceSpec

_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD


def read_pdf(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the pages; `line` is the page, the span is in characters of the text of the whole document."""
    pdfium: Any = need("pypdfium2", "pypdfium2", "reading .pdf files", "readers")
    try:
        document = pdfium.PdfDocument(stream)
    except pdfium.PdfiumError as error:
        if error.err_code == _PASSWORD_ERROR:
            raise Refused(ENCRYPTED, "it has a password; save it without") from error
        raise Refused(DAMAGED, str(error)[:200]) from error
    try:
        title = str(document.get_metadata_dict().get("Title") or "").strip() or PurePosixPath(file).stem
        place = 0
        for number in range(1, len(document) + 1):
            row = _page(pdfium, document, Origin(spec.shown, file, number, place), title)
            place = row.origin.end
            yield row
    finally:
        document.close()


def _page(pdfium: Any, document: Any, origin: Origin, title: str) -> RawRow:
    try:
        page = document[origin.line - 1]
        words = page.get_textpage()
        text = str(words.get_text_range()).replace("\r\n", "\n").replace("\ufffe", "").replace("\0", "").strip()
        text = text.encode("utf-8", "replace").decode()
        words.close()
        page.close()
    except pdfium.PdfiumError as error:
        return RawRow(origin, None, "", DAMAGED, str(error)[:200])
    end = origin.start + len(text)
    origin = Origin(origin.source, origin.file, origin.line, origin.start, end)
    if not text:
        return RawRow(origin, None, "", NO_TEXT, "a scan? Its text must be recognised (OCR) first")
    return RawRow(origin, {"text": text, "title": title, "page": origin.line}, excerpt(text))
