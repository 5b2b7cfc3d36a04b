"""Which split a row goes to.

A row's side depends on its own key and on the shares, on no other row: so it never moves when data grows. The key is the
row's own content, or the document or group it comes from. Held-out splits grow from the two ends:

    0 [ test | ................ train ................ | validation ] 2**64

so changing one share by d moves d of the rows and no others, between train and the split whose share changed.

Near-duplicate clusters never cross. A cluster lies where one of its members lies: the member that comes first in a second
order, which does not depend on the first (`mix`). Were it the member with the smallest position itself, a cluster of ten
would be tested with probability 1 - 0.9**10 = 65% at a test share of 10%. A cluster moves only when a new member comes
first in that order, with probability 1 / members, or when new members join two clusters that lie on two sides; nobody can do
better without a memory of earlier versions.

Stratified splits: the position alone holds every stratum's share within noise (standard deviation sqrt(n s (1 - s)) rows of
a stratum with n rows), and rows never move; that is the default, and `short_strata` names the strata it served badly.
`exact=True` takes the first round(n s) rows of each stratum by position instead. Then the share is right to half a row
even in a stratum of five, but about sqrt(n) rows near the boundary change sides while a stratum doubles: rows that an
older model was trained on become test rows. Choose it for data that is split once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.splits.positions import I64, U64, mix, unmix

Sides: TypeAlias = npt.NDArray[np.int8]
TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
"""Names of the sides 0, 1, 2."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of rows that are held out, from 0 to 1; train is the rest. Raises DataError when they exceed 1."""

    test: float
    validation: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("test", self.test), ("validation", self.validation)):
            if not 0.0 <= share <= 1.0:
                raise DataError(f"the {name} share is {share}; a share is from 0 to 1")
        if self.test + self.validation > 1.0 + 1e-12:
            raise DataError(f"test ({self.test}) and validation ({self.validation}) are more than all rows. Lower one.")


def assign(rows: U64, shares: Shares, *, clusters: npt.NDArray[Any] | None = None) -> Sides:
    """Return the side of each row, given the position of its key (of its own content, or of its group or document).

    clusters: a number for each row, the same for rows that must stay together; None when each key stands for itself.
    Where rows have groups as well as near duplicates, join them first: `joined(groups, clusters)`.
    """
    if clusters is not None:
        rows = cluster_positions(rows, clusters)
    sides = np.full(len(rows), TRAIN, dtype=np.int8)
    sides[_from_top(rows, shares.validation)] = VALIDATION
    sides[_from_bottom(rows, shares.test)] = TEST
    return sides


def stratified(
    rows: U64,
    strata: npt.NDArray[Any],
    shares: Shares,
    *,
    clusters: npt.NDArray[Any] | None = None,
    exact: bool = False,
) -> Sides:
    """Return the side of each row so that every stratum (rows with the same label) has the shares.

    `exact` decides between rows that never move and shares that are right to half a row: see the module's text. A cluster
    with several labels counts where its first member in the file is.
    """
    if not exact:
        return assign(rows, shares, clusters=clusters)
    size = np.ones(len(rows), dtype=np.int64)
    unit = np.arange(len(rows))
    first = unit
    if clusters is not None:
        _, first, unit, size = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
        rows = cluster_positions(rows, clusters)[first]
    _, stratum = np.unique(strata[first], return_inverse=True)
    order = np.lexsort((mix(rows), rows, stratum))
    counts = np.bincount(stratum, weights=size).astype(np.int64)
    start = np.cumsum(counts) - counts
    # A unit is held out when its middle lies within the share: half a row of error at most where units are rows.
    middle = np.cumsum(size[order]) - size[order] / 2 - start[stratum[order]]
    total = counts[stratum[order]]
    sides = np.full(len(first), TRAIN, dtype=np.int8)
    sides[order[middle >= total - shares.validation * total]] = VALIDATION
    sides[order[middle <= shares.test * total]] = TEST
    return sides[unit]


def cluster_positions(rows: U64, clusters: npt.NDArray[Any]) -> U64:
    """Return for each row the position of its cluster: that of the member that `mix` puts first."""
    _, number = np.unique(clusters, return_inverse=True)
    number = number.reshape(-1)
    first = np.full(int(number.max(initial=-1)) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(first, number, mix(rows))
    return unmix(first)[number]


def crossing(sides: Sides, clusters: npt.NDArray[Any]) -> int:
    """Return how many clusters have rows on more than one side; removed rows (sides below 0) do not count."""
    kept = sides >= 0
    _, number = np.unique(clusters[kept], return_inverse=True)
    low = np.full(int(number.max(initial=-1)) + 1, 127, dtype=np.int8)
    high = np.full(len(low), -1, dtype=np.int8)
    np.minimum.at(low, number, sides[kept])
    np.maximum.at(high, number, sides[kept])
    return int((low < high).sum())


def counts(sides: Sides) -> dict[str, int]:
    """Return the rows of each split by name."""
    return {name: int((sides == side).sum()) for side, name in enumerate(SPLITS)}


def short_strata(sides: Sides, strata: npt.NDArray[Any], shares: Shares) -> dict[str, dict[str, int]]:
    """Return the strata with a held-out share of none, or off by more than half of it, with their rows by split."""
    labels, stratum = np.unique(strata, return_inverse=True)
    rows: dict[int, I64] = {side: np.bincount(stratum[sides == side], minlength=len(labels)) for side in range(3)}
    total = sum(rows.values())
    bad = np.zeros(len(labels), dtype=np.bool_)
    for side, share in ((TEST, shares.test), (VALIDATION, shares.validation)):
        bad |= np.abs(rows[side] - share * total) > share * total / 2
    return {
        str(labels[at]): {name: int(rows[side][at]) for side, name in enumerate(SPLITS)} for at in np.flatnonzero(bad)
    }


def _from_bottom(rows: U64, share: float) -> npt.NDArray[np.bool_]:
    # 2.0**64 times a float is exact; the same boundary as `is_test`: position < share * 2**64.
    boundary = math.ceil(share * 2**64)
    return rows <= np.uint64(boundary - 1) if boundary else np.zeros(len(rows), dtype=np.bool_)


def _from_top(rows: U64, share: float) -> npt.NDArray[np.bool_]:
    boundary = math.ceil(share * 2**64)
    return rows >= np.uint64(2**64 - boundary) if boundary else np.zeros(len(rows), dtype=np.bool_)


def named(sides: Sides) -> list[str | None]:
    """Return the split's name for each row; None for a row that is in none."""
    names: Sequence[str | None] = (*SPLITS, None)
    return [names[side] if side >= 0 else None for side in sides.tolist()]
