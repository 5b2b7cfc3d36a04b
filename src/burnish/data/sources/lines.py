"""JSON Lines, one line after another. A line that cannot be a row is a row with a reason."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from burnish.data.record import Origin, RawRow
from burnish.data.sources.encoding import encoding_of_bytes
from burnish.data.sources.item import BLOCK_BYTES
from burnish.data.sources.refusal import LONGEST_ROW_BYTES, TOO_LONG, Refused, excerpt
from burnish.data.sources.spec import SourceSpec
from burnish.data.sources.strict_json import parse_object

_BOM = b"\xef\xbb\xbf"


def read_jsonl(stream: BinaryIO, spec: SourceSpec, file: str, *, longest: int = LONGEST_ROW_BYTES) -> Iterator[RawRow]:
    """Yield every line. A line over `longest` bytes is skipped as one line, never held.

    A file that begins with the mark of UTF-16 or UTF-32 and a row, as Windows writes them, is read as what it is.
    """
    source = spec.shown
    number = 0
    while raw := stream.readline(longest + 1):
        number += 1
        if number == 1:
            encoding = encoding_of_bytes(raw)
            if encoding.startswith(("utf-16", "utf-32")) and raw.decode(encoding, "ignore").lstrip().startswith("{"):
                with tempfile.TemporaryFile() as copy:
                    _recode(raw, stream, encoding, cast(BinaryIO, copy))
                    yield from read_jsonl(cast(BinaryIO, copy), spec, file, longest=longest)
                return
            raw = raw.removeprefix(_BOM)
        origin = Origin(source, file, number)
        if len(raw) > longest and not raw.endswith(b"\n"):
            _skip_line(stream, longest)
            yield RawRow(origin, None, excerpt(raw), TOO_LONG)
            continue
        yield object_row(origin, raw)


def _recode(first: bytes, stream: BinaryIO, encoding: str, copy: BinaryIO) -> None:
    """Write a stream, of which `first` is read already, as UTF-8. What it cannot mean becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    block = first
    while block:
        copy.write(decoder.decode(block).encode("utf-8", "replace"))
        block = stream.read(BLOCK_BYTES)
    copy.write(decoder.decode(b"", final=True).encode("utf-8", "replace"))
    copy.seek(0)


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
