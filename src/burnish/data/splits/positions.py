"""Where a row lies between 0 and 2**64: by its own key alone, so that it stays there whatever rows come or go."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

U64: TypeAlias = npt.NDArray[np.uint64]
I64: TypeAlias = npt.NDArray[np.int64]
MOST_UNITS = 3
"""Groups or files that one cluster of near duplicates joins: so many documents may share a passage, more share a phrase."""

# SplitMix64's finaliser (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators"): a bijection.
_UP, _MIDDLE, _LAST = (30, 27, 31)
_FIRST_FACTOR, _SECOND_FACTOR = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FIRST_INVERSE, _SECOND_INVERSE = pow(_FIRST_FACTOR, -1, 2**64), pow(_SECOND_FACTOR, -1, 2**64)


def position(key: str, salt: str = "") -> int:
    """Return the first 8 bytes of SHA-256, big end first: of the key alone, or keyed by `salt`."""
    text = f"{salt}\0{key}" if salt else key
    # A lone surrogate has no UTF-8, but a row that holds one still needs a place.
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def positions(keys: Iterable[str], salt: str = "") -> U64:
    """Return `position` of every key. Keys are read one by one and not held: 8 bytes a row."""
    return np.fromiter((position(key, salt) for key in keys), dtype=np.uint64)


def below(file: str, location: str) -> str:
    """Return a file's name below the folder or the fixed part of the glob that a source names; of a single file its name.

    >>> below("/home/ann/docs/a/1.md", "/home/ann/docs"), below("docs/1.md", "docs/*.md"), below("x/rows.jsonl", "x/rows.jsonl")
    ('a/1.md', '1.md', 'rows.jsonl')
    """
    fixed = re.split(r"[*?\[]", location, maxsplit=1)[0]
    folder = fixed if fixed == location else fixed.rpartition("/")[0]
    names = [Path(path).expanduser().as_posix() for path in (file, folder)]
    inside = names[0].removeprefix(f"{names[1].rstrip('/')}/")
    return inside if inside != names[0] or names[1] == "." else names[0].rpartition("/")[2]


def mix(values: U64) -> U64:
    """Return other numbers that look independent of `values`; no two values give the same."""
    with np.errstate(over="ignore"):
        mixed = (values ^ (values >> np.uint64(_UP))) * np.uint64(_FIRST_FACTOR)
        mixed = (mixed ^ (mixed >> np.uint64(_MIDDLE))) * np.uint64(_SECOND_FACTOR)
        return mixed ^ (mixed >> np.uint64(_LAST))


def unmix(values: U64) -> U64:
    """Return the numbers that `mix` made `values` of."""
    with np.errstate(over="ignore"):
        mixed = _unshift(values, _LAST) * np.uint64(_SECOND_INVERSE)
        mixed = _unshift(mixed, _MIDDLE) * np.uint64(_FIRST_INVERSE)
        return _unshift(mixed, _UP)


def _unshift(values: U64, bits: int) -> U64:
    """Undo x ^ (x >> bits): every round makes `bits` more of the leading bits right."""
    result = values
    for _ in range(64 // bits):
        result = values ^ (result >> np.uint64(bits))
    return result


def components(rows: int, edges: npt.NDArray[np.integer[Any]]) -> I64:
    """Return for each row the smallest row that edges connect it to, itself included.

    edges: pairs of row numbers, of shape (M, 2). Union-find over whole arrays: every round hooks each row and its root
    to the lowest root among its neighbours and then shortens all paths (FastSV; Zhang, Azad, Hu 2020).
    """
    parent = np.arange(rows, dtype=np.int64)
    if not len(edges):
        return parent
    a, b = (np.ascontiguousarray(edges[:, side], dtype=np.int64) for side in (0, 1))
    while True:
        before = parent.copy()
        lowest = np.minimum(parent[a], parent[b])
        for side in (a, b):
            np.minimum.at(parent, before[side], lowest)
            np.minimum.at(parent, side, lowest)
        parent = parent[parent]
        if np.array_equal(parent, before):
            return parent


def same_label(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return edges that connect each row with the first row of the same label; fit for `components`."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(labels)), first[inverse.reshape(-1)]], axis=1).astype(np.int64)


def joined(*labels: npt.NDArray[Any]) -> I64:
    """Return one cluster number a row such that rows with the same label in any of the arrays are in one cluster.

    So a document's pieces and their near duplicates in other documents, with all of *their* pieces, become one cluster.
    """
    edges = np.concatenate([same_label(column) for column in labels])
    return components(len(labels[0]), edges)


def kept_together(units: npt.NDArray[Any], clusters: npt.NDArray[Any]) -> I64:
    """Return numbers such that rows of a unit (a group, a file) share one, and units with near duplicates of each other do.

    A cluster in more than `MOST_UNITS` units, such as a greeting that every conversation begins with, joins none: it would chain
    all of them together, and nothing could be held out. Nor does any where more than half of the rows would be in one place. Rows
    that are alike may then lie on both sides; those that are trained on go, as all that repeat what is tested.
    """
    unit, cluster = (np.unique(labels, return_inverse=True)[1].reshape(-1) for labels in (units, clusters))
    pairs = np.unique(np.column_stack([cluster, unit]), axis=0)
    spans = np.bincount(pairs[:, 0])[cluster] if len(cluster) else cluster
    alone = np.arange(len(unit)) + len(unit)  # a number of its own for each row
    together = joined(unit, np.where(spans > MOST_UNITS, alone, cluster))
    largest, largest_unit = (int(np.bincount(labels).max(initial=0)) for labels in (together, unit))
    return joined(unit) if 2 * largest > len(unit) and largest > largest_unit else together
