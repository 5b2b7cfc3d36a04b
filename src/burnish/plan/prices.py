"""What GPUs cost by the hour: a dated table, which a file of the user's overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard, cast

from burnish.core.artifacts import Interval
from burnish.core.errors import Problem, RecipeError, did_you_mean

WIDER_A_QUARTER = 0.1
"""By how much a band of prices widens on each side for each 91 days of age: they fell by about that much in 2025 and 2026."""
QUARTER_DAYS = 91
OLD_DAYS = 180
"""Prices older than this are said to be old."""
PAGE = "docs/plan.md"
ROW_KEYS = ("gpu", "provider", "usd_per_hour", "date", "spot", "source", "undated")
MOST_USD = 1e6
"""Dollars an hour, and any other rate, beyond which a number is a slip of the pen."""
RATES = ("usd_per_kwh", "usd_per_gb_month", "spot_interruptions_per_hour", "spot_restart_seconds")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for one GPU and hour at one provider, from `low` to `high`. `undated`: the date is that of the file it is from."""

    gpu: str
    provider: str
    low: float
    high: float
    spot: bool
    source: str
    date: date
    undated: bool = False


@dataclass(frozen=True, slots=True)
class Prices:
    """The table. `rates` are the single numbers beside it, by the names of RATES."""

    rows: tuple[Price, ...]
    rates: dict[str, float]

    def of(self, gpu: str, *, spot: bool) -> list[Price]:
        """Return the rows of one GPU, on demand or spot."""
        return [row for row in self.rows if row.gpu == gpu and row.spot == spot]

    def per_hour(self, gpu: str, today: date, *, spot: bool = False) -> tuple[Interval, str] | None:
        """Return dollars an hour, cheapest, median and dearest provider, wider by their age, and where they come from.

        None when no row tells a price.
        """
        rows = sorted(self.of(gpu, spot=spot), key=lambda row: row.low + row.high)
        if not rows:
            return None
        middle = rows[len(rows) // 2]
        lows, highs = ([_aged(row, today, up=up) for row in rows] for up in (False, True))
        oldest = max((today - row.date).days for row in rows)
        low, high = min(row.low for row in rows), max(row.high for row in rows)
        source = f"{low:g} USD" if low == high else f"{low:g} to {high:g} USD"
        source += f" an hour at {_providers(rows, middle)}"
        if oldest > OLD_DAYS:
            source += f"; some are {oldest} days old and widen the band: give your own with --prices"
        return Interval(low=min(lows), mid=(middle.low + middle.high) / 2, high=max(highs)), source


def _providers(rows: Sequence[Price], middle: Price) -> str:
    """Say who asks the prices, and whose is taken as the middle one."""
    if len(rows) == 1:
        return f"{middle.provider} of {middle.date.isoformat()}"
    names = ", ".join(dict.fromkeys(row.provider for row in rows))
    return f"{len(rows)} providers ({names}); the middle is {middle.provider}'s of {middle.date.isoformat()}"


def _aged(row: Price, today: date, *, up: bool) -> float:
    wider = 1 + WIDER_A_QUARTER * max(0, (today - row.date).days) / QUARTER_DAYS
    return row.high * wider if up else row.low / wider


def read_prices(path: Path | None = None) -> Prices:
    """Return the bundled table, with the rows and rates of a user's file in place of those that it names.

    A row replaces all bundled ones of its GPU. Raises RecipeError with every problem of the file at once.
    """
    bundled = _bundled()
    if path is None:
        return bundled
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        wrong = Problem("prices", str(path), f"cannot be read as JSON: {error}")
        raise RecipeError(str(path), [wrong], PAGE) from error
    own = _parse(value, str(path))
    taken = {(row.gpu, row.spot) for row in own.rows}
    kept = tuple(row for row in bundled.rows if (row.gpu, row.spot) not in taken)
    return replace(bundled, rows=kept + own.rows, rates=bundled.rates | own.rates)


@cache
def _bundled() -> Prices:
    table = resources.files("burnish.plan").joinpath("prices.json").read_text(encoding="utf-8")
    return _parse(json.loads(table), "")


def _parse(value: Any, source: str) -> Prices:
    if not isinstance(value, dict):
        raise RecipeError(source, [Problem("prices", type(value).__name__, "must be a JSON object.")], PAGE)
    table = cast("dict[str, Any]", value)
    problems: list[Problem] = []
    rates = {name: _rate(table[name], name, problems) for name in RATES if name in table}
    for name in table.keys() - {"gpus", *RATES}:
        problems.append(Problem(name, "", f"unknown key. Known: gpus, {', '.join(RATES)}.{did_you_mean(name, RATES)}"))
    rows: list[Price] = []
    given = table.get("gpus", [])
    for index, row in enumerate(cast("list[Any]", given) if isinstance(given, list) else [given]):
        price = _row(row, f"gpus[{index}]", problems)
        if price is not None:
            rows.append(price)
    if problems:
        raise RecipeError(source or "prices.json", problems, PAGE)
    return Prices(tuple(rows), rates)


def _rate(value: Any, name: str, problems: list[Problem]) -> float:
    number = cast("dict[str, Any]", value).get("value") if isinstance(value, dict) else value
    if not _is_amount(number):
        problems.append(
            Problem(name, repr(number), f"must be a number from 0 to {MOST_USD:,.0f}, or {{value, source, date}}.")
        )
        return 0.0
    return float(number)


def _is_amount(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_USD


def _row(value: Any, where: str, problems: list[Problem]) -> Price | None:
    from burnish.plan.gpus import gpus, named_gpu

    if not isinstance(value, dict):
        problems.append(Problem(where, repr(value), "must be an object with gpu and usd_per_hour."))
        return None
    row, before = cast("dict[str, Any]", value), len(problems)
    for name in row.keys() - set(ROW_KEYS):
        says = f"unknown key. Known: {', '.join(ROW_KEYS)}.{did_you_mean(name, ROW_KEYS)}"
        problems.append(Problem(f"{where}.{name}", repr(row[name]), says))
    gpu, hourly, day = row.get("gpu"), row.get("usd_per_hour"), row.get("date")
    found = named_gpu(str(gpu))
    if found is None:
        names = ", ".join(each.name for each in gpus())
        problems.append(Problem(f"{where}.gpu", repr(gpu), f"is no GPU that is known. Known: {names}."))
    ends: list[Any] = cast("list[Any]", hourly) if isinstance(hourly, list) else [hourly, hourly]
    span = sorted(float(end) for end in ends if _is_amount(end))
    if len(ends) != 2 or len(span) != 2:
        problems.append(
            Problem(
                f"{where}.usd_per_hour",
                repr(row.get("usd_per_hour")),
                "must be a price of 0 or more, or [lowest, highest].",
            )
        )
    try:
        dated = date.fromisoformat(str(day))
    except ValueError:
        dated = date.min
        problems.append(Problem(f"{where}.date", repr(day), "must be the day of the price, such as 2026-11-24."))
    for name in ("spot", "undated"):
        if not isinstance(row.get(name, False), bool):
            problems.append(Problem(f"{where}.{name}", repr(row[name]), "must be true or false."))
    if len(problems) > before or found is None:
        return None
    provider, source = (str(row.get(name) or "your file") for name in ("provider", "source"))
    return Price(found.name, provider, span[0], span[1], bool(row.get("spot")), source, dated, bool(row.get("undated")))
