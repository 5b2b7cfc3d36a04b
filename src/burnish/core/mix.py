"""Which rows a run draws, and in which order: what the plan says of it, and the order itself as row numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from burnish.core.records import Count, Record, Share


class MixedSource(Record):
    """What a run draws from a source. `rows`, `tokens`: of its training rows; `drawn...`: over the whole run, repeats counted."""

    name: str
    rows: Count
    share: Share
    drawn: Count
    drawn_trained_tokens: Count


class MixPlan(Record):
    """How the rows of a run are drawn and ordered. With the training rows and the seed it gives the same order again.

    sources: in the order of their rows. ratios: relative weights in that order, or None for the sizes at `temperature`.
    source_stages, by, stages, staged_epochs: the curriculum; `by` None where only sources are staged or nothing is.
    """

    sources: tuple[MixedSource, ...]
    ratios: tuple[float, ...] | None = None
    temperature: float = 1.0
    epoch_rows: Count
    by: Literal["length", "difficulty"] | None = None
    stages: Count = 1
    source_stages: tuple[tuple[str, ...], ...] = ()
    staged_epochs: Count | None = None

    def __str__(self) -> str:
        return ", ".join(f"{source.name} {source.share:.0%}" for source in self.sources)


Blocks = tuple[tuple[int, ...], ...]
"""Row numbers in the order they are trained on, over all epochs; rows of one block may be packed together."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """The order of a run, and what the plan says of it. `trained_tokens` counts those with loss of every draw."""

    mix: MixPlan
    blocks: Blocks
    trained_tokens: int
