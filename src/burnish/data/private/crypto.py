"""Addresses of wallets by their checksums: Bitcoin, Litecoin, Dogecoin, Dash, Tron, Ripple, Cardano; by shape: Ethereum, Monero."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

FIRST_LETTERS = frozenset("13LMDA9X7TrbBlas048")
"""What an address begins with."""
_VERSIONS = frozenset({0, 5, 48, 50, 30, 22, 76, 16, 65})
"""First byte of addresses: Bitcoin (0, 5), Litecoin (48, 50), Dogecoin (30, 22), Dash (76, 16), Tron (65); chainparams of each."""
_RIPPLE = str.maketrans("rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz", BASE58)
"""Ripple's order of the same letters (https://xrpl.org/docs/references/protocol/data-types/base58-encodings)."""
_BASE58 = re.compile(r"[13LMDA9X7T][1-9A-HJ-NP-Za-km-z]{25,34}(?![A-Za-z0-9])", re.ASCII)
_RIPPLE_ADDRESS = re.compile(r"r[1-9A-HJ-NP-Za-km-z]{24,34}(?![A-Za-z0-9])", re.ASCII)
_BECH32 = re.compile(
    r"(?:(?:bc|ltc|addr|stake)1[02-9ac-hj-np-z]{11,110}|(?:BC|LTC)1[02-9AC-HJ-NP-Z]{11,71})(?![A-Za-z0-9])", re.ASCII
)
_ETHEREUM = re.compile(r"0x[0-9a-fA-F]{40}(?![A-Za-z0-9])", re.ASCII)
_MONERO = re.compile(r"[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93}(?![A-Za-z0-9])", re.ASCII)


def wallet(text: str, start: int) -> int | None:
    """Return the end of a wallet's address that begins at `start`, or None. The caller saw that a word begins there."""
    for pattern, valid in _BY_FIRST.get(text[start], _BASES):
        match = pattern.match(text, start)
        if match is not None and valid(match[0]):
            return match.end()
    return None


def is_base58check(address: str) -> bool:
    """Return whether the last four bytes are the double SHA-256 of the 21 before (Bitcoin, "Base58Check encoding")."""
    return base58_version(address) is not None


def base58_version(address: str) -> int | None:
    """Return the first byte of an address of letters of `BASE58`, which says of which coin it is; None where it is none."""
    number = 0
    for character in address:
        number = number * 58 + BASE58.index(character)
    raw = number.to_bytes(25, "big") if number < 1 << 200 else b"\xff"
    return raw[0] if raw[0] in _VERSIONS and checksum(raw[:21]) == raw[21:] else None


def is_ripple(address: str) -> bool:
    """Return whether an address is Base58Check in Ripple's alphabet."""
    return is_base58check(address.translate(_RIPPLE))


def checksum(payload: bytes) -> bytes:
    """Return the four check bytes of Base58Check."""
    return hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]


def is_bech32(address: str) -> bool:
    """Return whether the six last characters check the rest (BIP 173; of Bitcoin and Litecoin BIP 350 from version 1 on)."""
    prefix, _, rest = address.lower().partition("1")
    values = [BECH32.index(character) for character in rest]
    expanded = [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]
    has_version = prefix in ("bc", "ltc")
    return polymod(expanded + values) == (BECH32M if has_version and values[0] else 1)


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


_BASES = ((_BASE58, is_base58check),)
_LETTERS = ((_BECH32, is_bech32),)
_BY_FIRST = {
    **dict.fromkeys("bBlas", _LETTERS),
    "L": (*_BASES, *_LETTERS),
    "0": ((_ETHEREUM, _always),),
    "r": ((_RIPPLE_ADDRESS, is_ripple),),
    **dict.fromkeys("48", ((_MONERO, _always),)),
}
"""Shape and check of what begins with a letter; anything else is Base58Check."""
