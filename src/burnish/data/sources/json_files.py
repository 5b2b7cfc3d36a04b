"""A JSON file: an array of objects, or an object with one list of objects, cut into its elements as a stream.

The cut is our own and not ijson's: each element then goes through the same strict parser as a line of JSON Lines, so the
reasons are the same, a broken element costs only itself, and its place is known to the byte. It holds one element at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.encoding import json_in_utf8
from burnish.data.sources.item import BLOCK_BYTES
from burnish.data.sources.lines import object_row, read_jsonl
from burnish.data.sources.refusal import BROKEN_JSON, LONGEST_ROW_BYTES, TOO_LONG, Refused, excerpt
from burnish.data.sources.spec import SourceSpec
from burnish.data.sources.strict_json import parse_object

ROW_KEYS = frozenset(
    {"messages", "conversations", "conversation", "turns", "chosen", "rejected", "prompt", "tools", "completion"}
)
"""Lists that are a part of one row: an object with one of them is a row itself."""

_BOM = b"\xef\xbb\xbf"
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_LIST_MEMBER = re.compile(rb'\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*:\s*\[', re.DOTALL)
_BETWEEN = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\[\]{}]')


def read_json(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the objects of a JSON file; `line` counts the elements, and the span is theirs in bytes.

    A file in UTF-16 or UTF-32 with its byte order mark is read too; the spans are then those of its text in UTF-8.
    """
    with json_in_utf8(stream) as text:
        yield from _read(text, spec, file)


def _read(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    first = stream.readline(LONGEST_ROW_BYTES + 1)
    begins = first.removeprefix(_BOM).lstrip()[:1]
    while not begins and first:
        first = stream.readline(LONGEST_ROW_BYTES + 1)
        begins = first.lstrip()[:1]
    if begins == b"{" and spec.key is None and _is_lines(first, stream):
        stream.seek(0)
        yield from read_jsonl(stream, spec, file)
        return
    stream.seek(0)
    if begins == b"[":
        yield from _rows(stream, spec, file, 0)
        return
    if begins != b"{":
        raise Refused(BROKEN_JSON, "a JSON file must begin with [ or {")
    lists = _lists(stream)
    stream.seek(0)
    chosen = _chosen(lists, spec.key)
    if chosen is None:
        raw = stream.read(LONGEST_ROW_BYTES + 1)
        if len(raw) > LONGEST_ROW_BYTES:
            raise Refused(TOO_LONG, "one object, and no list in it to read")
        yield object_row(Origin(spec.shown, file, 1), raw.removeprefix(_BOM))
        return
    yield from _rows(stream, spec, file, lists[chosen])


def _is_lines(first: bytes, stream: BinaryIO) -> bool:
    """Whether a file begins with a whole object on one line and goes on after it: JSON Lines under another name."""
    try:
        parse_object(first.removeprefix(_BOM))
    except Refused:
        return False
    return bool(stream.read(4096).strip())


def _chosen(lists: dict[str, int], key: str | None) -> str | None:
    if key is not None:
        if key not in lists:
            raise Refused(BROKEN_JSON, f"no list {key!r} in it; its lists: {', '.join(sorted(lists)[:8]) or 'none'}")
        return key
    if not lists or ROW_KEYS & set(lists):
        return None
    if len(lists) > 1:
        raise Refused(BROKEN_JSON, f"{len(lists)} lists ({', '.join(sorted(lists)[:8])}); name one with `key`")
    return next(iter(lists))


@dataclass(slots=True)
class _Cutter:
    """Cuts what follows an opening bracket at its commas. `step` takes a block and says where cuts are."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def step(self, block: bytes) -> list[tuple[int, int]]:
        """The places of commas, quotes aside, on the outer level, and of its closing bracket, which is the last."""
        cuts: list[tuple[int, int]] = []
        place = 0
        while True:
            if self.in_string:
                place = self._leave_string(block, place)
                if place < 0:
                    return cuts
            found = (_INSIDE if self.depth else _BETWEEN).search(block, place)
            if found is None:
                return cuts
            place = found.end()
            sign = block[place - 1]
            if sign == 0x22:
                self.in_string = True
            elif sign in b"[{":
                self.depth += 1
            elif sign == 0x2C:
                cuts.append((place - 1, sign))
            else:
                if self.depth == 0:
                    cuts.append((place - 1, sign))
                    return cuts
                self.depth -= 1

    def _leave_string(self, block: bytes, place: int) -> int:
        if self.escaped:
            place += 1
            self.escaped = False
        rest = _STRING_REST.match(block, place)
        if rest is not None:
            self.in_string = False
            return rest.end()
        tail = block[place:]
        self.escaped = (len(tail) - len(tail.rstrip(b"\\"))) % 2 == 1
        return -1


def _pieces(stream: BinaryIO, begin: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (place, bytes, whole) of each element of the array whose first bracket is the first at or after `begin`."""
    place = _skip_to_bracket(stream, begin)
    cutter, piece, start, long = _Cutter(), bytearray(), place, False
    while block := stream.read(BLOCK_BYTES):
        done = 0
        for cut, sign in cutter.step(block):
            piece += block[done:cut]
            yield start, bytes(piece), not (long or len(piece) > LONGEST_ROW_BYTES)
            piece, long, done = bytearray(), False, cut + 1
            start = place + done
            if sign != 0x2C:
                return
        piece += block[done:]
        place += len(block)
        if len(piece) > LONGEST_ROW_BYTES + BLOCK_BYTES:
            del piece[LONGEST_ROW_BYTES:]
            long = True
    if piece.strip():
        yield start, bytes(piece), not long
    raise Refused(BROKEN_JSON, "the list does not end")


def _skip_to_bracket(stream: BinaryIO, begin: int) -> int:
    while begin > 0:
        begin_block = stream.read(min(begin, BLOCK_BYTES))
        if not begin_block:
            raise Refused(BROKEN_JSON, "it became shorter")
        begin -= len(begin_block)
    skipped = 0
    while stream.read(1) not in (b"[", b""):
        skipped += 1
    return skipped + 1


def _rows(stream: BinaryIO, spec: SourceSpec, file: str, begin: int) -> Iterator[RawRow]:
    last: tuple[int, bytes, bool] | None = None
    number = 0
    unfinished: Refused | None = None
    pieces = _pieces(stream, begin)
    while unfinished is None:
        try:
            piece = next(pieces, None)
        except Refused as refusal:
            piece, unfinished = None, refusal
        if last is not None and (
            piece is not None or last[1].strip() or number > 1
        ):  # `[]` has no element, `[1,]` an empty one
            yield _row(spec, file, number, begin, last)
        if piece is None:
            break
        number += 1
        last = piece
    if unfinished is not None:
        raise unfinished


def _row(spec: SourceSpec, file: str, number: int, begin: int, piece: tuple[int, bytes, bool]) -> RawRow:
    start, raw, whole = piece
    body = raw.strip(b" \t\r\n")
    start += begin + len(raw) - len(raw.lstrip(b" \t\r\n"))
    origin = Origin(spec.shown, file, number, start, start + len(body))
    if not whole:
        return RawRow(origin, None, excerpt(body), TOO_LONG)
    if not body:
        return RawRow(origin, None, "", BROKEN_JSON, "a comma with no element")
    return object_row(origin, body)


def _lists(stream: BinaryIO) -> dict[str, int]:
    """Key -> place of its bracket, for each list that an object holds itself."""
    lists: dict[str, int] = {}
    for start, raw, _ in _members(stream):
        named = _LIST_MEMBER.match(raw)
        if named is not None and len(lists) < 1000:
            lists[named[1].decode("utf-8", "replace")] = start + named.end() - 1
    return lists


def _members(stream: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """The members of an object, each cut after its first kilobytes: only how its value begins is needed."""
    place = 0
    while stream.read(1) not in (b"{", b""):
        place += 1
    place += 1
    cutter, piece, start = _Cutter(), bytearray(), place
    while block := stream.read(BLOCK_BYTES):
        done = 0
        for cut, sign in cutter.step(block):
            piece += block[done : min(cut, done + 4096)]
            yield start, bytes(piece[:4096]), True
            piece, done = bytearray(), cut + 1
            start = place + done
            if sign != 0x2C:
                if block[done:].strip() or stream.read(4096).strip():
                    raise Refused(BROKEN_JSON, "something follows the object; rows one after another are .jsonl")
                return
        if len(piece) < 4096:
            piece += block[done : done + 4096]
        place += len(block)
    raise Refused(BROKEN_JSON, "the object does not end")
