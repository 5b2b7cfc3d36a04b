"""Numbers as people read them."""

from __future__ import annotations

import re

import pytest

from burnish.core.units import (
    format_bytes,
    format_count,
    format_decimal,
    format_seconds,
    parse_bytes,
    parse_seconds,
    parse_usd,
)


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


def test_sizes_of_models_are_told_in_powers_of_1000() -> None:
    sizes = (999, 1000, 202_000, 538_060_288, 5_591_540_224, 16_060_523_008, 999_600_000)
    assert [format_decimal(size) for size in sizes] == [
        "999 B", "1.00 kB", "202 kB", "538 MB", "5.59 GB", "16.1 GB", "1.00 GB",
    ]  # fmt: skip


def test_amounts_are_read_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("24GB", "22.5 GiB", "512mb")] == [24 * 10**9, 24_159_191_040, 512 * 10**6]
    assert [parse_seconds(text) for text in ("2h", "90 min", "45s", "1.5d")] == [7200, 5400, 45, 129_600]
    assert [parse_seconds(text) for text in ("2h30m", "1 hour 30 minutes", "1d 2h")] == [9000, 5400, 93_600]
    assert [parse_usd(text) for text in ("20usd", "$20", "20", "0.5 USD")] == [20, 20, 20, 0.5]


TOO_LARGE = "9" * 400


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a number is digits"),
        ("24", "it has no unit"),
        ("GB", "a number is digits"),
        ("24GBs", "'GBs' is not among its units (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"),
        ("-1GB", "it is below zero"),
        ("0GB", "it must be more than zero"),
        ("1e3GB", "a number is digits"),
        ("24,5GB", "a number is digits"),
        ("24 G B", "a number is digits"),
        ("\u0662\u0664GB", "a number is digits"),
        (f"{TOO_LARGE}GB", "so large a number cannot be counted with"),
    ],
)
def test_what_is_no_memory_is_refused_with_its_fault_and_how_to_write_it(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"is no amount of memory: {re.escape(fault)}.*Write 24GB") as error:
        parse_bytes(text)
    assert len(str(error.value)) < 200, "a long value is cut"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a number is digits"),
        ("2", "it has no unit"),
        ("h", "a number is digits"),
        ("2 weeks", "'weeks' is not among its units (s, sec"),
        ("-2h", "it is below zero"),
        ("0h", "it must be more than zero"),
        ("2h30", "a number is digits"),
        ("1:30", "a number is digits"),
        ("h2", "a number is digits"),
        ("1h 2weeks", "'weeks' is not among its units"),
        ("1.5.h", "a number is digits"),
        (f"{TOO_LARGE}h", "so large a number"),
    ],
)
def test_what_is_no_time_is_refused_with_its_fault_and_how_to_write_it(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"is no time: {re.escape(fault)}.*Write 2h, 90min"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a number is digits"),
        ("usd", "a number is digits"),
        ("20eur", "'eur' is not among its units (usd)"),
        ("20k", "'k' is not among its units (usd)"),
        ("-5usd", "it is below zero"),
        ("-$5", "it is below zero"),
        ("$-5", "it is below zero"),
        ("0", "it must be more than zero"),
        ("$$20", "a number is digits"),
        (TOO_LARGE, "so large a number"),
    ],
)
def test_what_is_no_money_is_refused_with_its_fault_and_how_to_write_it(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"is no amount of dollars: {re.escape(fault)}.*Write 20usd"):
        parse_usd(text)
