"""The brake: when a source loses more of its rows than plausible, the rule is wrong for it more often than the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import DataError
from burnish.data.near.rows import Removal, Removals, Rules
from burnish.data.near.shingle import I64

PAIRS = 10
EXCERPT = 70
Side = Callable[[int], tuple[int, str]]
"""From a row's place in order of arrival to its number and the beginning of its text."""


class Pair(NamedTuple):
    """A removal with the beginnings of both texts."""

    removal: Removal
    text: str
    kept_text: str


class Loss(NamedTuple):
    """What a source loses: its rows, those removed as exact and as similar, whether that is too many, and ten pairs if so."""

    source: str
    rows: int
    exact: int
    similar: int
    stop: bool
    pairs: tuple[Pair, ...]

    @property
    def share(self) -> float:
        """Share of the rows that are removed, 0 to 1."""
        return (self.exact + self.similar) / max(1, self.rows)


def losses(
    removals: Removals,
    places: tuple[I64, I64],
    sources: NDArray[np.uint32],
    names: Sequence[str],
    side: Side,
    rules: Rules,
) -> tuple[Loss, ...]:
    """Return what each source loses. places: those of removed and kept rows; sources: of each row, as places in names."""
    removed, kept = places
    rows = np.bincount(sources, minlength=len(names))
    kinds = removals.exact
    exact = np.bincount(sources[removed[kinds]], minlength=len(names))
    similar = np.bincount(sources[removed[~kinds]], minlength=len(names))
    found: list[Loss] = []
    for number, name in enumerate(names):
        lost = int(exact[number] + similar[number])
        stop = int(rows[number]) >= rules.stop_rows and lost > rules.stop_share * int(rows[number])
        pairs: list[Pair] = []
        if stop:
            own = np.flatnonzero(sources[removed] == number)
            # Similar rows show what the rule takes for equal; exact copies say nothing, so they only fill up.
            own = own[np.argsort(kinds[own], kind="stable")]
            own = own[: int(similar[number])] if similar[number] >= PAIRS else own[:PAIRS]
            for at in own[np.linspace(0, len(own) - 1, min(PAIRS, len(own))).astype(np.int64)].tolist():
                pairs.append(Pair(removals[at], side(int(removed[at]))[1], side(int(kept[at]))[1]))
        found.append(Loss(name, int(rows[number]), int(exact[number]), int(similar[number]), stop, tuple(pairs)))
    return tuple(found)


def check(found: Sequence[Loss], rules: Rules) -> None:
    """Raise a DataError that shows what a source would lose, for all sources that would lose too much."""
    stopped = [loss for loss in found if loss.stop]
    if stopped:
        raise DataError("\n".join(describe(loss, rules) for loss in stopped))


def describe(loss: Loss, rules: Rules) -> str:
    """Return the message about a source: how much it loses, ten pairs side by side, and what to set."""
    name = loss.source or "the data"
    lines = [
        f"{name} would lose {loss.exact + loss.similar} of {loss.rows} rows ({loss.share:.0%}) as duplicates: "
        f"{loss.exact} exact, {loss.similar} similar. More than {rules.stop_share:.0%} stops the preparation. For example:"
    ]
    for pair in loss.pairs:
        score = f"{pair.removal.kind}, {pair.removal.score:.2f}"
        lines.append(f"  row {pair.removal.row} (removed, {score})  {short(pair.text)}")
        lines.append(f"  row {pair.removal.kept} (kept)  {short(pair.kept_text)}")
    lines.append(
        "  Are these pairs duplicates? Then allow it: set stop_share for duplicates above "
        f"{loss.share:.2f}. Are they not? Raise the threshold (now {rules.threshold}), or lower template_share (now "
        f"{rules.template_share}) so that shared wording does not count."
    )
    return "\n".join(lines)


def short(text: str) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 3] + "..."
