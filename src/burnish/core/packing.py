"""Packing of samples into rows without padding, with prefixes that several samples share computed once. Pure arithmetic.

A sample is (prefix key, prefix tokens, tail tokens). A packed row holds samples of one or several prefix groups and
costs the tails of its samples plus the prefix of each group in it, once. `plan` counts with the same functions that
`train` packs with, so that the plan's steps are exact.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
WINDOW_ROWS = 64
"""Packed rows that a long order is cut into: so many pack well, so few keep their place in the order."""
Length = tuple[Hashable, int, int]
"""(key that samples with the same prefix share, tokens of that prefix, tokens after it)."""


def pack(lengths: Sequence[Length], row_tokens: int, seed: int | str) -> list[list[int]]:
    """Return the sample indices of each packed row: best-fit decreasing, group by group, ties broken by `seed`.

    Every sample is in exactly one row and no row costs more than `row_tokens`. A group that does not fit one row is
    spread over several, each with the prefix again. Raises ValueError naming a sample longer than `row_tokens`.
    """
    groups = _groups(lengths, row_tokens, seed)
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted, of all rows
    for members in groups:
        prefix = lengths[members[0]][1]
        own: list[tuple[int, int]] = []  # the same, of the rows that hold this group's prefix already
        for sample in members:
            tail = lengths[sample][2]
            at = bisect_left(own, (tail, -1))
            if at < len(own):
                left, row = own.pop(at)
                left -= tail
            else:
                at = bisect_left(free, (prefix + tail, -1))
                if at < len(free):
                    left, row = free.pop(at)
                    left -= prefix + tail
                else:
                    left, row = row_tokens - prefix - tail, len(rows)
                    rows.append([])
            rows[row].append(sample)
            insort(own, (left, row))
        for entry in own:
            insort(free, entry)
    return rows


def _groups(lengths: Sequence[Length], row_tokens: int, seed: int | str) -> list[list[int]]:
    """Return samples by prefix, longest first, the group with most tokens first. Samples without prefix are one group."""
    rank = list(range(len(lengths)))
    random.Random(seed).shuffle(rank)
    by_key: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(lengths)), key=rank.__getitem__):
        key, prefix, tail = lengths[index]
        if prefix < 0 or tail < 1 or prefix + tail > row_tokens:
            raise ValueError(
                f"sample {index} has {prefix} + {tail} tokens; a row holds up to {row_tokens}. Raise row_tokens to {prefix + tail}."
            )
        by_key.setdefault(("", key) if prefix else None, []).append(index)
    for members in by_key.values():
        members.sort(key=lambda index: -lengths[index][2])
        if len({lengths[index][1] for index in members}) > 1:
            raise ValueError(
                f"samples with the prefix key {lengths[members[0]][0]!r} have prefixes of different length"
            )
    return sorted(
        by_key.values(), key=lambda members: -(lengths[members[0]][1] + sum(lengths[index][2] for index in members))
    )


def packed_tokens(lengths: Sequence[Length], row: Sequence[int]) -> int:
    """Return the tokens that one packed row computes: its tails, and each of its prefixes once."""
    prefixes = {lengths[index][0]: lengths[index][1] for index in row if lengths[index][1]}
    return sum(prefixes.values()) + sum(lengths[index][2] for index in row)


def count_steps(packed_rows: int, epochs: float, rows_per_step: int) -> int:
    """Return the optimizer steps of a run: all rows of all epochs, at most `rows_per_step` a step."""
    return max(1, math.ceil(_row_count(packed_rows, epochs) / rows_per_step))


def step_rows(packed_rows: int, epochs: float, rows_per_step: int, seed: int) -> Iterator[list[int]]:
    """Yield the packed rows of each step, `count_steps` times.

    Each epoch has its own order, drawn from (seed, epoch). Rows are spread evenly: two steps differ by one row at most,
    so that no small last step gets the weight of a whole one.
    """
    total = _row_count(packed_rows, epochs)
    order: list[int] = []
    for epoch in range(math.ceil(total / packed_rows)):
        rows = list(range(packed_rows))
        random.Random(f"{seed}/{epoch}").shuffle(rows)
        order += rows
    for rows in spread_evenly(order[:total], rows_per_step):
        yield list(rows)


def pack_order(
    lengths: Sequence[Length], blocks: Sequence[Sequence[int]], row_tokens: int, seed: int
) -> list[list[int]]:
    """Return the packed rows of a run whose order is given, in that order: the sample indices of each.

    blocks: sample indices as they are trained on; an index may occur more than once. Each block is cut into windows of
    about `WINDOW_ROWS` packed rows, packed by themselves, so no sample leaves its window; within one the order is drawn
    from the seed.
    """
    packed: list[list[int]] = []
    windows = [window for block in blocks for window in _windows(lengths, block, WINDOW_ROWS * row_tokens)]
    for number, window in enumerate(windows):
        rows = pack([lengths[index] for index in window], row_tokens, f"{seed}/{number}")
        random.Random(f"{seed}/{number}/rows").shuffle(rows)
        packed += [[window[place] for place in row] for row in rows]
    return packed


def _windows(lengths: Sequence[Length], block: Sequence[int], tokens: int) -> Iterator[Sequence[int]]:
    """Yield parts of a block with about equally many samples, as many parts as hold so many tokens each."""
    total = sum(lengths[index][1] + lengths[index][2] for index in block)
    parts = min(len(block), max(1, total // tokens))
    for part in range(parts):
        yield block[part * len(block) // parts : (part + 1) * len(block) // parts]


def spread_evenly(order: Sequence[Item], rows_per_step: int) -> Iterator[Sequence[Item]]:
    """Yield what each step takes of an order, at most `rows_per_step`; two steps differ by one at most."""
    steps = max(1, math.ceil(len(order) / rows_per_step))
    for step in range(steps):
        yield order[step * len(order) // steps : (step + 1) * len(order) // steps]


def _row_count(packed_rows: int, epochs: float) -> int:
    if packed_rows < 1:
        raise ValueError("there is no packed row")
    return max(1, round(packed_rows * epochs))
