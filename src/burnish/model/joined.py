"""Adapted linears that read the same input, computed together: q, k and v, and gate and up.

Their A matrices are stacked, so that the input is read once for all of them, in forward and in backward; backward writes one
gradient of the input instead of three that autograd adds up. No foreign module is touched: an adapted layer asks its group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2MLP
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP

from burnish.model.lean import LeanGated
from burnish.model.load import linear_weight
from burnish.model.lora_linear import LoraLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = (LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention, Gemma2Attention, Gemma3Attention)
GATED = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP, Gemma2MLP, Gemma3MLP, LeanGated)
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of the layers that read one input in the modules above."""


class _JoinedProduct(torch.autograd.Function):
    """x W_i^T + bias_i + scale_i (x A_i^T) B_i^T for several frozen W_i, saving x once and the stacked x A^T.

    Hu et al. 2021, arXiv:2106.09685, equation 3. S is the sum of the ranks; outputs are separate tensors, so that keeping one
    for backward does not keep the others.
    """

    @staticmethod
    def forward(ctx, x_TI: Tensor, layers: tuple[LoraLinear, ...], *matrices: Tensor) -> tuple[Tensor, ...]:
        a_SI, b = _stacked(matrices, x_TI.dtype)
        h_TS = x_TI @ a_SI.t()
        outputs = []
        for layer, b_OR, h_TR in zip(layers, b, h_TS.split(_ranks(layers), dim=1), strict=True):
            y_TO = F.linear(x_TI, linear_weight(layer.base, x_TI.dtype), layer.base.bias)
            outputs.append(y_TO.addmm_(h_TR, b_OR.t(), alpha=layer.scale))
        ctx.save_for_backward(x_TI, h_TS, *matrices)
        ctx.layers = layers
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *dy: Tensor):
        x_TI, h_TS, *matrices = ctx.saved_tensors
        a_SI, b = _stacked(matrices, x_TI.dtype)
        layers, ranks = ctx.layers, _ranks(ctx.layers)
        products = zip(dy, b, layers, strict=True)
        dh_TS = torch.cat([(dy_TO @ b_OR).mul_(layer.scale) for dy_TO, b_OR, layer in products], dim=1)
        da = (dh_TS.t() @ x_TI).float().split(ranks)
        low_rank = zip(dy, h_TS.split(ranks, dim=1), layers, strict=True)
        db = [(dy_TO.t() @ h_TR).float().mul_(layer.scale) for dy_TO, h_TR, layer in low_rank]
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = dh_TS @ a_SI
            for dy_TO, layer in zip(dy, layers, strict=True):
                dx_TI.addmm_(dy_TO, linear_weight(layer.base, dy_TO.dtype))
        return dx_TI, None, *da, *db


def _stacked(matrices: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Return the A matrices of a group as one (S, in), and its B matrices, all in `dtype`."""
    half = len(matrices) // 2
    return torch.cat([a_RI.to(dtype) for a_RI in matrices[:half]]), [b_OR.to(dtype) for b_OR in matrices[half:]]


def _ranks(layers: tuple[LoraLinear, ...]) -> list[int]:
    return [layer.lora_A.shape[0] for layer in layers]


class JoinedLayers:
    """Layers that are called one after another with the same tensor: the first call computes the outputs of all."""

    def __init__(self, layers: tuple[LoraLinear, ...]) -> None:
        self.layers = layers
        self._x: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def take(self, layer: LoraLinear, x: Tensor) -> Tensor:
        """Return what `layer` (one of the group) makes of x (..., in)."""
        if x is not self._x or id(layer) not in self._waiting:
            x_TI = x.reshape(-1, x.shape[-1])
            matrices = [one.lora_A for one in self.layers] + [one.lora_B for one in self.layers]
            outputs = _JoinedProduct.apply(x_TI, self.layers, *matrices)
            self._x = x
            self._waiting = {id(one): y_TO for one, y_TO in zip(self.layers, outputs, strict=True)}
        y_TO = self._waiting.pop(id(layer))
        if not self._waiting:
            self._x = None
        return y_TO.view(*x.shape[:-1], -1)

    def forget(self) -> None:
        """Let go of outputs that nobody took, as when recomputation stops early."""
        self._x, self._waiting = None, {}


@contextmanager
def joined(model: PreTrainedModel) -> Iterator[list[str]]:
    """Within the block the adapted layers of known modules that read the same input are computed together.

    Yields the names of the modules whose layers are not joined, each with the reason: they take the plain path.
    """
    groups, alone = [], []
    for name, module in model.named_modules():
        members = _members(module)
        if not members:
            continue
        reason = _reason(module, members)
        if reason is None:
            groups.append(JoinedLayers(tuple(members)))
        else:
            alone.append(f"{name}: {reason}")
    for group in groups:
        for layer in group.layers:
            layer.joined = group
    try:
        yield alone
    finally:
        for group in groups:
            group.forget()
            for layer in group.layers:
                layer.joined = None


def _members(module: nn.Module) -> list[LoraLinear]:
    """Return the adapted layers among those of a module that read the same input in the known families."""
    children = dict(module.named_children())
    for names in SAME_INPUT:
        found = [children[name] for name in names if isinstance(children.get(name), LoraLinear)]
        if found:
            return found
    return []


def _reason(module: nn.Module, members: list[LoraLinear]) -> str | None:
    if not isinstance(module, ATTENTION + GATED):
        return f"{type(module).__name__} is not one of the modules that are known to read one input"
    if any(layer.dropout > 0.0 for layer in members):
        return "each adapter drops other inputs (method.dropout)"
    return "one adapted layer has nothing to be joined with" if len(members) == 1 else None
