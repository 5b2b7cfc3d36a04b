"""The brake: a file or a source that loses most of its rows stops the preparation, with what it would be lost to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.fates import DUPLICATE, FILTERED, NEAR, REASONS, SEMANTIC, Fates
from burnish.data.near import brake
from burnish.data.sources.spec import shown
from burnish.data.spool import Spool

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LEAST_ROWS = 100
"""Rows that a file or source must have before losing most of them says anything."""


class Limit(NamedTuple):
    """The share that may be lost, the similarity of near duplicates, for the message, and the names of the data's sources."""

    share: float
    near_duplicate: float
    sources: tuple[str, ...]


class _Loss(NamedTuple):
    """What loses too much: its name, its rows, those that go by number."""

    name: str
    rows: int
    gone: I64


def stop_filters(spool: Spool, fates: Fates, data: Mask, limit: Limit) -> None:
    """Raise DataError when filters let too many rows of a file or source go. data: which rows are no task's."""
    gone = data & np.isin(fates.reasons, list(FILTERED.values()))
    for loss in _losses(spool, np.flatnonzero(data), np.flatnonzero(gone), limit):
        by = np.bincount(fates.reasons[loss.gone], minlength=len(REASONS))
        told = ", ".join(f"{REASONS[reason]} {by[reason]}" for reason in np.argsort(-by, kind="stable") if by[reason])
        raise DataError(
            f"{loss.name} would lose {len(loss.gone)} of {loss.rows} rows to filters ({told}), more than "
            f"prepare.stop_share = {limit.share:g} allows. Set the filter to `report` and look at what it marks "
            "(burnish data show); is that what you want, set prepare.stop_share to 1."
        )


def stop_duplicates(spool: Spool, fates: Fates, of: I64, limit: Limit, cosine: float | None = None) -> None:
    """Raise DataError when a file or source loses too many of some rows as duplicates of each other. cosine: of semantic ones."""
    gone = of[np.isin(fates.reasons[of], (DUPLICATE, NEAR, SEMANTIC))]
    for loss in _losses(spool, of, gone, limit):
        shown_last = (
            fates.reasons[loss.gone] != SEMANTIC if cosine is not None else fates.reasons[loss.gone] == DUPLICATE
        )
        chosen = loss.gone[np.argsort(shown_last, kind="stable")][: brake.PAIRS]
        exact = int((fates.reasons[loss.gone] == DUPLICATE).sum())
        texts = {row: text for row, text, _ in spool.pairs(np.unique(np.concatenate([chosen, fates.twins[chosen]])))}
        pairs = [
            (":".join(map(str, spool.place(row))), texts[row], texts[int(fates.twins[row])]) for row in chosen.tolist()
        ]
        lines = [f"  {place}: {brake.short(text)}\n  kept:  {brake.short(kept)}" for place, text, kept in pairs]
        setting = (
            f"prepare.near_duplicate (now {limit.near_duplicate:g})."
            if cosine is None
            else f"prepare.semantic_duplicate (now {cosine:g}), or leave it out."
        )
        raise DataError(
            f"{loss.name} would lose {len(loss.gone)} of {loss.rows} rows as duplicates ({exact} exact), more than "
            f"prepare.stop_share = {limit.share:g} allows. For example:\n"
            + "\n".join(lines)
            + f"\nAre they duplicates? Then set prepare.stop_share to 1. Are they not? Raise {setting}"
        )


def _losses(spool: Spool, of: I64, gone: I64, limit: Limit) -> Iterator[_Loss]:
    """Yield the files, then the sources, that lose too many of some rows: a folder may lose most of many small files."""
    names = tuple(shown(source) for source in limit.sources)
    for units, called in ((spool.columns["file"], spool.files), (spool.sources, names)):
        rows = np.bincount(units[of], minlength=len(called))
        lost = np.bincount(units[gone], minlength=len(called))
        for unit in np.flatnonzero((rows >= LEAST_ROWS) & (lost > limit.share * rows)).tolist():
            yield _Loss(called[unit], int(rows[unit]), gone[units[gone] == unit])
