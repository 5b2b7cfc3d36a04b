"""The leakage proof of a dataset that is made: every split against those that are tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from burnish.data.decide import FIRST_TASK, Fates
from burnish.data.near.find import find
from burnish.data.near.rows import Row, Rules
from burnish.data.splits.leakage import Part, Proof, leakage
from burnish.data.spool import Spool, Texts


def prove(spool: Spool, fates: Fates, sides: Mapping[str, int]) -> Proof:
    """Compare what stays of each split with what is tested, by exact words, 13-grams and similarity.

    Requests and answers count; system prompts, which rows share, do not.
    """
    parts = {name: _part(spool, fates, name, side) for name, side in sides.items()}
    tasks = [parts[name] for name, side in sides.items() if side >= FIRST_TASK]
    return leakage([parts["train"], parts["test"]], tasks, near=partial(_near, spool))


def _part(spool: Spool, fates: Fates, name: str, side: int) -> Part:
    rows = fates.kept(side)
    return Part(name, _Places(spool, rows.tolist()), Texts(spool, rows), words=spool.columns["words"][rows])


class _Places(Sequence[str]):
    """The rows' files and lines, by which a person finds them."""

    def __init__(self, spool: Spool, rows: list[int]) -> None:
        self._spool, self._rows = spool, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ":".join(map(str, self._spool.place(self._rows[index])))


def _near(
    spool: Spool, trained: Sequence[str], tested: Sequence[str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield each tested row with the first similar trained row. Trained rows stay whatever they resemble."""
    count = len(trained)

    def rows() -> Iterator[Row]:
        for number, text in enumerate(trained):
            yield Row(number, text, fixed=True)
        for number, text in enumerate(tested):
            yield Row(count + number, text, rank=1)

    found = find(rows(), Rules(threshold=threshold), folder=spool.folder)
    places = np.array([[removal.kept, removal.row - count] for removal in found.removals], np.int64).reshape(-1, 2)
    for (ours, theirs), removal in zip(places.tolist(), found.removals, strict=True):
        if ours < count:
            yield ours, theirs, removal.score
