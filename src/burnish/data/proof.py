"""The leakage proof of a dataset that is made: every split against those that are tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from burnish.data.alike import Alike
from burnish.data.fates import FIRST_TASK, Fates
from burnish.data.near.find import Block, find_in
from burnish.data.near.rows import Rules
from burnish.data.splits.leakage import Part, Proof, Thresholds, leakage
from burnish.data.spool import Spool, Texts


def prove(spool: Spool, fates: Fates, sides: Mapping[str, int], alike: Alike | None = None) -> Proof:
    """Compare what stays of each split with what is tested, by exact words, 13-grams and similarity.

    Requests and answers count; system prompts, which rows share, do not. alike: compares by embeddings too, where asked for;
    then requests are compared, and answers must be equal.
    """

    def embedding(trained: Part, tested: Part, _: float) -> Iterator[tuple[int, int, float]]:
        assert alike is not None
        yield from alike.pairs(spool, fates.kept(sides[trained.name]), fates.kept(sides[tested.name]))

    limits = Thresholds() if alike is None else Thresholds(embedding=alike.threshold)
    parts = {name: _part(spool, fates, name, side) for name, side in sides.items()}
    tasks = [parts[name] for name, side in sides.items() if side >= FIRST_TASK]
    return leakage(
        [parts["train"], parts["test"]],
        tasks,
        thresholds=limits,
        near=partial(_near, spool.folder),
        embedding=None if alike is None else embedding,
    )


def _part(spool: Spool, fates: Fates, name: str, side: int) -> Part:
    rows = fates.kept(side)
    return Part(
        name,
        _Places(spool, rows.tolist()),
        Texts(spool, rows),
        exact=spool.columns["words"][rows],
        words=lambda start, stop: (words.joined(2) for _, words in spool.words(rows[start:stop])),
    )


class _Places(Sequence[str]):
    """The rows' files and lines, by which a person finds them."""

    def __init__(self, spool: Spool, rows: list[int]) -> None:
        self._spool, self._rows = spool, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ":".join(map(str, self._spool.place(self._rows[index])))


def _near(folder: Path, trained: Part, tested: Part, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield each tested row with the first similar trained row. Trained rows stay whatever they resemble."""
    count = len(trained.ids)

    def blocks() -> Iterator[Block]:
        first = 0
        for part, rank in ((trained, 0), (tested, 1)):
            hashes = part.hashes()
            for words in part.blocks():
                own = np.arange(first, first + len(words.starts) - 1)
                exact = hashes[own - rank * count]
                yield Block(
                    own,
                    words,
                    np.column_stack([exact, np.zeros_like(exact)]).view("V16").ravel(),
                    np.zeros(len(own), np.uint64),
                    np.zeros(len(own), np.uint32),
                    np.full(len(own), rank),
                    np.full(len(own), rank == 0),
                )
                first += len(own)

    for removal in find_in(blocks(), Rules(threshold=threshold), folder=folder):
        if removal.kept < count:
            yield removal.kept, removal.row - count, removal.score
