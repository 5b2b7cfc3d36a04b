"""Plain text and Markdown: rows of {"text", "title"}, a text for each file or a section for each heading."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from burnish.data.record import Origin, RawRow
from burnish.data.sources.encoding import encoding_of
from burnish.data.sources.front_matter import Values, front_matter
from burnish.data.sources.refusal import BLANK, NOT_UTF8, NUL, Refused, excerpt
from burnish.data.sources.spec import SourceSpec

LONGEST_PIECE_BYTES = 2**20
_HEADING = re.compile(rb" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*\r?\n?$")
_FENCE = re.compile(rb" {0,3}(```+|~~~+)")


def read_txt(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield the text; one over a mebibyte comes in pieces, cut at an empty line where there is one, else at a line."""
    title = PurePosixPath(file).stem
    piece = _Piece(1, 0)
    for line in _lines(stream):
        if len(piece.raw) + len(line) > LONGEST_PIECE_BYTES or (
            len(piece.raw) > LONGEST_PIECE_BYTES // 2 and not line.strip()
        ):
            yield from piece.rows(spec, file, title)
            piece = piece.next()
        piece.add(line)
    yield from piece.rows(spec, file, title)


def read_md(stream: BinaryIO, spec: SourceSpec, file: str) -> Iterator[RawRow]:
    """Yield each section with its heading; `title` is the path of headings down to it, `line` the line of its heading.

    Front matter is no section: each row has its title (where no heading stands above), date, language, licence and group, and
    the rest under `front_matter`.
    """
    said, lines, size, text = front_matter(_lines(stream))
    name = said.pop("title", None) or PurePosixPath(file).stem
    path: list[tuple[int, str]] = []
    piece = _Piece(1 + lines, size, said)
    fence = b""
    for line in text:
        mark = _FENCE.match(line)
        if mark is not None and (not fence or line.strip().startswith(fence)):
            fence = b"" if fence else mark[1]
        heading = None if fence else _HEADING.match(line)
        if heading is not None or len(piece.raw) + len(line) > LONGEST_PIECE_BYTES:
            yield from piece.rows(spec, file, _title(path, name))
            piece = piece.next()
        if heading is not None:
            level = len(heading[1])
            path = [(above, words) for above, words in path if above < level]
            path.append((level, heading[2].decode("utf-8", "replace")))
        piece.add(line)
    yield from piece.rows(spec, file, _title(path, name))


def _title(path: list[tuple[int, str]], name: str) -> str:
    return " > ".join(words for _, words in path if words) or name


class _Piece:
    """A text that grows by lines and knows where it began. said: what each of its rows says besides."""

    def __init__(self, line: int, start: int, said: Values | None = None) -> None:
        self.line, self.start, self.lines, self.raw, self.said = line, start, 0, bytearray(), said or {}

    def add(self, line: bytes) -> None:
        self.raw += line
        self.lines += line.endswith((b"\n", b"\r"))

    def next(self) -> _Piece:
        return _Piece(self.line + self.lines, self.start + len(self.raw), self.said)

    def rows(self, spec: SourceSpec, file: str, title: str) -> Iterator[RawRow]:
        """The row, or none when nothing was added."""
        if not self.raw:
            return
        raw = bytes(self.raw)
        origin = Origin(spec.shown, file, self.line, self.start, self.start + len(raw))
        try:
            yield RawRow(origin, {"text": _text(raw), "title": title, **self.said}, excerpt(raw))
        except Refused as refusal:
            yield RawRow(origin, None, excerpt(raw), refusal.reason, refusal.detail)


def _text(raw: bytes) -> str:
    if b"\0" in raw:
        raise Refused(NUL, f"at byte {raw.index(0)}")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff").strip()
    except UnicodeDecodeError as error:
        raise Refused(NOT_UTF8, f"at byte {error.start}") from error
    if not text:
        raise Refused(BLANK)
    return text


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of UTF-8, no longer than a quarter of a piece. A file in UTF-16 is turned into UTF-8."""
    encoding = encoding_of(stream)
    step = LONGEST_PIECE_BYTES // 4
    if encoding.startswith("utf-8"):
        rest = b""
        while line := stream.readline(step):
            line = rest + line
            rest = b"" if line.endswith(b"\n") else _half_character(line)
            yield line[: len(line) - len(rest)]
        if rest:
            yield rest
        return
    text = io.TextIOWrapper(stream, encoding=encoding, errors="strict")
    try:
        while words := text.readline(step):
            yield words.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Refused(NOT_UTF8, f"broken {encoding}") from error
    finally:
        text.detach()


def _half_character(line: bytes) -> bytes:
    """The bytes at the end that are the beginning of a character."""
    for count in range(1, min(4, len(line)) + 1):
        byte = line[-count]
        if byte < 0x80:
            return b""
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return line[-count:] if count < needed else b""
    return b""
