"""The same layers, keeping less for backward: the norms and gated feed-forward layers of the Llama family.

transformers' modules leave to autograd every intermediate of their formulas. Here the formulas are differentiated by hand,
so that a token of a layer keeps about a third less, and a norm reads its input half as often. Other architectures keep
their own modules: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from burnish.model.load import linear_weight
from burnish.model.lora_linear import LoraLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
"""weight * x / rms(x), computed in float32."""
GATED = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)
"""down(act(gate(x)) * up(x))."""


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), weight frozen (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        mean_square = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, inverse)
        return weight_D * (x32 * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight_D, inverse = ctx.saved_tensors
        dx_hat = (dy * weight_D).float()
        x32 = x.float()
        along = torch.linalg.vecdot(dx_hat, x32)[..., None] * inverse.square() / x.shape[-1]
        return dx_hat.addcmul_(x32, along, value=-1).mul_(inverse).to(x.dtype), None, None


class _SiluGatedDown(torch.autograd.Function):
    """down(silu(g) u) with a LoRA `down`, keeping g and u; silu(g) u, as wide as they are, is made again in backward."""

    @staticmethod
    def forward(ctx, g_TI: Tensor, u_TI: Tensor, down: LoraLinear, a_RI: Tensor, b_OR: Tensor) -> Tensor:
        a_RI, b_OR = a_RI.to(g_TI.dtype), b_OR.to(g_TI.dtype)
        x_TI = F.silu(g_TI).mul_(u_TI)
        h_TR = x_TI @ a_RI.t()
        y_TO = F.linear(x_TI, linear_weight(down.base, x_TI.dtype), down.base.bias)
        ctx.save_for_backward(g_TI, u_TI, h_TR, a_RI, b_OR)
        ctx.down = down
        return y_TO.addmm_(h_TR, b_OR.t(), alpha=down.scale)

    @staticmethod
    def backward(ctx, dy_TO: Tensor):
        g_TI, u_TI, h_TR, a_RI, b_OR = ctx.saved_tensors
        scale = ctx.down.scale
        dh_TR = dy_TO @ b_OR
        silu_TI = F.silu(g_TI)
        da_RI = (dh_TR.t() @ (silu_TI * u_TI)).float().mul_(scale)
        db_OR = (dy_TO.t() @ h_TR).float().mul_(scale)
        dx_TI = dy_TO @ linear_weight(ctx.down.base, dy_TO.dtype)
        dx_TI.addmm_(dh_TR, a_RI, alpha=scale)
        du_TI = silu_TI.mul_(dx_TI)
        dg_TI = torch.ops.aten.silu_backward(dx_TI.mul_(u_TI), g_TI)
        return dg_TI, du_TI, None, da_RI, db_OR


class LeanNorm(nn.Module):
    """An RMS norm with the weight of another."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed x, in the same shape and dtype."""
        return _RmsNorm.apply(x, self.weight, self.eps)


class LeanGated(nn.Module):
    """A SiLU-gated feed-forward layer with the three linear layers of another, `down` adapted by LoRA."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = layer.gate_proj, layer.up_proj, layer.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        down = self.down_proj
        g, u = self.gate_proj(x), self.up_proj(x)
        if not down.active:  # adapter_off: the formula below always adds the adapter
            return down(F.silu(g) * u)
        y_TO = _SiluGatedDown.apply(g.flatten(0, -2), u.flatten(0, -2), down, down.lora_A, down.lora_B)
        return y_TO.view(*x.shape[:-1], -1)


@contextmanager
def lean(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the known modules of the model are the lean ones; afterwards they are as they were."""
    before = {name: module for name, module in model.named_modules() if _is_known(module)}
    for name, module in before.items():
        model.set_submodule(name, LeanNorm(module) if isinstance(module, NORMS) else LeanGated(module))
    try:
        yield
    finally:
        for name, module in before.items():
            model.set_submodule(name, module)


def _is_known(module: nn.Module) -> bool:
    if not isinstance(module, GATED):
        return isinstance(module, NORMS)
    down = module.down_proj
    return (
        isinstance(module.act_fn, (nn.SiLU, SiLUActivation))
        and isinstance(down, LoraLinear)
        and down.active
        and down.dropout == 0.0
    )
