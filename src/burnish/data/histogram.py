"""Counts of lengths in round bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.core.artifacts import Histogram

BINS = 24


def histogram(values: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Histogram:
    """Return the counts of values in at most 24 bins of one round width (1, 2 or 5 times a power of ten).

    No values give no bins.
    """
    array = np.asarray(values, dtype=np.int64)
    if not array.size:
        return Histogram(edges=(0,), counts=())
    low, high = int(array.min()), int(array.max())
    widths = (step * 10**power for power in range(19) for step in (1, 2, 5))
    width = next(width for width in widths if high - low < width * (BINS - 1))
    first = low // width
    counts = np.bincount(array // width - first, minlength=high // width - first + 1)
    return Histogram(edges=tuple((first + i) * width for i in range(len(counts) + 1)), counts=tuple(counts.tolist()))
