"""A model as a subject of evaluation: it answers prompts and predicts rows, with an adapter or none, or as another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.rows import TokenRow
from burnish.model.generate import generate
from burnish.model.memory import trim_heap
from burnish.model.row_losses import RowRead, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AT_ONCE = 128
"""Answers decoded together: enough for the matrix products to be compute-bound on a CPU."""


class ModelSubject:
    """Answers of a model: with an adapter, with other weights in it, or without; or of one that is loaded when it is asked."""

    def __init__(self, lent: Callable[[], AbstractContextManager[PreTrainedModel]], stop_ids: frozenset[int]) -> None:
        """Subjects may share a model; only one works at a time. lent: gives the model as it shall answer, while it works."""
        self._lent, self._stop_ids = lent, stop_ids

    def read(self, rows: Sequence[TokenRow]) -> list[RowRead]:
        """Return what reading each row gives: its loss, and how much of its answer this model would write itself."""
        with self._lent() as model:
            return read_rows(model, rows)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int, int], None],
    ) -> list[list[int]]:
        """Answer each prompt greedily, in order, without the stop token. begun: how each answer begins, where known."""
        with self._lent() as model:
            answers = generate(
                model, prompts, begun=begun, max_new_tokens=max_new_tokens, stop_ids=self._stop_ids, batch=ROWS_AT_ONCE,
                progress=progress,
            )  # fmt: skip
        trim_heap()  # the cache of keys and values is large, and other losses come next
        return answers


class OneAtATime:
    """Models of several folders, of which one is in memory: the one that was asked for last."""

    def __init__(self, load: Callable[[Path], PreTrainedModel]) -> None:
        self._load = load
        self._folder: Path | None = None
        self._model: PreTrainedModel | None = None

    @contextmanager
    def lend(self, folder: Path) -> Iterator[PreTrainedModel]:
        """Give the model of a folder, loaded if another one is in memory."""
        if self._model is None or folder != self._folder:
            self._model = None
            trim_heap()
            self._model, self._folder = self._load(folder), folder
        yield self._model
