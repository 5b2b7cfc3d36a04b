"""Which encoding a text file is in: UTF-8, or what its byte order mark says. Nothing is guessed."""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Generator
from typing import BinaryIO, cast

from burnish.data.sources.item import BLOCK_BYTES
from burnish.data.sources.refusal import NOT_UTF8, Refused


def encoding_of(stream: BinaryIO) -> str:
    """The encoding, and the stream at its beginning again."""
    begins = stream.read(4)
    stream.seek(0)
    return encoding_of_bytes(begins)


def encoding_of_bytes(begins: bytes) -> str:
    """The encoding of what begins so."""
    if begins.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if begins.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8"


@contextlib.contextmanager
def json_in_utf8(stream: BinaryIO) -> Generator[BinaryIO]:
    """Give a stream of JSON at its beginning; one that begins with the mark of UTF-16 or UTF-32, as Windows writes them, as UTF-8.

    What begins with the mark and no JSON after it is no text: it is given as it is. Half a surrogate pair becomes three bytes
    that are no UTF-8, so that it costs its own row alone. Raises Refused for UTF-32 with numbers that are no characters.
    """
    begins = stream.read(4096)
    stream.seek(0)
    encoding = encoding_of_bytes(begins)
    if encoding.startswith("utf-8") or begins.decode(encoding, "ignore").lstrip()[:1] not in ("", "{", "["):
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        _recode(stream, encoding, cast(BinaryIO, copy))
        yield cast(BinaryIO, copy)


def _recode(stream: BinaryIO, encoding: str, copy: BinaryIO) -> None:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        while block := stream.read(BLOCK_BYTES):
            copy.write(decoder.decode(block).encode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise Refused(NOT_UTF8, f"broken {encoding}") from error
    if decoder.getstate()[0]:  # half a character at the end
        copy.write(b"\xff")
    copy.seek(0)
