"""The bytes that a single token stands for, which need not be whole characters."""

from __future__ import annotations

import re
from functools import lru_cache

import tokenizers

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level() -> dict[str, int]:
    """Characters by which byte-level vocabularies write bytes (Radford et al. 2019, GPT-2's encoder.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


_BYTES = _byte_level()


def token_bytes(backend: tokenizers.Tokenizer, token_id: int) -> bytes:
    """Return the bytes of a token: byte-level vocabularies, SentencePiece with byte fallback, or plain text.

    An added token's bytes are those of its text. An id that the vocabulary does not have gives no bytes.
    """
    token = backend.id_to_token(token_id)
    if token is None:
        return b""
    added, byte_level = _kind(backend)
    if token_id in added:
        return token.encode()
    found = _BYTE.fullmatch(token)
    if found is not None:
        return bytes([int(found[1], 16)])
    if byte_level:
        return bytes(_BYTES[character] for character in token if character in _BYTES)
    return token.replace("\u2581", " ").encode()


@lru_cache(maxsize=16)
def _kind(backend: tokenizers.Tokenizer) -> tuple[frozenset[int], bool]:
    """Return the ids of added tokens, and whether the vocabulary is of bytes; the library makes both anew each time it is asked."""
    return frozenset(backend.get_added_tokens_decoder()), "ByteLevel" in repr(backend.decoder)
