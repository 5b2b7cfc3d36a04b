"""Memory for time: recompute the activations of some layers in backward instead of keeping them (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def checkpoint_layers(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Within the block the first `count` decoder layers are recomputed in backward. Raises BaseModelError if they cannot be."""
    if count == 0:
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BaseModelError(
            f"{type(model).__name__} has no layers that transformers can recompute; set checkpointed layers to 0."
        )
    # What the class documents: the flag, and the function to call. (model.gradient_checkpointing_enable sets both on every
    # layer, and is on its way out of transformers.)
    for layer in layers[:count]:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers[:count]:
            layer.gradient_checkpointing = False
