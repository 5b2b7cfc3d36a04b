"""What can only be said of rows together: which split each is in, which are duplicates, which leaked from what is tested."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.alike import Alike
from burnish.data.chunk import NO_DAY
from burnish.data.fates import (
    CROSSING,
    DUPLICATE,
    EMBARGOED,
    FILTERED,
    FIRST_TASK,
    FORGOTTEN,
    KEPT,
    LEAKED,
    LEAKED_NEAR,
    LEAKED_REQUEST,
    LEAKED_SEMANTIC,
    MADE_FROM_TESTED,
    NEAR,
    SEMANTIC,
    UNTESTABLE,
    Fates,
)
from burnish.data.filters.marks import Marks
from burnish.data.filters.rules import BALANCE, RULES
from burnish.data.near.find import Block, clusters_in, find_in
from burnish.data.near.rows import Removal, Rules
from burnish.data.splits.assign import TEST, TRAIN, Shares, Sides, assign, stratified
from burnish.data.splits.positions import below, kept_together, positions
from burnish.data.splits.told import CROSSED, EMBARGO, temporal
from burnish.data.spool import Spool
from burnish.data.stops import Limit, stop_duplicates, stop_filters

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How rows are held out and what counts as a duplicate; as the recipe says."""

    test_share: float
    by: Literal["row", "group", "file", "date"]
    stratify: bool
    test_from: datetime.date | None
    embargo_days: int
    near_duplicate: float
    stop_share: float
    forgotten: npt.NDArray[np.uint64]
    roots: tuple[str, ...]
    """Where each source of the data is, as the recipe says it."""

    @property
    def rules(self) -> Rules:
        """The rules for duplicates."""
        return Rules(threshold=self.near_duplicate)

    @property
    def limit(self) -> Limit:
        """What a file or source may lose."""
        return Limit(self.stop_share, self.near_duplicate, self.roots)


def decide(
    spool: Spool,
    wanted: Wanted,
    tell: Callable[[], None],
    alike: Alike | None = None,
    marks: Marks | None = None,
) -> Fates:
    """Decide about every row. The first sources are the data, the others tasks, which are tested and never trained on.

    Duplicates go test rows first, so that a test row never gives way to a training row. A training row goes when it is a
    duplicate or near duplicate of a row of a task or of the test split, or asks just the same under the same system prompt.
    Rows of a task are its author's choice: only a conversation that is there twice, letter by letter, goes.
    marks: what filters mark; rows of the data go where the recipe says so, before any is compared with another.
    `tell` hears of each of the three steps when it is done. alike: finds semantic duplicates, where they are asked for.

    Raises DataError when rows lack what they are to be split by, and when a source would lose too many rows as duplicates.
    """
    fates = Fates(
        np.where(spool.sources < spool.data_sources, TRAIN, FIRST_TASK - spool.data_sources + spool.sources).astype(
            np.int16
        ),
        np.zeros(len(spool), np.uint8),
        np.full(len(spool), -1, np.int64),
        np.ones(len(spool), np.float32),
    )
    _hold_out(spool, wanted, fates)
    for column in ("words", "parent"):  # what was made from a forgotten row is forgotten with it
        fates.remove(np.flatnonzero(np.isin(spool.columns[column], wanted.forgotten)), FORGOTTEN)
    _made_from_tested(spool, wanted, fates)
    if marks is not None:
        _filter(spool, wanted, fates, marks)
    _copies_in_tasks(spool, fates)
    tell()
    _duplicates_in_test(spool, wanted, fates)
    if alike is not None:
        _semantic_duplicates(spool, wanted, fates, TEST, alike)
        _semantic_leaks(spool, fates, alike)
    tell()
    _duplicates_and_leaks_in_train(spool, wanted, fates)
    if alike is not None:
        _semantic_duplicates(spool, wanted, fates, TRAIN, alike)
    if marks is not None:
        _filter_by_embedding(spool, wanted, fates, marks)
    tell()
    return fates


def _filter(spool: Spool, wanted: Wanted, fates: Fates, marks: Marks) -> None:
    """Let rows go for the first filter that marks them and removes. Raises DataError when a file loses too many."""
    for rule in RULES:
        if rule.name != "outlier" and marks.said.action(rule.name) == "remove":
            fates.remove(np.flatnonzero(marks.of(rule.name) & (fates.reasons == KEPT)), FILTERED[rule.name])
    stop_filters(spool, fates, marks.data, wanted.limit)


def _filter_by_embedding(spool: Spool, wanted: Wanted, fates: Fates, marks: Marks) -> None:
    """Let training rows go that are far from all others, or that their group has too many of, after duplicates are gone.

    Rows that others have gone for stay.
    """
    found = marks.group(fates.kept(TRAIN))
    if found is None:
        return
    named = np.isin(found.rows, fates.twins)
    said = marks.said
    if said.outlier == "remove":
        fates.remove(found.rows[found.outlying(said.outlier_deviations) & ~named], FILTERED["outlier"])
    if said.balance is not None:
        gone = fates.reasons[found.rows] != KEPT
        order = np.where(gone, np.iinfo(np.uint64).max, spool.columns["position"][found.rows])
        beyond = found.beyond_share(said.balance, order, named & ~gone) & ~gone
        fates.remove(found.rows[beyond], FILTERED[BALANCE])
    stop_filters(spool, fates, marks.data, wanted.limit)


def _hold_out(spool: Spool, wanted: Wanted, fates: Fates) -> None:
    """Put rows of the data on the side that they say themselves, where any does, else where the recipe's rule puts them.

    Synthetic rows are on the training side whatever they say, and move no other row: a cluster lies where its real rows put it.
    """
    synthetic = spool.columns["synthetic"]
    tested = (fates.sides >= FIRST_TASK) | (spool.columns["said"] == TEST)
    fates.remove(np.flatnonzero(synthetic & tested), UNTESTABLE)
    data = np.flatnonzero((spool.sources < spool.data_sources) & ~synthetic)
    columns = spool.columns[data]
    if spool.said_splits:
        fates.sides[data[columns["said"] == TEST]] = TEST
        return
    shares = Shares(test=wanted.test_share)
    if not (wanted.test_share or wanted.test_from) or not len(data):
        return
    alike = clusters_in(_blocks(spool, data), wanted.rules, folder=spool.folder)
    sides = _by_date(columns["day"], wanted, shares, alike) if wanted.by == "date" else None
    if sides is None:
        at, together = _units(spool, data, wanted, alike)
        if wanted.stratify:
            sides = stratified(at, columns["answer"], shares, clusters=together, exact=True)
        else:
            sides = assign(at, shares, clusters=together)
    fates.sides[data] = np.maximum(sides, TRAIN)
    fates.remove(data[sides == EMBARGO], EMBARGOED)
    fates.remove(data[sides == CROSSED], CROSSING)


def _made_from_tested(spool: Spool, wanted: Wanted, fates: Fates) -> None:
    """Let synthetic rows go whose parent is tested or left out for the sake of what is: they say the same in other words.

    Where groups are held out, so is what was made from them.
    """
    made = np.flatnonzero(spool.columns["synthetic"] & (fates.reasons == KEPT))
    if not len(made):
        return
    held = (fates.sides >= TEST) & (fates.reasons != UNTESTABLE)
    away = np.flatnonzero(held | np.isin(fates.reasons, (EMBARGOED, CROSSING)))
    for ours, theirs in (("parent", "words"), *((("group", "group"),) if wanted.by == "group" else ())):
        values, first = np.unique(spool.columns[theirs][away], return_index=True)
        if not len(values):
            continue
        sought = spool.columns[ours][made]
        at = np.minimum(np.searchsorted(values, sought), len(values) - 1)
        hit = (values[at] == sought) & (sought != 0)
        fates.remove(made[hit], MADE_FROM_TESTED, away[first[at[hit]]])


def _units(spool: Spool, data: I64, wanted: Wanted, alike: I64) -> tuple[npt.NDArray[np.uint64], I64]:
    """Return the position of each row's unit, and a number for all that must stay together."""
    columns = spool.columns[data]
    if wanted.by == "row":
        return columns["position"], alike
    if wanted.by == "file":
        return positions(_below(spool, wanted.roots))[columns["file"]], kept_together(columns["file"], alike)
    without = np.flatnonzero(columns["group"] == 0)
    if len(without):
        file, line = spool.place(int(data[without[0]]))
        raise DataError(
            f"prepare.split_by is group, but {len(without)} of {len(data)} rows have no `group` (the first is {file}:{line}). "
            "Give each row the document, customer or conversation it comes from as `group`, or split by file or row."
        )
    return columns["group"], kept_together(columns["group"], alike)


def _below(spool: Spool, roots: Sequence[str]) -> list[str]:
    """Return what each file is called below its source, so that a folder that is elsewhere is split as before."""
    source = np.zeros(len(spool.files), np.int64)
    source[spool.columns["file"]] = spool.sources
    return [
        below(file, roots[of]) if of < len(roots) else file
        for file, of in zip(spool.files, source.tolist(), strict=True)
    ]


def _by_date(days: npt.NDArray[np.int32], wanted: Wanted, shares: Shares, alike: I64) -> Sides:
    dates = days.astype("datetime64[D]")
    dates[days == NO_DAY] = np.datetime64("NaT")
    day = wanted.test_from
    return temporal(
        dates, test_from=day, shares=shares if day is None else None, embargo_days=wanted.embargo_days, clusters=alike
    )


def _copies_in_tasks(spool: Spool, fates: Fates) -> None:
    rows = np.flatnonzero((fates.sides >= FIRST_TASK) & (fates.reasons == KEPT))
    halves = spool.columns["row"][rows].copy().view(np.uint64).reshape(-1, 2)
    keys = np.column_stack([fates.sides[rows].astype(np.uint64), halves])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    firsts = rows[first][inverse.reshape(-1)] if len(rows) else rows
    again = firsts != rows
    fates.remove(rows[again], DUPLICATE, firsts[again])


def _duplicates_in_test(spool: Spool, wanted: Wanted, fates: Fates) -> None:
    _take(find_in(_blocks(spool, fates.kept(TEST)), wanted.rules, folder=spool.folder), fates)
    stop_duplicates(spool, fates, np.flatnonzero(fates.sides == TEST), wanted.limit)


def _duplicates_and_leaks_in_train(spool: Spool, wanted: Wanted, fates: Fates) -> None:
    """Compare training rows with all that is tested, which stays, and with each other.

    Rows that ask what a tested row asks come last, so that no other row goes because of one that goes itself.
    """
    tested = np.flatnonzero((fates.sides >= TEST) & (fates.reasons == KEPT))
    trained = fates.kept(TRAIN)
    asked, first = np.unique(spool.columns["request"][tested], return_index=True)
    requests = spool.columns["request"][trained]
    at = np.minimum(np.searchsorted(asked, requests), max(0, len(asked) - 1))
    same = asked[at] == requests if len(asked) else np.zeros(len(trained), np.bool_)
    ranks = np.zeros(len(spool), np.int8)
    ranks[trained] = 1 + spool.columns["synthetic"][trained]  # a real row never gives way to a synthetic one
    ranks[trained[same]] = 3
    rows = np.sort(np.concatenate([tested, trained]))
    _take(find_in(_blocks(spool, rows, ranks), wanted.rules, folder=spool.folder), fates)
    stop_duplicates(spool, fates, trained, wanted.limit)
    twins = tested[first[at]] if len(tested) else at
    leaked = same & ~np.isin(fates.reasons[trained], (LEAKED, LEAKED_NEAR))
    fates.remove(trained[leaked], LEAKED_REQUEST, twins[leaked])
    fates.scores[trained[leaked]] = 1


def _semantic_leaks(spool: Spool, fates: Fates, alike: Alike) -> None:
    """Let training rows go that ask in other words what is tested, before others go for their sake."""
    tested = np.flatnonzero((fates.sides >= TEST) & (fates.reasons == KEPT))
    rows = np.sort(np.concatenate([tested, fates.kept(TRAIN)]))
    found = alike.removals(spool, rows, fates.sides[rows] >= TEST)
    # Rows that stay in any case come first, so a training row that is like a tested one is told so, not to be like another.
    _take([removal for removal in found if fates.sides[removal.kept] >= TEST], fates)


def _semantic_duplicates(spool: Spool, wanted: Wanted, fates: Fates, side: int, alike: Alike) -> None:
    rows = fates.kept(side)
    named = np.unique(fates.twins[fates.twins >= 0])  # rows that others have gone for stay
    _take(alike.removals(spool, rows, np.isin(rows, named), apart=True), fates)
    stop_duplicates(spool, fates, np.flatnonzero(fates.sides == side), wanted.limit, alike.threshold)


def _take(removals: Iterable[Removal], fates: Fates) -> None:
    for removal in removals:
        if removal.kind == "semantic duplicate":
            leaked = fates.sides[removal.row] != fates.sides[removal.kept]
            fates.reasons[removal.row] = LEAKED_SEMANTIC if leaked else SEMANTIC
            fates.twins[removal.row], fates.scores[removal.row] = removal.kept, removal.score
            continue
        leak = fates.sides[removal.kept] != fates.sides[removal.row]
        exact = removal.kind == "duplicate"
        fates.reasons[removal.row] = (LEAKED if exact else LEAKED_NEAR) if leak else (DUPLICATE if exact else NEAR)
        fates.twins[removal.row] = removal.kept
        fates.scores[removal.row] = removal.score


def _blocks(spool: Spool, rows: I64, ranks: npt.NDArray[np.int8] | None = None) -> Iterator[Block]:
    """Yield rows for the search: requests are compared, answers must be equal. ranks: 0 for rows that stay in any case.

    The same request about somebody else (a man, a woman) and with the same answer is no duplicate: that both are answered alike is
    what it teaches. It still lies on one side with the other, and leaks from it where that is tested.
    """
    for own, words in spool.words(rows):
        columns = spool.columns[own]
        yield Block(
            own,
            words.of(np.arange(0, 2 * len(own), 2)),
            np.column_stack([columns["position"], columns["words"]]).view("V16").ravel(),
            columns["answer"],
            columns["file"],
            np.ones(len(own), np.int64) if ranks is None else ranks[own].astype(np.int64),
            np.zeros(len(own), np.bool_) if ranks is None else ranks[own] == 0,
            columns["named"],
        )
