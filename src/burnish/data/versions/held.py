"""The rows that a dataset holds, each with where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from burnish.core.artifacts import Manifest
from burnish.core.ids import Id
from burnish.data.pair import content_line
from burnish.data.rows import stored_rows


class Span(NamedTuple):
    """Where a row came from: source as the recipe names it, file in it, line from 1, and the span within it (0, 0 = all)."""

    source: str
    file: str
    line: int
    start: int = 0
    end: int = 0


class HeldRow(NamedTuple):
    """A row that a dataset holds; `content` is what it says, as a JSON object: messages, or a pair, and tools."""

    row_id: Id
    split: str
    span: Span
    content: str


def plain_json(value: Any) -> Any:
    """Return a value with every span as an object, and every other tuple as a list."""
    if isinstance(value, Span):
        return value._asdict()
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in cast(list[Any], value)]
    return value


def held(manifest: Manifest, root: Path) -> Iterator[HeldRow]:
    """Yield every row of a dataset, split by split, in order. Raises DataError when a file is damaged."""
    for name, split in manifest.splits.items():
        for row in stored_rows(root / split.file.path):
            content = content_line(row["messages"])
            if row["tools"] is not None:
                content = f'{content[:-1]},"tools":{row["tools"]}}}'
            span = Span(row["source_name"] or "", row["source"], row["line"], row["start"], row["end"])
            yield HeldRow(row["id"], name, span, content)
