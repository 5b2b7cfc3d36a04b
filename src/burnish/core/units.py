"""Numbers as people read them. One format for each unit, used by the terminal, the page and the errors."""

from __future__ import annotations

import re


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: the loop ends at TiB")


_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "hours": 3600, "d": 86_400}


def _number_and_unit(text: str) -> tuple[float, str]:
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if found is None:
        raise ValueError(f"{text!r} is no number with a unit")
    return float(found[1]), found[2].lower()


def parse_bytes(text: str) -> int:
    """'24GB' -> 24000000000, '24GiB' -> 25769803776. Raises ValueError."""
    number, unit = _number_and_unit(text)
    if unit not in _BYTES or not unit or number <= 0:
        raise ValueError(f"{text!r} is no amount of memory; write 24GB (24e9 bytes) or 22.5GiB")
    return round(number * _BYTES[unit])


def parse_seconds(text: str) -> float:
    """'2h' -> 7200.0, '90min' -> 5400.0, '45s' -> 45.0. Raises ValueError."""
    number, unit = _number_and_unit(text)
    if unit not in _SECONDS or number <= 0:
        raise ValueError(f"{text!r} is no time; write 2h, 90min or 45s")
    return number * _SECONDS[unit]


def parse_usd(text: str) -> float:
    """'20usd', '$20' or '20' -> 20.0. Raises ValueError."""
    number, unit = _number_and_unit(text.strip().removeprefix("$"))
    if unit not in ("", "usd"):
        raise ValueError(f"{text!r} is no amount of dollars; write 20usd")
    return number


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
