"""Time for memory: layers that are computed again in backward (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError
from burnish.model.fused.layer import FusedLayer
from burnish.model.lora_linear import LoraLinear
from burnish.model.offload import BLOCK_BYTES, LEAST_BYTES, Offload
from burnish.model.passes import recomputing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Recomputation:
    """Which decoder layers of a model are computed again in backward; their number may grow while it trains.

    The first `whole` layers keep their input alone. The `feed_forward` layers after them keep what attention needs and its
    result, and make the feed-forward half again: about half of the time for two thirds of the memory, and attention, whose time
    grows with the square of the length, is never computed twice. Layers that are not fused are made again whole instead.
    What the first `offloaded` layers keep lies in host memory (`model/offload.py`; block, least: in what pieces, from which size).
    piece_tokens: fused layers that are made again have so many tokens in their feed-forward half at once, where nothing is dropped.

    Within the block they are. Raises BaseModelError if a model's layers cannot be made again.
    """

    def __init__(
        self, model: PreTrainedModel, whole: int, feed_forward: int = 0, *, offloaded: int = 0,
        piece_tokens: int | None = None, block: int = BLOCK_BYTES, least: int = LEAST_BYTES,
    ) -> None:  # fmt: skip
        self.model, self.whole, self.feed_forward = model, whole, feed_forward
        self.offloaded, self.piece_tokens = offloaded, piece_tokens
        self._sizes = block, least
        self._layers: list[GradientCheckpointingLayer] = []
        self._offload: Offload | None = None

    def __enter__(self) -> Self:
        self._layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not self._layers and self.whole + self.feed_forward + self.offloaded:
            raise BaseModelError(
                f"{type(self.model).__name__} has no layers that transformers can recompute; set checkpointed layers to 0."
            )
        self._set()
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        self._offload = None

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory taken for what layers keep."""
        return 0 if self._offload is None else self._offload.host_bytes

    def grow(self) -> bool:
        """Let a quarter of the layers more give way; returns whether there were any left.

        Feed-forward halves first, then whole layers; on a GPU what those keep goes to the host then.
        """
        count, more = len(self._layers), max(1, len(self._layers) // 4)
        if self.whole + self.feed_forward < count:
            self.feed_forward = min(count - self.whole, self.feed_forward + more)
        elif self.whole < count:
            self.whole = min(count, self.whole + more)
            self.feed_forward = count - self.whole
        elif self.offloaded < count and self.model.device.type == "cuda":
            self.offloaded = min(count, self.offloaded + more)
        else:
            return False
        self._set()
        return True

    def _set(self) -> None:
        # What the class documents: the flag, and the function to call. (model.gradient_checkpointing_enable sets both on every
        # layer, and is on its way out of transformers.)
        random = any(isinstance(module, LoraLinear) and module.dropout > 0 for module in self.model.modules())
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=random, context_fn=_contexts)
        self._clear()
        if self.offloaded and self._offload is None:
            block, least = self._sizes
            self._offload = Offload(self.model, block=block, least=least)
        for number, layer in enumerate(self._layers[: max(self.whole + self.feed_forward, self.offloaded)]):
            halved = number >= self.whole and isinstance(layer, FusedLayer)
            made_again = number < self.whole + self.feed_forward
            run: Callable[..., Tensor] = again if made_again and not halved else _once
            if self._offload is not None and number < self.offloaded:
                run = self._offload.around(number, run)
            if run is not _once:
                layer._gradient_checkpointing_func = run
                layer.gradient_checkpointing = True
            if made_again and isinstance(layer, FusedLayer):
                layer.piece_tokens = None if random else self.piece_tokens
                layer.feed_forward_again = again if halved else None

    def _clear(self) -> None:
        for layer in self._layers:
            layer.gradient_checkpointing = False
            if isinstance(layer, FusedLayer):
                layer.feed_forward_again = layer.piece_tokens = None


def _once(layer: Callable[..., Tensor], *args: Any) -> Tensor:
    return layer(*args)


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer is computed in the first time, and the second."""
    return nullcontext(), recomputing()
