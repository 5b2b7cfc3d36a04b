"""What prompts of one adapter have in common with earlier ones, so that it is computed once and kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

REMEMBERED_PROMPTS = 64
"""Prompts that a new one with the same adapter is compared with, to find what they share."""
SHARED_TOKENS = 32
"""A shorter common start is not worth keeping apart."""


class RecentPrompts:
    """The last prompts of all adapters."""

    def __init__(self) -> None:
        self._recent: deque[tuple[Hashable | None, Tensor]] = deque(maxlen=REMEMBERED_PROMPTS)

    def shared(self, tokens: Sequence[int], adapter: Hashable | None) -> int:
        """Remember a prompt; return how many of its first tokens an earlier one of the adapter has, 0 where that is too few."""
        tokens_T = torch.tensor(tokens)
        share = max((_common(tokens_T, other) for owner, other in self._recent if owner == adapter), default=0)
        self._recent.append((adapter, tokens_T))
        return share if share >= SHARED_TOKENS else 0


def _common(a: Tensor, b: Tensor) -> int:
    """Length of the common start of two prompts."""
    length = min(len(a), len(b))
    differs = (a[:length] != b[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
