"""The canonical form of what is compared: one spelling for texts that differ only in case, space or Unicode form."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f])"
)
"""Letters of scripts that put no space between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese): each is a word of
its own, or a whole sentence would be one word and no edit of it a near duplicate."""


def plain(text: str) -> str:
    """Return the text in Unicode form NFKC, without case, with single spaces between words and none around."""
    if text.isascii():
        text = text.lower()
        if (
            "  " in text
            or "\n" in text
            or "\t" in text
            or "\r" in text
            or not text[:1].strip()
            or not text[-1:].strip()
        ):
            return " ".join(text.split())
        return text if text.isprintable() else " ".join(text.split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_only(plain_text: str) -> bytes:
    r"""Return a plain text as UTF-8 in which exactly ASCII letters, digits, `_` and bytes from 0x80 belong to words.

    So a table of 256 entries tells words from what is between them, with the same result as the pattern `\w+`.
    """
    if not plain_text.isascii():
        plain_text = " ".join(_WORD.findall(_UNSPACED.sub(r" \1 ", plain_text)))
    return plain_text.encode("utf-8", "replace")


def plain_answer(text: str) -> str:
    """Return one spelling of an answer: of a JSON object or list its value, else its words alone."""
    value = _json(text)
    if value is not None:
        return value
    text = plain(text)
    return " ".join(_WORD.findall(text)) or text


def canonical_value(value: Any) -> str:
    """Return one spelling of a JSON value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(*parts: str) -> bytes:
    """Return 16 bytes that are equal for equal parts, and for no others that anyone will meet."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def key64(*parts: str) -> int:
    """Return the first 64 bits of the digest: what columns of all rows hold of a text."""
    return int.from_bytes(digest(*parts)[:8], "little")


def _json(text: str) -> str | None:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return canonical_value(json.loads(text))
    except (ValueError, RecursionError):
        return None
