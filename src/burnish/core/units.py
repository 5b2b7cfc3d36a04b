"""Numbers as people read them. One format for each unit, used by the terminal, the page and the errors."""

from __future__ import annotations

import math
import re


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


_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {
    name: seconds
    for names, seconds in (
        ("s sec second seconds", 1), ("m min minute minutes", 60), ("h hour hours", 3600), ("d day days", 86_400),
    )
    for name in names.split()
}  # fmt: skip


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
    """'2h' -> 7200.0, '90min' -> 5400.0, '1h 30min' -> 5400.0. Raises ValueError."""
    parts: list[str] = re.findall(r"[0-9.]+\s*[A-Za-z]+", text)
    if "".join("".join(parts).split()) != "".join(text.split()):
        parts = []
    total = 0.0
    for part in parts:
        number, unit = _number_and_unit(part)
        total += number * _SECONDS.get(unit, math.nan)
    if not total > 0:  # nan as well: a unit that is not known
        raise ValueError(f"{text!r} is no time; write 2h, 90min, 1h30min or 45s")
    return total


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
