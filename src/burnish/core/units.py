"""Numbers as people read them. One format for each unit, used by the terminal, the page and the errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: the loop ends at TiB")


def format_decimal(count: float) -> str:
    """16060523008 -> '16.1 GB', 538060288 -> '538 MB': in powers of 1000, three digits, as model files are told."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(size) < 999.5:
            break
        size, unit = size / 1000, larger
    digits = 0 if unit == "B" or abs(size) >= 99.95 else 1 if abs(size) >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"


_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS = {
    name: seconds
    for names, seconds in (
        ("s sec second seconds", 1), ("min m minute minutes", 60), ("h hour hours", 3600), ("d day days", 86_400),
    )
    for name in names.split()
}  # fmt: skip
_DOLLARS = {"usd": 1}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([^\W\d_]*)")
_SHOWN = 40
"""Characters of a refused value that its error repeats."""


def parse_bytes(text: str) -> int:
    """'24GB' -> 24000000000, '24GiB' -> 25769803776. Raises ValueError that says what is wrong and how to write it."""
    try:
        return max(1, round(_read_amount(text, _BYTES)))
    except ValueError as error:
        raise ValueError(
            f"{_shown(text)} is no amount of memory: {error}. Write 24GB (24e9 bytes) or 22.5GiB"
        ) from error


def parse_seconds(text: str) -> float:
    """'2h' -> 7200.0, '90min' -> 5400.0, '1h 30min' -> 5400.0. Raises ValueError that says what is wrong and how to write it."""
    parts: list[str] = re.findall(r"[0-9.]+\s*[^\W\d_]+", text)
    if "".join("".join(parts).split()) != "".join(text.split()):
        parts = []
    try:
        return sum(_read_amount(part, _SECONDS) for part in parts or [text])
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no time: {error}. Write 2h, 90min, 1h30min or 45s") from error


def parse_usd(text: str) -> float:
    """'20usd', '$20' or '20' -> 20.0. Raises ValueError that says what is wrong and how to write it."""
    bare = text.strip().removeprefix("$")
    try:
        return _read_amount(bare + "usd" if bare[-1:].isdigit() else bare, _DOLLARS)
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no amount of dollars: {error}. Write 20usd") from error


def _read_amount(text: str, units: Mapping[str, float]) -> float:
    """Return a number times its unit. Raises ValueError with the fault alone."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        below = re.fullmatch(r"-\s*\$?[0-9.]+\s*[A-Za-z]*", text.strip())
        raise ValueError(
            "it is below zero" if below else "a number is digits, with a point before parts, and then its unit"
        )
    by_name = {name.lower(): size for name, size in units.items()}
    unit = found[2].lower()
    if not unit:
        raise ValueError("it has no unit")
    if unit not in by_name:
        raise ValueError(f"{_shown(found[2])} is not among its units ({', '.join(units)})")
    amount = float(found[1]) * by_name[unit]
    if not 0 < amount < math.inf:
        raise ValueError("it must be more than zero" if amount == 0 else "so large a number cannot be counted with")
    return amount


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def format_seconds(seconds: float) -> str:
    """75 -> '1 min 15 s'; under ten seconds one decimal is kept."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_count(count: float) -> str:
    """134515008 -> '134.5 M'; below ten thousand the exact number."""
    if abs(count) < 10_000:
        return f"{count:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)):
        if abs(count) < size * 1000 or unit == "T":
            return f"{count / size:.1f} {unit}"
    raise AssertionError("unreachable: the loop ends at T")
