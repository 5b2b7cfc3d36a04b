"""Time for memory: layers that are computed again in backward (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Self

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError
from burnish.model.fused.functions import recomputing
from burnish.model.fused.layer import FusedLayer
from burnish.model.lora_linear import LoraLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Recomputation:
    """Which decoder layers of a model are computed again in backward; their number may grow while it trains.

    The first `whole` layers keep their input alone. The `feed_forward` layers after them keep what attention needs and its
    result, and make the feed-forward half again: about half of the time for two thirds of the memory, and attention, whose time
    grows with the square of the length, is never computed twice. Layers that are not fused are made again whole instead.

    Within the block they are. Raises BaseModelError if a model's layers cannot be made again.
    """

    def __init__(self, model: PreTrainedModel, whole: int, feed_forward: int = 0) -> None:
        self.model, self.whole, self.feed_forward = model, whole, feed_forward
        self._layers: list[GradientCheckpointingLayer] = []

    def __enter__(self) -> Self:
        self._layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not self._layers and self.whole + self.feed_forward:
            raise BaseModelError(
                f"{type(self.model).__name__} has no layers that transformers can recompute; set checkpointed layers to 0."
            )
        self._set()
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def grow(self) -> bool:
        """Compute a quarter of the layers more again, feed-forward halves first; returns whether there were any left."""
        count, more = len(self._layers), max(1, len(self._layers) // 4)
        if self.whole + self.feed_forward < count:
            self.feed_forward = min(count - self.whole, self.feed_forward + more)
        elif self.whole < count:
            self.whole = min(count, self.whole + more)
            self.feed_forward = count - self.whole
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
        for number, layer in enumerate(self._layers[: self.whole + self.feed_forward]):
            if number >= self.whole and isinstance(layer, FusedLayer):
                layer.feed_forward_again = again
            else:
                layer._gradient_checkpointing_func = again
                layer.gradient_checkpointing = True

    def _clear(self) -> None:
        for layer in self._layers:
            layer.gradient_checkpointing = False
            if isinstance(layer, FusedLayer):
                layer.feed_forward_again = None


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer is computed in the first time, and the second."""
    return nullcontext(), recomputing()
