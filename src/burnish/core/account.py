"""The account of tokens: where each one went, by source. The sums match, or there is no account.

    tokens in = trained + masked + truncated + dropped

Trained tokens have loss; masked ones are computed without loss (what the user and the system said); truncated ones were cut
from a row that stays; dropped ones belong to rows that did not stay, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import model_validator

from burnish.core.records import Count, Histogram, Record


class SourceTokens(Record):
    """The tokens of one source. Rows and tokens that came in are those that stayed and those dropped."""

    rows_in: Count
    rows_kept: Count
    tokens_in: Count
    trained: Count
    masked: Count
    truncated: Count
    dropped: dict[str, Count]
    dropped_rows: dict[str, Count]

    @model_validator(mode="after")
    def _balances(self) -> SourceTokens:
        out = self.trained + self.masked + self.truncated + sum(self.dropped.values())
        if self.tokens_in != out:
            raise ValueError(
                f"tokens in ({self.tokens_in}) is not trained ({self.trained}) + masked ({self.masked}) + truncated "
                f"({self.truncated}) + dropped ({sum(self.dropped.values())}) = {out}"
            )
        if self.rows_in != self.rows_kept + sum(self.dropped_rows.values()):
            raise ValueError(
                f"rows in ({self.rows_in}) is not kept ({self.rows_kept}) + dropped ({sum(self.dropped_rows.values())})"
            )
        return self


class TokenAccount(Record):
    """Every token by source, and in all."""

    sources: dict[str, SourceTokens]
    total: SourceTokens
    lengths: Histogram

    @model_validator(mode="after")
    def _adds_up(self) -> TokenAccount:
        if summed(self.sources.values()) != self.total:
            raise ValueError("the sources do not add up to the total")
        if sum(self.lengths.counts) != self.total.rows_kept:
            raise ValueError(f"the histogram has {sum(self.lengths.counts)} rows, not {self.total.rows_kept}")
        return self


def summed(parts: Iterable[SourceTokens]) -> SourceTokens:
    """Return the sum of some accounts."""
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for part in parts:
        counts.update({name: value for name, value in part if isinstance(value, int)})
        dropped.update(part.dropped)
        rows.update(part.dropped_rows)
    names = ("rows_in", "rows_kept", "tokens_in", "trained", "masked", "truncated")
    return SourceTokens(
        **{name: counts[name] for name in names},
        dropped=dict(sorted(dropped.items())),
        dropped_rows=dict(sorted(rows.items())),
    )
