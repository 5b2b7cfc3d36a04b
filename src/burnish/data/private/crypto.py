"""Addresses of wallets: Bitcoin (base58check and bech32, checksums verified) and Ethereum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

_BASE58 = re.compile(r"[13][1-9A-HJ-NP-Za-km-z]{25,34}(?![A-Za-z0-9])", re.ASCII)
_BECH32 = re.compile(r"(?:bc1|BC1)[02-9ac-hj-np-zAC-HJ-NP-Z]{11,71}(?![A-Za-z0-9])", re.ASCII)
_ETHEREUM = re.compile(r"0x[0-9a-fA-F]{40}(?![A-Za-z0-9])", re.ASCII)


def wallet(text: str, start: int) -> int | None:
    """Return the end of a wallet's address that begins at `start`, or None. The caller saw that a word begins there."""
    for pattern, valid in ((_ETHEREUM, _always), (_BECH32, is_bech32), (_BASE58, is_base58check)):
        match = pattern.match(text, start)
        if match is not None and valid(match[0]):
            return match.end()
    return None


def is_base58check(address: str) -> bool:
    """Return whether the last four bytes are the double SHA-256 of the 21 before (Bitcoin, "Base58Check encoding")."""
    number = 0
    for character in address:
        number = number * 58 + BASE58.index(character)
    raw = number.to_bytes(32, "big")[-25:] if number < 1 << 200 else b""
    return len(raw) == 25 and raw[0] in (0, 5) and checksum(raw[:21]) == raw[21:]


def checksum(payload: bytes) -> bytes:
    """Return the four check bytes of Base58Check."""
    return hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]


def is_bech32(address: str) -> bool:
    """Return whether the six last characters check the rest (BIP 173 for version 0, BIP 350 from version 1 on)."""
    if address != address.lower() and address != address.upper():
        return False
    values = [BECH32.index(character) for character in address.lower()[3:]]
    return polymod(_PREFIX + values) == (1 if values[0] == 0 else BECH32M)


BECH32M = 0x2BC830A3
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PREFIX = [3, 3, 0, 2, 3]
"""The human-readable part "bc" as BIP 173 expands it."""


def polymod(values: Sequence[int]) -> int:
    """Return the remainder of BIP 173's checksum polynomial."""
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for i, term in enumerate(_GENERATOR):
            remainder ^= term if (top >> i) & 1 else 0
    return remainder


def bech32_check(values: Sequence[int]) -> list[int]:
    """Return the six check values of a version 0 address with these values (the version first)."""
    remainder = polymod([*_PREFIX, *values, 0, 0, 0, 0, 0, 0]) ^ 1
    return [(remainder >> 5 * (5 - i)) & 31 for i in range(6)]


def _always(_: str) -> bool:
    return True
