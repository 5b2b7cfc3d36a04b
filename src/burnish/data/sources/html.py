"""HTML: the text of a page without its navigation, tables kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.kinds import need
from burnish.data.sources.refusal import DAMAGED, LONGEST_ROW_BYTES, NO_TEXT, TOO_LONG, Refused, excerpt
from burnish.data.sources.spec import SourceSpec


def read_html(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the one row of a page."""
    trafilatura: Any = need("trafilatura", "trafilatura", "reading .html files", "readers")
    raw = stream.read(LONGEST_ROW_BYTES + 1)
    if len(raw) > LONGEST_ROW_BYTES:
        raise Refused(TOO_LONG, "the whole page")
    try:
        found = trafilatura.extract(
            raw,
            output_format="json",
            with_metadata=True,
            include_tables=True,
            include_comments=False,
            favor_recall=True,
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
    ) as error:  # of lxml, for what is no HTML
        raise Refused(DAMAGED, f"{type(error).__name__}: {error}"[:200]) from error
    page: dict[str, Any] = json.loads(found) if found else {}
    text = str(page.get("text") or "").strip()
    if not text:
        raise Refused(NO_TEXT, "no text besides navigation")
    title = str(page.get("title") or PurePosixPath(file).stem)
    value = {"text": text, "title": title}
    if page.get("date"):
        value["date"] = str(page["date"])
    yield RawRow(Origin(spec.shown, file, 1, 0, len(text)), value, excerpt(text))
