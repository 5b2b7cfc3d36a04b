"""JSON Lines, one line after another. A line that cannot be a row is a row with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.encoding import json_in_utf8
from burnish.data.sources.refusal import LONGEST_ROW_BYTES, TOO_LONG, Refused, excerpt
from burnish.data.sources.spec import SourceSpec
from burnish.data.sources.strict_json import parse_object

_BOM = b"\xef\xbb\xbf"


def read_jsonl(stream: BinaryIO, spec: SourceSpec, file: str, *, longest: int = LONGEST_ROW_BYTES) -> Iterator[RawRow]:
    """Yield every line. A line over `longest` bytes is skipped as one line, never held.

    A file that begins with the mark of UTF-16 or UTF-32 and a row, as Windows writes them, is read as what it is.
    """
    with json_in_utf8(stream) as lines:
        yield from _lines(lines, spec, file, longest)


def _lines(stream: BinaryIO, spec: SourceSpec, file: str, longest: int) -> Iterator[RawRow]:
    source = spec.shown
    number = 0
    while raw := stream.readline(longest + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(_BOM)
        origin = Origin(source, file, number)
        if len(raw) > longest and not raw.endswith(b"\n"):
            _skip_line(stream, longest)
            yield RawRow(origin, None, excerpt(raw), TOO_LONG)
            continue
        yield object_row(origin, raw)


def object_row(origin: Origin, raw: bytes) -> RawRow:
    """The row of one JSON object as it stands in a file."""
    try:
        return RawRow(origin, parse_object(raw), excerpt(raw))
    except Refused as refusal:
        return RawRow(origin, None, excerpt(raw), refusal.reason, refusal.detail)


def _skip_line(stream: BinaryIO, step: int) -> None:
    while rest := stream.readline(step):
        if rest.endswith(b"\n"):
            return
