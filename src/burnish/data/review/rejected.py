"""Rows that `prepare` rejected as rows to review: what a person mends comes back as a source of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, cast

from burnish.core.ids import content_id
from burnish.data.formats.keys import ANSWERS, REQUESTS
from burnish.data.formats.read import read
from burnish.data.formats.refusal import RowRefused
from burnish.data.review.reviews import Reviews
from burnish.data.synthesize.pool import Entry, read_pool, write_pool


def fill(folder: Path, rejected: Iterable[dict[str, Any]]) -> list[Entry]:
    """Put rejected rows into the pool of a folder, beside those of earlier datasets that were reviewed, and return all."""
    entries = {entry.id: entry for entry in map(_entry, rejected) if entry is not None}
    reviewed = Reviews(folder).last()
    for entry in read_pool(folder):
        if entry.id in reviewed:
            entries.setdefault(entry.id, entry)
    folder.mkdir(parents=True, exist_ok=True)
    write_pool(folder, entries.values())
    return list(entries.values())


def _entry(record: dict[str, Any]) -> Entry | None:
    """Return a rejected row for review; None for one of which nothing was written down (it is to be forgotten)."""
    text = str(record["row"])
    if not text.strip():
        return None
    place = f"{PurePosixPath(record['file']).name}:{record['line']}"
    value = _json(text)
    row = _row(value)
    shown = {"place": place} | ({} if row is not None else {"as it stands": text})
    key = content_id([record["file"], record["line"], text])[:32]
    return Entry(key, "rejected by prepare", record["reason"], str(record["detail"]), row or _sketch(value), shown)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _row(value: Any) -> dict[str, Any] | None:
    """Return the conversation or pair in a rejected row; None where there is none to be read."""
    if not isinstance(value, dict | list):
        return None
    try:
        record = read(cast("dict[str, Any] | list[Any]", value))
    except RowRefused:
        return None
    if record.text is not None or not record.messages:
        return None
    if record.chosen is not None:
        return {"prompt": list(record.messages), "chosen": list(record.chosen), "rejected": list(record.rejected or ())}
    row: dict[str, Any] = {"messages": list(record.messages)}
    if record.tools:
        row["tools"] = list(record.tools)
    return row | {key: record.meta[key] for key in ("date", "group", "license") if key in record.meta}


def _sketch(value: Any) -> dict[str, Any]:
    """Return a request and an answer to fill in, with the texts that the row has under the usual keys."""
    said = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    asked, answered = (
        next((str(said[key]) for key in keys if isinstance(said.get(key), str)), "") for keys in (REQUESTS, ANSWERS)
    )
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
