"""Addresses of mailboxes and machines: e-mail, IP version 4 and 6, MAC, and web addresses where they are asked for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_MOST_LOCAL = 200
"""Characters before an @ that are looked at: more than the 64 a mailbox may have, so that a longer one is none."""
_LOCAL_BACKWARDS = re.compile(r"[\w.%+-]{1,64}(?![\w.%+-])(?:'[\w.%+-]{1,64}(?![\w.%+-])){0,2}")

_ENCODED = re.compile(
    r"(?<![\w.%+-])[^\W\d_][\w.+-]{0,63}%40(?:[a-z0-9][a-z0-9-]{0,62}\.){1,8}[a-z]{2,24}(?![\w-])", re.IGNORECASE
)

_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", re.ASCII)
_VERSION = re.compile(r"(?:\bv|version|release|build|chapter|section|rev\.?|§)[ :=]{0,2}\Z", re.IGNORECASE)
_IPV6 = re.compile(r":[0-9A-Fa-f:][0-9A-Fa-f:.]{0,43}", re.ASCII)
_HEX_BEFORE = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}\Z", re.ASCII)
_NOBODY = frozenset({"127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1"})
"""Loopback, "any" and broadcast are the same on every machine."""

_MAC = re.compile(
    r"[:-](?<=(?<![\w:-])[0-9A-Fa-f]{2}[:-])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){4}(?![\w:-])"
    r"|\.(?<=(?<![\w.])[0-9A-Fa-f]{4}\.)[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![\w.])",
    re.ASCII,
)
_URL = re.compile(
    r"https?://[^\s<>\"'`{}|\\^\[\]]{3,2000}|www\.[\w-]{1,63}\.[^\s<>\"'`{}|\\^\[\]]{2,2000}", re.IGNORECASE
)
_TRAILING = ".,;:!?)*_"


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Yield where e-mail addresses begin and end."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1) if at else None
        if domain is not None:
            local = _LOCAL_BACKWARDS.match(text[max(0, at - _MOST_LOCAL) : at][::-1])
            if local is not None:
                yield at - local.end(), domain.end()
                at = domain.end() - 1
        at = text.find("@", at + 1)
    if "%40" in text:  # as addresses of pages have it
        for match in _ENCODED.finditer(text):
            yield match.span()


def ipv4(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where addresses of IP version 4 are in a run of digits and separators. A version number is none."""
    for match in _IPV4.finditer(text, start, min(len(text), end + 2)):
        first = match.start()
        if first and (text[first - 1] in ".-_" or text[first - 1].isalnum()):
            continue
        if _is_address(match[0]) and not _VERSION.search(text, max(0, first - 10), first):
            yield match.span()


def ipv6(text: str) -> Iterator[tuple[int, int]]:
    """Yield where addresses of IP version 6 begin and end; a time of day and a C++ name are none."""
    after = 0
    for match in _IPV6.finditer(text):
        before = _HEX_BEFORE.search(text, max(0, match.start() - 6), match.start())
        start = before.start() if before else match.start()
        # A name such as std::dead or a time such as 10:30:15 goes no further than this.
        if start < after or match[0].count(":") < 2 or (start and text[start - 1].isalnum()):
            continue
        value = text[start : match.end()].rstrip(".")
        value = value[:-1] if value.endswith(":") and not value.endswith("::") else value
        end = start + len(value)
        if len(value) > 4 and not text[end : end + 1].isalnum() and _is_address(value):
            after = end
            yield start, end


def macs(text: str) -> Iterator[tuple[int, int]]:
    """Yield where hardware addresses begin and end: six pairs (: or -) or three groups of four (.)."""
    for match in _MAC.finditer(text):
        start = match.start() - (4 if text[match.start()] == "." else 2)
        value = text[start : match.end()]
        if len(set(value) & set(":-")) < 2 and not value.replace(".", "").isdigit():
            yield start, match.end()


def urls(text: str) -> Iterator[tuple[int, int]]:
    """Yield where web addresses begin and end."""
    for match in _URL.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip(_TRAILING))


def _is_address(value: str) -> bool:
    if value in _NOBODY:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
