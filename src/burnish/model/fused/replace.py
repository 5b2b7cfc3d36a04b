"""Put fused layers in the place of a model's decoder layers for the time of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from burnish.core.errors import ResourceError
from burnish.model.attention import Kernel
from burnish.model.fused.formulas import AS_WRITTEN, Formulas
from burnish.model.fused.frozen import Form, Fp8, has_fp8
from burnish.model.fused.group import Copies
from burnish.model.fused.layer import FusedLayer, decoder_layers, plain_reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def fused(
    model: PreTrainedModel,
    formulas: Formulas = AS_WRITTEN,
    *,
    fp8: Fp8 | None = None,
    join_weights: bool = False,
    kernel: Kernel | None = None,
    adds: bool = False,
) -> Iterator[list[str]]:
    """Within the block the decoder layers of known families are fused ones; afterwards they are as they were.

    kernel: of attention within packed rows, where it fits.
    adds: gradients of adapters are there, and backward passes add to them; autograd does not see them.
    join_weights: float weights that read one input become one tensor, for one product; on a CPU that gains nothing.
    fp8: products of float8, backward alone ("fp8") or both ways: with "fp8_all" the weights are let go of, and the model can be
    trained further, and nothing else, afterwards.
    Yields the names of the layers that take the plain path, each with the reason. Raises ResourceError for fp8 on a device
    that does not multiply it.
    """
    device = model.get_input_embeddings().weight.device
    if fp8 is not None and not has_fp8(device):
        raise ResourceError(
            f"method.base_dtype: {fp8} needs a card that multiplies float8 (Ada, Hopper or newer); this is {_name(device)}. "
            "Leave method.base_dtype out."
        )
    form: Form = fp8 or ("joined" if join_weights else "separate")
    before, copies = decoder_layers(model), Copies()
    alone = []
    for name, layer in before.items():
        reason = plain_reason(layer)
        if reason is None:
            model.set_submodule(name, FusedLayer(layer, formulas, form=form, copies=copies, kernel=kernel, adds=adds))
        else:
            alone.append(f"{name}: {reason}")
    try:
        yield alone
    finally:
        for name, layer in before.items():
            model.set_submodule(name, layer)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
