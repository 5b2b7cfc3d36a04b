"""Which rows each filter marks, from the columns of all rows; and those it lets go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from burnish.core.recipe_filters import LANGUAGES, Filters
from burnish.data.filters import rules
from burnish.data.filters.clusters import Clusters, cluster
from burnish.data.near.semantic import Embed
from burnish.data.spool import Spool, Texts

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LEAST_ROWS = 20
"""Rows that a source must have before the length of one says anything."""
LEAST_DEVIATION = 0.1
"""Of the logarithm of words: where all answers are nearly the same length, one is not far off for a word more."""
_TAIL = 0.05
"""Where one answer in twenty is so long, that is one of the lengths that answers have: a source may have several."""
_MAD_TO_DEVIATION = 1.4826
"""Of normal numbers the standard deviation is so many times the median absolute deviation."""


class Marks:
    """What the filters of a recipe mark in the rows of the data; rows of tasks are never marked."""

    def __init__(self, spool: Spool, said: Filters, embed: Embed | None = None) -> None:
        """Look at the rows of a finished spool. embed: needed where the recipe asks for outliers or balance.

        Raises ValueError when it is needed and not there.
        """
        if said.needs_embeddings and embed is None:
            raise ValueError("outliers and balance need `embed`")
        self.spool, self.said, self._embed = spool, said, embed
        self.data: Mask = spool.sources < spool.data_sources
        self.clusters: Clusters | None = None
        """The groups of training rows, once they were looked for."""

    def group(self, rows: I64) -> Clusters | None:
        """Group training rows by their embeddings, where the recipe asks for anything that needs it. rows: ascending."""
        if self.said.needs_embeddings and self._embed is not None:
            self.clusters = cluster(Texts(self.spool, rows), rows, self._embed, self.said.clusters, self.spool.folder)
        return self.clusters

    def of(self, name: str) -> Mask:
        """Return which rows a filter marks. Raises KeyError for a name there is not."""
        if name == "length":
            return self._length()
        if name == "language":
            return self._language()
        if name == "outlier":
            return self._outliers()
        return self.data & (self.spool.columns["signals"] & rules.BY_ROW[name] > 0)

    @property
    def wanted_languages(self) -> tuple[str, ...]:
        """The languages that rows may be in: those the recipe names, else the one that most rows are in."""
        if self.said.languages:
            return self.said.languages
        return () if self.main_language is None else (self.main_language,)

    @property
    def main_language(self) -> str | None:
        """The language that most rows are in; None where no row is long enough to tell."""
        counts = np.bincount(self.spool.columns["language"][self.data], minlength=len(LANGUAGES) + 1)[1:]
        return LANGUAGES[int(counts.argmax())] if counts.any() else None

    def _language(self) -> Mask:
        wanted = [0, *(LANGUAGES.index(code) + 1 for code in self.wanted_languages)]
        return self.data & ~np.isin(self.spool.columns["language"], wanted)

    def _outliers(self) -> Mask:
        marked = np.zeros(len(self.spool), np.bool_)
        if self.clusters is not None:
            marked[self.clusters.rows[self.clusters.outlying(self.said.outlier_deviations)]] = True
        return marked

    def _length(self) -> Mask:
        marked = np.zeros(len(self.spool), np.bool_)
        columns = self.spool.columns
        for source in range(self.spool.data_sources):
            own = np.flatnonzero((self.spool.sources == source) & (columns["kind"] != rules.NOTHING))
            if len(own) < LEAST_ROWS:
                continue
            words = np.log1p(columns["size"][own].astype(np.float64))
            low, centre, high = np.quantile(words, [_TAIL, 0.5, 1 - _TAIL])
            spread = max(_MAD_TO_DEVIATION * float(np.median(np.abs(words - centre))), LEAST_DEVIATION)
            far = self.said.length_deviations * spread
            marked[own] = (words < low - far) | (words > high + far)
        return marked
