"""Which leading tokens of many prompts are worth computing once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def shared_starts(prompts: Sequence[Sequence[int]], least_tokens: int = 16) -> tuple[list[int], list[int]]:
    """Find leading tokens worth computing once.

    Returns the order in which to run the prompts (those with a common start follow each other) and, for each prompt
    (in the given order), how many of its first tokens to share. The choice saves the most tokens among groupings with
    one shared start per prompt: sorted prompts form a tree of common starts, and a group is split where that saves
    more.
    """
    order = sorted(range(len(prompts)), key=lambda i: list(prompts[i]))
    common = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]
    shares = [0] * len(prompts)
    for first, last, length in _best_groups(common, 0, len(order) - 1, least_tokens)[1]:
        for place in range(first, last + 1):
            shares[order[place]] = length
    return order, shares


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common start of two prompts, leaving each at least one own token."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), max(limit, 0))


def _best_groups(common: list[int], first: int, last: int, least: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the most tokens that places first..last of the sorted prompts can save, and the groups that save them."""
    if first >= last:
        return 0, []
    length = min(common[first:last])
    whole = (last - first) * length if length >= least else 0
    cuts = [first - 1, *(i for i in range(first, last) if common[i] == length), last]
    parts = [_best_groups(common, a + 1, b, least) for a, b in pairwise(cuts)]
    saved = sum(part[0] for part in parts)
    if whole >= saved:
        return whole, [(first, last, length)] if whole else []
    return saved, [group for part in parts for group in part[1]]
