"""Memory: how much is held, and time for memory by recomputing layers in backward (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING

import psutil
import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError
from burnish.model.fused.functions import recomputing
from burnish.model.lora_linear import LoraLinear

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
    random = any(isinstance(module, LoraLinear) and module.dropout > 0 for module in model.modules())
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=random, context_fn=_contexts)
    for layer in layers[:count]:
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers[:count]:
            layer.gradient_checkpointing = False


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer is computed in the first time, and the second."""
    return nullcontext(), recomputing()


def trim_heap() -> None:
    """Give what the C heap holds but nothing uses back to the system; some 60 ms for a heap of 2 GB.

    glibc keeps freed blocks between those in use, and activations of many sizes leave more such holes with every step. A
    stage that follows another in the same process would add its own memory to them. Nothing to do without malloc_trim(3).
    """
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim():
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


class MemoryPeak:
    """The most memory seen so far. Looked at after a forward pass, when all activations are held."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.process = psutil.Process()
        self.rss_bytes = 0
        self.device_bytes = 0

    def look(self) -> None:
        """Take the resident memory of the process, and the most the device has held."""
        self.rss_bytes = max(self.rss_bytes, self.process.memory_info().rss)
        if self.device.type == "cuda":
            self.device_bytes = torch.cuda.max_memory_allocated(self.device)
