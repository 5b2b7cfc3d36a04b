"""Numbers as people read them. One format for each unit, used by the terminal, the page and the errors."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: the loop ends at TiB")


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
