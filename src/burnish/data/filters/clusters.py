"""Rows grouped by their embeddings: which are far from all others, and which a group has more of than its share.

Spherical k-means (Dhillon and Modha 2001, Machine Learning 42:143) over vectors of length 1, seeded as k-means++ does (Arthur and
Vassilvitskii 2007), with fixed random numbers: the same vectors give the same groups. The vectors lie in a file without a name.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.near.semantic import EMBED_AT_ONCE, F32, Embed

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
MOST_CLUSTERS = 256
MOST_FITTED = 50_000
"""Rows that the centres are fitted to; the others are only put to the nearest."""
ROUNDS = 25
BLOCK = 8192
_SEED = 0
_MAD_TO_DEVIATION = 1.4826
_LEAST_SPREAD = 1e-3
_TINY = 0.1
"""A group with less than this part of an even share, or fewer than 3 rows, is no place to be at home in."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Rows by number, the group of each, its distance (1 - cosine) to the nearest centre of a group that is not tiny."""

    rows: I64
    of: I64
    distances: npt.NDArray[np.float32]
    nearest: I64
    """For each group the row that is nearest to its centre."""

    @property
    def sizes(self) -> I64:
        """How many rows each group has."""
        return np.bincount(self.of, minlength=len(self.nearest))

    def outlying(self, deviations: float) -> Mask:
        """Return which rows are so many robust standard deviations farther from a centre than the median row."""
        distances = self.distances.astype(np.float64)
        if not len(distances):
            return np.zeros(0, np.bool_)
        centre = float(np.median(distances))
        spread = max(_MAD_TO_DEVIATION * float(np.median(np.abs(distances - centre))), _LEAST_SPREAD)
        return distances > centre + deviations * spread

    def beyond_share(self, multiple: float, order: npt.NDArray[np.uint64], stays: Mask) -> Mask:
        """Return which rows go so that no group has more than `multiple` times an even share.

        order: rows with smaller numbers stay first. stays: rows that stay in any case and count all the same.
        """
        gone = np.zeros(len(self.rows), np.bool_)
        groups = int((self.sizes > 0).sum())
        most = max(1, math.ceil(multiple * len(self.rows) / max(1, groups)))
        for group in np.flatnonzero(self.sizes > most).tolist():
            own = np.flatnonzero(self.of == group)
            ranked = own[np.lexsort((order[own], ~stays[own]))]
            gone[ranked[most:]] = True
        return gone & ~stays


def cluster(texts: Iterable[str], rows: I64, embed: Embed, count: int | None, folder: Path) -> Clusters:
    """Embed a text for each row and group the rows. count: groups; by default the square root of half of the rows.

    Raises DataError when `embed` returns something else than a row of numbers for each text.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        vectors = _embedded(texts, len(rows), embed, cast(BinaryIO, file))
        wanted = count or min(MOST_CLUSTERS, max(2, round(math.sqrt(len(rows) / 2))))
        centres = _fitted(vectors, min(wanted, len(rows)))
        of, _ = _nearest(vectors, centres)
        sizes = np.bincount(of, minlength=len(centres))
        home = sizes >= max(3.0, _TINY * len(rows) / max(1, len(centres)))
        _, closeness = _nearest(vectors, centres[home] if home.any() else centres)
        own = _closeness(vectors, centres, of)
        nearest = np.array(
            [rows[_best(own, of, group)] if sizes[group] else -1 for group in range(len(centres))], np.int64
        )
    return Clusters(rows, of, 1 - closeness, nearest)


def _embedded(texts: Iterable[str], count: int, embed: Embed, file: BinaryIO) -> F32:
    width = 0
    done = 0
    remaining = iter(texts)
    while batch := list(islice(remaining, EMBED_AT_ONCE)):
        found = np.ascontiguousarray(embed(batch), np.float32)
        if (
            found.ndim != 2
            or len(found) != len(batch)
            or not np.isfinite(found).all()
            or (width and found.shape[1] != width)
        ):
            raise DataError(f"the embedder returned an array of shape {found.shape} for {len(batch)} texts")
        width = found.shape[1]
        file.write((found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).tobytes())
        done += len(batch)
    file.flush()
    if done != count:
        raise ValueError(f"{done} texts for {count} rows")
    return cast(F32, np.memmap(file, np.float32, "r", shape=(count, width))) if count else np.empty((0, 1), np.float32)


def _fitted(vectors: F32, count: int) -> F32:
    random = np.random.default_rng(_SEED)
    chosen = np.arange(len(vectors))
    if len(vectors) > MOST_FITTED:
        chosen = np.sort(random.choice(len(vectors), MOST_FITTED, replace=False))
    points = np.asarray(vectors[chosen])
    centres = _seeds(points, count, random)
    for _ in range(ROUNDS):
        of, _ = _nearest(points, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, of, points)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(lengths > 1e-9, sums / np.maximum(lengths, 1e-9), centres)  # an empty group stays where it was
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved.astype(np.float32)
    return centres


def _seeds(points: F32, count: int, random: np.random.Generator) -> F32:
    """Return first centres, each drawn with a chance that grows with its squared distance to those before."""
    if not len(points):
        return points
    centres = [points[int(random.integers(len(points)))]]
    far = np.full(len(points), np.inf)
    while len(centres) < count:
        far = np.minimum(far, np.maximum(2 - 2 * (points @ centres[-1]), 0))
        if far.sum() <= 1e-9:  # fewer different points than centres
            break
        centres.append(points[int(random.choice(len(points), p=far / far.sum()))])
    return np.array(centres, np.float32)


def _nearest(vectors: F32, centres: F32) -> tuple[I64, npt.NDArray[np.float32]]:
    """Return the nearest centre of each vector, and the cosine to it."""
    of = np.zeros(len(vectors), np.int64)
    closeness = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        cosines = np.asarray(vectors[start : start + BLOCK]) @ centres.T
        own = cosines.argmax(axis=1)
        of[start : start + BLOCK] = own
        closeness[start : start + BLOCK] = cosines[np.arange(len(own)), own]
    return of, closeness


def _closeness(vectors: F32, centres: F32, of: I64) -> npt.NDArray[np.float32]:
    found = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        found[start : start + BLOCK] = np.einsum(
            "nd,nd->n", vectors[start : start + BLOCK], centres[of[start : start + BLOCK]]
        )
    return found


def _best(closeness: npt.NDArray[np.float32], of: I64, group: int) -> int:
    own = np.flatnonzero(of == group)
    return int(own[closeness[own].argmax()])


def effective(sizes: Sequence[int]) -> float:
    """Return how many groups of equal size are as diverse as these: the exponential of their entropy."""
    total = sum(sizes)
    return math.exp(-sum(size / total * math.log(size / total) for size in sizes if size)) if total else 0.0
