"""Splits that something other than a hash decides: the rows' dates; and what a file's name says of its split.

Where a near-duplicate cluster lies on both sides of such a split, its rows of the earlier side are left out: a test row never
gives way to a training row (the same rule by which leaks are removed), and moving a row against its date or its author's
word would be a lie.
"""

from __future__ import annotations

import datetime
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.splits.assign import TEST, TRAIN, VALIDATION, Shares, Sides

EMBARGO, CROSSED = -1, -2
"""Sides of rows that are left out: too near before a cut; a near duplicate of a row on a later side."""
Days = npt.NDArray[np.datetime64]
_TRAINED = {"train", "training"}
_HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "heldout"}
_SEPARATORS = re.compile(r"[^a-z]+")


def temporal(
    days: Days,
    *,
    test_from: datetime.date | None = None,
    validation_from: datetime.date | None = None,
    shares: Shares | None = None,
    embargo_days: int = 0,
    clusters: npt.NDArray[Any] | None = None,
) -> Sides:
    """Return the side of each row by its date: train, then validation, then test.

    days: datetime64[D], NaT where a row has none. The cuts are dates (a row of that date is on the later side), or follow
    from `shares`: the latest rows are tested; rows of one date stay together, so shares hold to a day's rows. Rows of the
    `embargo_days` days before a cut are left out, so that what is trained on is that much older than what is tested.

    Raises DataError when rows have no date, and when the cuts are missing, given twice or out of order.
    """
    missing = int(np.isnat(days).sum())
    if missing:
        row = int(np.isnat(days).argmax())
        raise DataError(
            f"{missing} of {len(days)} rows have no date (the first is row {row + 1}); a temporal split needs one for each. "
            "Map the column that holds it to `date` or `created_at`, or drop these rows, or split by source."
        )
    if embargo_days < 0:
        raise DataError(f"the embargo is {embargo_days} days; it must be 0 or more")
    validation, test = _cuts(days.astype("datetime64[D]"), test_from, validation_from, shares)
    days = days.astype("datetime64[D]")
    sides = np.full(len(days), TRAIN, dtype=np.int8)
    gap = np.timedelta64(embargo_days, "D")
    if validation is not None:
        sides[days >= validation] = VALIDATION
    if test is not None:
        sides[days >= test] = TEST
    for cut, later in ((validation, VALIDATION), (test, TEST)):
        if cut is not None:
            sides[(days >= cut - gap) & (days < cut) & (sides < later)] = EMBARGO
    return sides if clusters is None else without_crossing(sides, clusters)


def _cuts(
    days: Days, test_from: datetime.date | None, validation_from: datetime.date | None, shares: Shares | None
) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    dates = test_from is not None or validation_from is not None
    if dates == (shares is not None):
        raise DataError(
            "a temporal split needs either dates to cut at (test_from, validation_from) or shares, not both"
        )
    if shares is not None:
        test = _latest(days, shares.test)
        return (_latest(days, shares.test + shares.validation) if shares.validation else None), test
    if test_from is not None and validation_from is not None and validation_from >= test_from:
        raise DataError(f"validation begins on {validation_from}, not before test on {test_from}. Swap them.")
    validation, test = (None if day is None else np.datetime64(day, "D") for day in (validation_from, test_from))
    return validation, test


def _latest(days: Days, share: float) -> np.datetime64 | None:
    """Return the day from which on about this share of the rows lies; None where that is no row."""
    if not share or not len(days):
        return None
    dates, rows = np.unique(days, return_counts=True)
    held = np.cumsum(rows[::-1])[::-1]  # rows on or after each date
    best = int(np.abs(held - share * len(days)).argmin())
    return dates[best]


def is_held_out(path: str) -> bool:
    """Whether a file's name or its folder's says that its rows are held out: data/test/a.jsonl, dev-00000-of-00001.parquet."""
    name = PurePosixPath(path.replace("\\", "/"))
    words = [set(_SEPARATORS.split(part.lower())) for part in (name.name, name.parent.name)]
    return any(own & _HELD_OUT and not own & _TRAINED for own in words)


def without_crossing(sides: Sides, clusters: npt.NDArray[Any]) -> Sides:
    """Return sides in which each cluster is on its latest side only; its other rows are left out as CROSSED."""
    _, number = np.unique(clusters, return_inverse=True)
    latest = np.full(int(number.max(initial=-1)) + 1, -128, dtype=np.int8)
    np.maximum.at(latest, number, sides)
    crossed = (sides >= 0) & (sides < latest[number])
    return np.where(crossed, np.int8(CROSSED), sides)
