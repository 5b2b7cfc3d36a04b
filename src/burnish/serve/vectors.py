"""Vectors, computed a batch at a time between the steps of answers, so that nobody who asks for many holds up the others."""

from __future__ import annotations

from collections import deque

import torch

from burnish.core.errors import BurnishError
from burnish.model.banked_linear import BankedModel
from burnish.model.hidden import BATCH_TOKENS, mean_hidden
from burnish.serve.request import Embedding

AT_ONCE = 4
"""Requests for vectors that are begun; they take turns, and others wait in line."""


class Vectors:
    """The requests for vectors that are begun. The engine's lock is held around all but `make`, which the engine's thread calls."""

    def __init__(self, banked: BankedModel, beside_tokens: int) -> None:
        self._banked, self._beside_tokens = banked, beside_tokens
        self.begun: deque[Embedding] = deque()

    @property
    def full(self) -> bool:
        """Whether another request has to wait."""
        return len(self.begun) >= AT_ONCE

    def leave(self) -> list[Embedding]:
        """Take all out, whoever computes one now, and return them."""
        left = list(self.begun)
        self.begun.clear()
        return left

    def make(self, asked: Embedding, *, beside: bool) -> None:
        """Make the next batch of a request, a small one beside answers."""
        if not asked.vectors.cancelled():
            limit = self._beside_tokens if beside else BATCH_TOKENS
            asked.made.append(mean_hidden(self._banked, asked.prompts[asked.count :], asked.adapter, limit))

    def end(self, asked: Embedding, error: BurnishError | None) -> bool:
        """Return whether a request has ended: it is whole, failed, nobody waits for it, or it was taken out. Else others go on."""
        if asked not in self.begun:
            return True
        self.begun.remove(asked)
        if error is not None:
            asked.fail(error)
        elif asked.vectors.cancelled():
            return True
        elif asked.count < len(asked.prompts):
            self.begun.append(asked)
            return False
        elif asked.vectors.set_running_or_notify_cancel():
            asked.vectors.set_result(torch.cat(asked.made))
        return True
