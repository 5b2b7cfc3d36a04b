"""What becomes of rows, and why: the sides they are on, the reasons for which they go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from burnish.data.filters.rules import BALANCE, RULES

I64 = npt.NDArray[np.int64]
FIRST_TASK = 3
"""Sides from here on are the tasks, in order; below are train, validation and test."""
KEPT = 0
REASONS = (
    "",
    "duplicate",
    "near duplicate",
    "duplicate of a test row",
    "near duplicate of a test row",
    "same request of a test row",
    "within the embargo before the test rows",
    "near duplicate across the date of the split",
    "forgotten",
    "semantic duplicate",
    "semantic duplicate of a test row",
    "synthetic rows are never tested",
    "made from a row that is tested or left out",
    *(f"filter: {rule.name.replace('_', ' ')}" for rule in RULES),
    f"filter: {BALANCE}",
)
DUPLICATE, NEAR, LEAKED, LEAKED_NEAR, LEAKED_REQUEST, EMBARGOED, CROSSING, FORGOTTEN = range(1, 9)
SEMANTIC, LEAKED_SEMANTIC, UNTESTABLE, MADE_FROM_TESTED = range(9, 13)
FILTERED = {name: 13 + number for number, name in enumerate([*(rule.name for rule in RULES), BALANCE])}
"""The reason for which each filter lets rows go."""
LEAKS = {"duplicate": LEAKED, "near duplicate": LEAKED_NEAR, "same request": LEAKED_REQUEST}


@dataclass(slots=True)
class Fates:
    """What becomes of each row: its side; why it goes, a place in REASONS; the row that stays instead, or -1; how alike."""

    sides: npt.NDArray[np.int16]
    reasons: npt.NDArray[np.uint8]
    twins: I64
    scores: npt.NDArray[np.float32]

    def kept(self, side: int) -> I64:
        """Return the numbers of the rows that stay on a side."""
        return np.flatnonzero((self.sides == side) & (self.reasons == KEPT))

    def leaks(self, *, semantic: bool = False) -> dict[str, int]:
        """Return how many training rows leaked from tested ones, by kind; semantic ones where they were looked for."""
        kinds = LEAKS | ({"semantic duplicate": LEAKED_SEMANTIC} if semantic else {})
        return {kind: int((self.reasons == reason).sum()) for kind, reason in kinds.items()}

    def remove(self, rows: I64, reason: int, twins: I64 | None = None) -> None:
        """Let rows go."""
        self.reasons[rows] = reason
        if twins is not None:
            self.twins[rows] = twins
