"""Semantic duplicates and leaks of a dataset that is made: rows that ask the same in other words and have the same answer.

Off unless the recipe asks. No row goes because of one that goes itself: what leaks goes before duplicates are looked for, and a
row that others have gone for stays.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from burnish.data.near.canonical import digest
from burnish.data.near.rows import Removals, Row, Rules
from burnish.data.near.semantic import F32, Embed, find_semantic
from burnish.data.spool import Spool

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Alike:
    """What says how alike requests are, and the cosine from which they ask the same."""

    embed: Embed
    threshold: float

    def removals(self, spool: Spool, rows: I64, fixed: Mask, *, apart: bool = False) -> Removals:
        """Return which of some rows go, and against which. rows: ascending. fixed: which of them stay in any case.

        apart: whether requests about different groups of people, or in another order, are no duplicates of each other.
        Only requests with an answer that another row has too are read and embedded.
        """
        named = spool.columns["named"][rows] * np.uint32(apart)
        pairs = np.column_stack([spool.columns["answer"][rows], named.astype(np.uint64)])
        _, group = np.unique(pairs, axis=0, return_inverse=True)
        group = group.reshape(-1)
        sizes = np.bincount(group)
        movable = np.bincount(group, ~fixed)
        wanted = (sizes > 1)[group] & (movable > 0)[group]
        found = [
            Row(number, text, f"{answer}\0{who}", fixed=bool(stays))
            for (number, text, answer), who, stays in zip(
                spool.pairs(rows[wanted]), named[wanted].tolist(), fixed[wanted], strict=True
            )
        ]
        return find_semantic(found, self.embed, Rules(), threshold=self.threshold, folder=spool.folder).removals

    def pairs(self, spool: Spool, trained: I64, tested: I64) -> Iterator[tuple[int, int, float]]:
        """Yield (place in `trained`, place in `tested`, cosine) of each tested row that is alike to a trained one."""
        rows = np.sort(np.concatenate([trained, tested]))
        fixed = np.isin(rows, trained)
        at_trained, at_tested = ({int(row): at for at, row in enumerate(part)} for part in (trained, tested))
        for removal in self.removals(spool, rows, fixed):
            if removal.kept in at_trained:
                yield at_trained[removal.kept], at_tested[removal.row], removal.score


class Remembered:
    """An embedder that embeds each text once; the numbers lie in a file without a name, about 150 bytes a text in memory."""

    def __init__(self, embed: Embed, folder: Path) -> None:
        """Remember on the disk that `folder` is on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._embed = embed
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed when this goes)
        weakref.finalize(self, self._file.close)
        self._places: dict[bytes, int] = {}
        self._width = 0

    def __call__(self, texts: Sequence[str]) -> F32:
        """Return a row for each text."""
        keys = [digest(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._places}
        if new:
            vectors = np.ascontiguousarray(self._embed(list(new.values())), np.float32)
            self._width = vectors.shape[1]
            self._file.seek(0, 2)
            self._file.write(vectors.tobytes())
            self._file.flush()
            first = len(self._places)
            self._places.update({key: first + number for number, key in enumerate(new)})
        if not keys:
            return np.empty((0, self._width), np.float32)
        held = np.memmap(self._file, np.float32, "r", shape=(len(self._places), self._width))
        return np.array(held[[self._places[key] for key in keys]])
