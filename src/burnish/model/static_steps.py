"""Decoding steps of few shapes, which a CUDA graph replays: the host launches one graph instead of a thousand kernels.

In such a step every token belongs to a sequence that decodes, and all its past lies in the sequence's row of the cache. Rows,
tokens of the past and the parts of adapters are rounded up to sizes that come again; what differs from step to step is a row of
numbers (token, position, adapter), copied to the device before each replay. The first step of a shape runs without a graph, the
second is captured. On a CPU the same steps run without graphs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import StepLayout
from burnish.model.families import is_attention, is_gated
from burnish.model.kv_cache import Rows
from burnish.model.lora_parts_gpu import PartShape, bucket, part_numbers, part_shapes, parts_from

OWN_TOKENS = 64
"""Tokens of the past are rounded up to a multiple of this at least."""
MOST_SHAPES = 128
"""Shapes whose graphs are kept."""
MOST_FAILURES = 3
"""Captures that may fail before none is tried again: one alone can be a library that was still being set up."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What steps must have in common to be replayed by one graph."""

    rows: int
    own_tokens: int
    parts: tuple[PartShape, ...]


@dataclass(slots=True)
class _Captured:
    """A shape that was seen: the numbers it reads, and its graph."""

    numbers_X: Tensor
    graph: torch.cuda.CUDAGraph | None = None


class StaticSteps:
    """Runs decoding steps of a model on the rows of a cache. A bank's way must be that of a GPU.

    refused: why steps are not captured any more, though they run on a GPU.
    """

    def __init__(self, model: PreTrainedModel, cache: Rows, banked: BankedModel | None) -> None:
        if banked is not None and banked.way is None:
            raise BaseModelError("steps of static shapes need a bank that computes adapters as a GPU does")
        self._model, self._cache, self._banked = model, cache, banked
        self.refused: str | None = None
        self._failures = 0
        self._stream: torch.cuda.Stream | None = None  # that graphs are captured on
        self._on_gpu = model.device.type == "cuda"
        self._seen: OrderedDict[StepShape, _Captured] = OrderedDict()
        self._where = (-1, -1)
        self._logits_BV: Tensor | None = None  # that all graphs write
        self._pool: tuple[int, int] | None = None

    def run(self, tokens: Sequence[int], own: Sequence[int], adapters: Sequence[Hashable | None]) -> Tensor:
        """Return the logits (B, V) of the next token of B sequences, row by row; they hold until the next call.

        tokens: the last token of each. own: how many tokens before it lie in its row. The cache must have room for one more in
        each row, rounded up as `bucket` does.
        """
        where = (self._cache.moves, self._banked.bank.moves if self._banked is not None else 0)
        if where != self._where:  # a graph knows tensors by their address
            self._seen.clear()
            self._where = where
        shape = self._shape(max(own) + 1, adapters)
        captured = self._seen.get(shape)
        first = captured is None
        if captured is None:
            count = 2 * shape.rows + sum(part.count(shape.rows) for part in shape.parts)
            captured = _Captured(torch.zeros(count, dtype=torch.int64, device=self._model.device))
            self._seen[shape] = captured
            if len(self._seen) > MOST_SHAPES:
                self._seen.popitem(last=False)
        self._seen.move_to_end(shape)
        captured.numbers_X.copy_(self._numbers(shape, tokens, own, adapters), non_blocking=True)
        if not first and self._on_gpu and captured.graph is None and self.refused is None:
            try:
                self._capture(shape, captured)
            except RuntimeError as error:  # something that no graph can hold, such as waiting for the device
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    self.refused = str(error)
        if captured.graph is None:
            return self._compute(shape, captured.numbers_X)[: len(tokens)]
        assert self._logits_BV is not None
        captured.graph.replay()
        return self._logits_BV[: len(tokens)]

    def _shape(self, own_tokens: int, adapters: Sequence[Hashable | None]) -> StepShape:
        parts: Sequence[PartShape] = ()
        if self._banked is not None and self._banked.way is not None:
            parts = part_shapes(self._banked.bank, adapters, self._banked.way)
        return StepShape(bucket(len(adapters)), bucket(own_tokens, OWN_TOKENS), tuple(parts))

    def _numbers(
        self, shape: StepShape, tokens: Sequence[int], own: Sequence[int], adapters: Sequence[Hashable | None]
    ) -> Tensor:
        """Return tokens, positions and adapters of a step; rows that no sequence has compute token 0 at their first place."""
        empty = [0] * (shape.rows - len(tokens))
        numbers = [*tokens, *empty, *own, *empty]
        if self._banked is not None:
            numbers += part_numbers(self._banked.bank, adapters, shape.parts, shape.rows)
        numbers_X = torch.tensor(numbers, dtype=torch.int64)
        return numbers_X.pin_memory() if self._on_gpu else numbers_X

    def _compute(self, shape: StepShape, numbers_X: Tensor) -> Tensor:
        """Compute a step: nothing in here waits for the device or depends on the numbers' values."""
        rows = shape.rows
        tokens_1B, own_1B = numbers_X[None, :rows], numbers_X[None, rows : 2 * rows]
        layout = StepLayout(
            cache=self._cache, own_B=own_1B[0], past_B=torch.zeros_like(own_1B[0]), own_tokens=shape.own_tokens,
            past_tokens=0, readers=[], pieces=[], rounded=True,
        )  # fmt: skip
        adapters = nullcontext()
        if self._banked is not None:
            parts = parts_from(self._banked.bank, shape.parts, numbers_X[2 * rows :], rows)
            adapters = self._banked.computing(parts)
        with adapters:
            logits = self._model(input_ids=tokens_1B, position_ids=own_1B, use_cache=False, burnish_step=layout).logits
        return logits[0]

    def _capture(self, shape: StepShape, captured: _Captured) -> None:
        """Record a step as a graph. All graphs share their memory: they never run at once, and only logits are read later."""
        if self._logits_BV is None or len(self._logits_BV) < shape.rows:
            for other in self._seen.values():  # theirs go with the old tensor
                other.graph = None
            head = self._model.get_input_embeddings().weight
            self._logits_BV = torch.empty(
                shape.rows, self._model.config.vocab_size, dtype=head.dtype, device=head.device
            )
        if self._pool is None or all(other.graph is None for other in self._seen.values()):
            self._pool = torch.cuda.graph_pool_handle()  # a pool ends with the last of its graphs
        if self._stream is None:  # what libraries set up on first use of a stream cannot be captured
            self._stream = torch.cuda.Stream(self._model.device)
            self._stream.wait_stream(torch.cuda.current_stream(self._model.device))
            with torch.cuda.stream(self._stream):
                self._compute(shape, captured.numbers_X)
            torch.cuda.current_stream(self._model.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            self._logits_BV[: shape.rows].copy_(self._compute(shape, captured.numbers_X))
        captured.graph = graph


def has_static_steps(model: PreTrainedModel) -> bool:
    """Return whether a model's step is the same work whatever its numbers are.

    It is not with rotary embeddings that look at positions (dynamic, longrope), and not known of other families.
    """
    modules = list(model.modules())
    known = any(map(is_attention, modules)) and any(map(is_gated, modules))
    rope = str(model.config.to_dict())
    return known and "longrope" not in rope and "'dynamic'" not in rope
