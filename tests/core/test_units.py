"""Numbers as people read them."""

from __future__ import annotations

import pytest

from burnish.core.units import format_bytes, format_count, format_seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 * 2**30, "3.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_bytes(value: int, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3660, "1 h 1 min")]
)
def test_seconds(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(9_999, "9,999"), (134_515_008, "134.5 M"), (8_030_261_248, "8.0 B"), (12_000, "12.0 k")]
)
def test_counts(value: int, text: str) -> None:
    assert format_count(value) == text
