"""Which kind of file a name says it is, and what reads that kind. What reads the heavy kinds is imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from types import ModuleType
from typing import BinaryIO

from burnish.core.errors import DataError
from burnish.data.record import RawRow
from burnish.data.sources.archives import ARCHIVES
from burnish.data.sources.compression import COMPRESSIONS
from burnish.data.sources.spec import SourceSpec

Reading = Callable[[BinaryIO, SourceSpec, str], Iterator[RawRow]]
"""(stream, spec, name of the file) -> rows. The stream can go back to its beginning."""

SUFFIXES = {
    "jsonl": "jsonl", "ndjson": "jsonl", "jsonlines": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv", "tab": "tsv",
    "parquet": "parquet", "pq": "parquet", "arrow": "arrow", "xlsx": "xlsx", "xlsm": "xlsx", "txt": "txt", "text": "txt",
    "md": "md", "markdown": "md", "html": "html", "htm": "html", "xhtml": "html", "pdf": "pdf", "docx": "docx",
}  # fmt: skip
"""Suffix -> kind."""

ANY_ORDER = frozenset({"parquet", "arrow", "xlsx", "pdf", "docx"})
"""Kinds that are not read from the beginning to the end."""


def kind_of(name: str) -> tuple[str | None, str | None]:
    """(kind, compression) as the name of a file says it: `rows.csv.gz` -> ("csv", "gz"); None for what it does not say."""
    suffixes = [suffix[1:].lower() for suffix in PurePosixPath(name).suffixes]
    pressed = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    last = suffixes[-1] if suffixes else ""
    return last if last in ARCHIVES else SUFFIXES.get(last), pressed


def reading(kind: str) -> Reading:
    """What reads a kind. Raises DataError when it needs a library that is not installed."""
    module, function, libraries = _READINGS[kind]
    for library, package in libraries:
        need(library, package, f"reading .{kind} files", "readers")
    read: Reading = vars(importlib.import_module(f"burnish.data.sources.{module}"))[function]
    return read


def need(library: str, package: str, purpose: str, extra: str) -> ModuleType:
    """Import a library of an extra. Raises DataError that says what to install."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        why = (
            "which is not installed"
            if error.name == library
            else f"which does not import ({str(error).splitlines()[0]})"
        )
        raise DataError(f"{purpose} needs {package}, {why}: pip install 'burnish[{extra}]'") from error


_READINGS: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "jsonl": ("lines", "read_jsonl", ()),
    "json": ("json_files", "read_json", ()),
    "csv": ("delimited", "read_csv", ()),
    "tsv": ("delimited", "read_tsv", ()),
    "parquet": ("columnar", "read_parquet", ()),
    "arrow": ("columnar", "read_arrow", ()),
    "xlsx": ("workbook", "read_xlsx", (("openpyxl", "openpyxl"),)),
    "txt": ("prose", "read_txt", ()),
    "md": ("prose", "read_md", ()),
    "html": ("html", "read_html", (("trafilatura", "trafilatura"),)),
    "pdf": ("pdf", "read_pdf", (("pypdfium2", "pypdfium2"),)),
    "docx": ("word", "read_docx", (("docx", "python-docx"),)),
}
KINDS = (*_READINGS, *ARCHIVES)
