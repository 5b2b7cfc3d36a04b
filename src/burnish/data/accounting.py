"""Keeping the account of tokens (`core.account`) while a dataset is made, and what its lengths say of packing and limits."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from burnish.core.account import SourceTokens, TokenAccount, summed
from burnish.core.packing import Length, pack, packed_tokens
from burnish.core.records import Count, Record, Share
from burnish.data.histogram import histogram

LIMIT_STEP = 64
"""Limits are suggested in multiples of this many tokens, which is what kernels like."""


Numbers: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]


class Packing(Record):
    """What packing rows of this many tokens computes. `efficiency` = computed / room; the rest is empty.

    `saved` counts tokens of prefixes that rows share and that are computed once in a packed row.
    """

    row_tokens: Count
    packed_rows: Count
    computed: Count
    room: Count
    saved: Count
    efficiency: Share


class LimitOption(Record):
    """A limit on a row's tokens, and what it would cut off: rows that are longer, and their tokens beyond it."""

    limit: Count
    rows_over: Count
    tokens_over: Count


class LimitAdvice(Record):
    """The suggested limit on a row's tokens, its reason, and what others would cost."""

    limit: Count
    because: str
    options: tuple[LimitOption, ...]


class TokenBook:
    """Counts tokens while a dataset is made, row by row; holds counters and one length a row."""

    def __init__(self) -> None:
        """Open an empty book."""
        self._kept: dict[str, Counter[str]] = {}
        self._dropped: dict[str, Counter[str]] = {}
        self._dropped_rows: dict[str, Counter[str]] = {}
        self._lengths: list[npt.NDArray[np.integer[Any]]] = []

    def keep(self, source: str, *, trained: Numbers, masked: Numbers, truncated: Numbers) -> None:
        """Count rows that stay, with what was cut from each. Raises ValueError for counts below zero."""
        counts = {"trained": trained, "masked": masked, "truncated": truncated}
        for name, values in counts.items():
            if len(values) and np.min(values) < 0:
                raise ValueError(f"a row of {source} has {int(np.min(values))} {name} tokens")
        of_source = self._kept.setdefault(source, Counter())
        of_source.update({name: int(np.sum(values)) for name, values in counts.items()}, rows=len(trained))
        self._lengths.append(np.add(trained, masked))

    def drop(self, source: str, tokens: int, reason: str) -> None:
        """Count a row that does not stay. Raises ValueError for counts below zero."""
        if tokens < 0:
            raise ValueError(f"a row of {source} has {tokens} tokens")
        self._dropped.setdefault(source, Counter())[reason] += tokens
        self._dropped_rows.setdefault(source, Counter())[reason] += 1

    def account(self, tokens_in: Mapping[str, int], rows_in: Mapping[str, int]) -> TokenAccount:
        """Close the book against what was counted when the rows came in, by source, independently of this book.

        Raises ValueError, which would be an error of ours, when a token or a row got lost or counted twice.
        """
        known = set(self._kept) | set(self._dropped)
        if known != set(tokens_in) or known - set(rows_in):
            raise ValueError(f"sources differ: {sorted(known)} were accounted, {sorted(tokens_in)} came in")
        sources: dict[str, SourceTokens] = {}
        for name in sorted(known):
            kept = self._kept.get(name, Counter[str]())
            try:
                sources[name] = SourceTokens(
                    rows_in=rows_in[name],
                    rows_kept=kept["rows"],
                    tokens_in=tokens_in[name],
                    trained=kept["trained"],
                    masked=kept["masked"],
                    truncated=kept["truncated"],
                    dropped=dict(sorted(self._dropped.get(name, Counter[str]()).items())),
                    dropped_rows=dict(sorted(self._dropped_rows.get(name, Counter[str]()).items())),
                )
            except ValueError as error:
                raise ValueError(f"the account of {name} does not balance: {error}") from error
        return TokenAccount(
            sources=sources,
            total=summed(sources.values()),
            lengths=histogram(np.concatenate([np.empty(0, np.int64), *self._lengths])),
        )


def packing(lengths: Sequence[Length], row_tokens: int, seed: int = 0) -> Packing:
    """Pack as training does, and return what it computes. Raises ValueError naming a row longer than `row_tokens`."""
    rows = pack(lengths, row_tokens, seed)
    computed = sum(packed_tokens(lengths, row) for row in rows)
    room = len(rows) * row_tokens
    return Packing(
        row_tokens=row_tokens,
        packed_rows=len(rows),
        computed=computed,
        room=room,
        saved=sum(prefix + tail for _, prefix, tail in lengths) - computed,
        efficiency=computed / room if room else 0.0,
    )


def suggest_limit(
    lengths: Sequence[int] | npt.NDArray[np.integer[Any]], context: int, *, lose: float = 0.001
) -> LimitAdvice:
    """Suggest the most tokens a row may have: the least limit that cuts off at most the share `lose` of all tokens.

    lengths: tokens of each row before any cut. context: what the base model can read. Attention and memory grow with the
    limit, so a few very long rows should not set it; `options` shows what each doubling would cut.
    Raises ValueError when there are no rows or no context.
    """
    array = np.sort(np.asarray(lengths, dtype=np.int64))
    if not array.size or context < 1:
        raise ValueError("there is no row, or no context, to suggest a limit for")
    total, longest = int(array.sum()), int(array[-1])
    steps = sorted({min(limit, context) for limit in range(LIMIT_STEP, longest + LIMIT_STEP, LIMIT_STEP)})
    # What is over a limit falls as the limit rises: search by halves.
    least = bisect.bisect_left(steps, True, key=lambda limit: _option(array, limit).tokens_over <= lose * total)
    limit = steps[min(least, len(steps) - 1)]
    chosen = _option(array, limit)
    doublings = {min(LIMIT_STEP << power, steps[-1]) for power in range(math.ceil(math.log2(steps[-1] / 64 + 1)) + 1)}
    of = f"of {array.size} rows and {chosen.tokens_over} of {total} tokens are over it"
    because = f"{chosen.rows_over} {of}; the longest row has {longest}"
    if chosen.tokens_over > lose * total:
        because += f"; the base model reads {context} at most"
    options = tuple(_option(array, each) for each in sorted(doublings | {limit}))
    return LimitAdvice(limit=limit, because=because, options=options)


def _option(lengths: npt.NDArray[np.int64], limit: int) -> LimitOption:
    over = lengths[np.searchsorted(lengths, limit, side="right") :]
    return LimitOption(limit=limit, rows_over=len(over), tokens_over=int(over.sum()) - limit * len(over))
