"""A model as a subject of evaluation: it answers prompts and predicts rows, with its adapter, another one, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from burnish.core.rows import TokenRow
from burnish.model.generate import generate
from burnish.model.memory import trim_heap
from burnish.model.row_losses import sequence_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AT_ONCE = 128
"""Answers decoded together: enough for the matrix products to be compute-bound on a CPU."""


class ModelSubject:
    """Answers of one model that carries an adapter: with it, with other weights in it, or without."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: frozenset[int],
        answers_as: Callable[[PreTrainedModel], AbstractContextManager[None]],
    ) -> None:
        """Share `model` between subjects; only one works at a time. answers_as: what it is while it works."""
        self._model, self._stop_ids, self._answers_as = model, stop_ids, answers_as

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, progress: Callable[[int, int], None]
    ) -> list[list[int]]:
        """Answer each prompt greedily, in order, without the stop token."""
        with self._answers_as(self._model):
            answers = generate(
                self._model, prompts, max_new_tokens=max_new_tokens, stop_ids=self._stop_ids, batch=ROWS_AT_ONCE,
                progress=progress,
            )  # fmt: skip
        trim_heap()  # the cache of keys and values is large, and the losses come next
        return answers

    def losses(self, rows: Sequence[TokenRow]) -> list[tuple[float, int]]:
        """Return for each row the summed loss in nats of its tokens with loss, and their number."""
        with self._answers_as(self._model):
            return sequence_losses(self._model, rows)
