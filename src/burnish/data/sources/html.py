"""HTML: the text of a page as Markdown, without its navigation; headings, lists, tables and code kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.headings import headings_of, letters, with_headings
from burnish.data.sources.kinds import need
from burnish.data.sources.refusal import DAMAGED, LONGEST_ROW_BYTES, NO_TEXT, TOO_LONG, Refused, excerpt
from burnish.data.sources.spec import SourceSpec

_SMALL_CHARACTERS = 250
"""Below this trafilatura takes a page for one it did not understand, and gives all of its words without any structure."""
_ESCAPED = re.compile(r"(`[^`\n]*`)|\\([*_`~\[\]<>#+.)-])")
_LEAST_SHARE = 0.8
"""Of the letters of a small page: with less, what has structure has lost too much."""
_SAID_DATE = {"original_date": True, "extensive_search": False}
"""Only dates that the page says it is of: any other number that looks like one may be anything, a copyright for instance."""


def read_html(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the one row of a page."""
    trafilatura: Any = need("trafilatura", "trafilatura", "reading .html files", "readers")
    raw = stream.read(LONGEST_ROW_BYTES + 1)
    if len(raw) > LONGEST_ROW_BYTES:
        raise Refused(TOO_LONG, "the whole page")
    try:
        page = _extracted(trafilatura, raw, small=False)
        text = "" if page is None else _text(trafilatura, raw, page)
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
    ) as error:  # of lxml, for what is no HTML
        raise Refused(DAMAGED, f"{type(error).__name__}: {error}"[:200]) from error
    if page is None or not text:
        raise Refused(NO_TEXT, "no text besides navigation")
    value = {"text": text, "title": str(page.title or PurePosixPath(file).stem)}
    if page.date:
        value["date"] = str(page.date)
    yield RawRow(Origin(spec.shown, file, 1, 0, len(text)), value, excerpt(text))


def _text(trafilatura: Any, raw: bytes, page: Any) -> str:
    """Return what trafilatura found, with all headings; of a small page what it finds with structure, if that is most of it."""
    headings = headings_of(trafilatura.load_html(raw))
    text = with_headings(_plain(page.text), headings)
    if len(text) < 4 * _SMALL_CHARACTERS and (small := _extracted(trafilatura, raw, small=True)) is not None:
        structured = with_headings(_plain(small.text), headings)
        if len(letters(structured)) >= _LEAST_SHARE * len(letters(text)):
            return structured
    return text


def _plain(markdown: str | None) -> str:
    """Return Markdown without the backslashes before signs that it could take for its own: a text is read, not set."""
    parts = (markdown or "").split("```")
    return "```".join(part if number % 2 else _ESCAPED.sub(r"\1\2", part) for number, part in enumerate(parts))


def _extracted(trafilatura: Any, raw: bytes, *, small: bool) -> Any:
    config: Any = trafilatura.settings.use_config()
    config.set("DEFAULT", "MIN_EXTRACTED_SIZE", "1" if small else str(_SMALL_CHARACTERS))
    return trafilatura.bare_extraction(
        raw,
        output_format="python",  # its text is Markdown where formatting is included
        with_metadata=True,
        include_formatting=True,
        include_tables=True,
        include_comments=False,
        favor_recall=True,
        date_extraction_params=_SAID_DATE,
        prune_xpath=["//nav", "//footer"],
        config=config,
    )
