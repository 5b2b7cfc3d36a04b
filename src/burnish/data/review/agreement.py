"""Do two reviewers agree beyond chance: Cohen's kappa, with an interval.

Cohen 1960, "A Coefficient of Agreement for Nominal Scales": kappa = (p_o - p_e) / (1 - p_e), with p_o the share of rows on which
both say the same and p_e what that share would be if each gave their verdicts in the same numbers but at random. Its standard
error is that of Fleiss, Cohen and Everitt 1969, "Large Sample Standard Errors of Kappa and Weighted Kappa" (equation 13).
Where all rows agree, or none does, or a reviewer says the same of all rows, that error is 0 or means nothing; Wilson's interval of
p_o takes its place, with p_e as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from burnish.core.proportions import Z, wilson
from burnish.data.review.reviews import ByRow


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two reviewers: the rows both judged, the share they agree on, kappa with its 95% interval.

    kappa is None when both gave one and the same verdict throughout: there is no chance to correct for then.
    """

    reviewers: tuple[str, str]
    rows: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None


def agreements(last: ByRow) -> list[Agreement]:
    """Return the agreement of each two reviewers who judged a row in common."""
    names = sorted({reviewer for of_row in last.values() for reviewer in of_row})
    found: list[Agreement] = []
    for a, b in combinations(names, 2):
        pairs = [(of_row[a].verdict, of_row[b].verdict) for of_row in last.values() if a in of_row and b in of_row]
        if pairs:
            kappa, low, high = cohens_kappa(pairs)
            agreed = sum(one == other for one, other in pairs)
            found.append(Agreement((a, b), len(pairs), agreed, kappa, low, high))
    return found


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> tuple[float | None, float | None, float | None]:
    """Return kappa of pairs of verdicts, and the limits of its 95% interval, at most 1 and at least -1.

    Raises ValueError without a pair.
    """
    if not pairs:
        raise ValueError("kappa needs a row that both judged")
    n = len(pairs)
    names = sorted({verdict for pair in pairs for verdict in pair})
    cell = {(a, b): sum(pair == (a, b) for pair in pairs) / n for a in names for b in names}
    row = {a: sum(cell[a, b] for b in names) for a in names}
    column = {b: sum(cell[a, b] for a in names) for b in names}
    observed = sum(cell[a, a] for a in names)
    expected = sum(row[a] * column[a] for a in names)
    if math.isclose(expected, 1.0):
        return None, None, None
    kappa = (observed - expected) / (1 - expected)
    agreed = sum(a == b for a, b in pairs)
    constant = any(len(set(said)) == 1 for said in zip(*pairs, strict=True))
    if agreed in (0, n) or constant:
        share = wilson(agreed, n)
        low, high = ((limit - expected) / (1 - expected) for limit in (share.low, share.high))
    else:
        same = sum(cell[a, a] * (1 - (row[a] + column[a]) * (1 - kappa)) ** 2 for a in names)
        other = sum(cell[a, b] * (column[a] + row[b]) ** 2 for a in names for b in names if a != b) * (1 - kappa) ** 2
        variance = (same + other - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
        spread = Z * math.sqrt(max(0.0, variance))
        low, high = kappa - spread, kappa + spread
    return kappa, max(-1.0, low), min(1.0, high)
