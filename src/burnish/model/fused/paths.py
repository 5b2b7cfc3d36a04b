"""Which of several ways each part of a training step takes. They differ in speed and memory alone; the numbers agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from burnish.model.attention import Kernel, packing
from burnish.model.bases import cache_folder
from burnish.model.fused.formulas import AS_WRITTEN, COMPILED
from burnish.model.fused.frozen import Fp8
from burnish.model.fused.replace import fused
from burnish.model.losses import CHUNK, LossForm, likelihood, losses_as

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_BYTES = 256 * 2**20
"""Logits of a chunk on a GPU: enough for products at full speed, and less than what backward holds of a layer at that time."""


COMPILED_IN = "TORCHINDUCTOR_CACHE_DIR"
RECOMPILE_LIMIT = 256
"""A formula serves norms of several widths, dtypes and models of one process; torch's limit of 8 is meant for code that changes."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The way of attention (None: the kernel that always works), of what stands between products, of the weights, of the loss.

    fused False: transformers' own layers. compiled: one kernel for each formula. joined: weights that read one input are one
    tensor. loss_chunk: positions whose logits exist at once; loss_compiled: one kernel for the losses of such a chunk.
    """

    fused: bool
    attention: Kernel | None
    compiled: bool
    joined: bool
    loss_chunk: int
    loss_compiled: bool = False


PLAIN = Paths(fused=False, attention=None, compiled=False, joined=False, loss_chunk=CHUNK)
ON_CPU = Paths(fused=True, attention=None, compiled=False, joined=False, loss_chunk=CHUNK)


def on_gpu(vocabulary: int) -> Paths:
    """Return the paths of a GPU before anything is measured."""
    chunk = max(CHUNK, LOGIT_BYTES // (2 * vocabulary) // CHUNK * CHUNK)
    return Paths(fused=True, attention=None, compiled=True, joined=True, loss_chunk=chunk, loss_compiled=True)


def usual_paths(model: PreTrainedModel) -> Paths:
    """Return the paths for the device that a model is on."""
    head_VD = model.get_output_embeddings().weight
    return ON_CPU if head_VD.device.type == "cpu" else on_gpu(head_VD.shape[0])


def keep_compiled() -> None:
    """Keep what torch compiles for later runs, in /compiled of the cache's folder; where TORCHINDUCTOR_CACHE_DIR is set, there.

    torch's own place is one for all users below /tmp, which it writes into that variable as soon as it is imported. A cache that
    cannot be written leaves it at that.
    """
    if os.environ.get(COMPILED_IN, default_cache_dir()) != default_cache_dir():
        return
    folder = cache_folder().parent / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    os.environ[COMPILED_IN] = str(folder)


@contextmanager
def on_paths(
    model: PreTrainedModel, paths: Paths, *, fp8: Fp8 | None = None, adds: bool = False
) -> Iterator[list[str]]:
    """Within the block the model trains on packed rows on these paths; yields the layers on the plain path, with reasons.

    adds: gradients are there from the start, and fused layers add to those of adapters themselves.
    """
    formulas = COMPILED if paths.compiled else AS_WRITTEN
    form = LossForm(paths.loss_chunk, COMPILED.likelihood if paths.loss_compiled else likelihood)
    with packing(model, paths.attention), losses_as(form):
        if not paths.fused:
            yield []
            return
        with (
            fused(model, formulas, fp8=fp8, join_weights=paths.joined, kernel=paths.attention, adds=adds) as alone,
            torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT),
        ):
            yield alone
