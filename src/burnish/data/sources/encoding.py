"""Which encoding a text file is in: UTF-8, or what its byte order mark says. Nothing is guessed."""

from __future__ import annotations

import codecs
from typing import BinaryIO


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
