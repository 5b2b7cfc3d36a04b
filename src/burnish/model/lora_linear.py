"""One adapted layer: y = W x + scale B A x with W frozen (Hu et al. 2021, arXiv:2106.09685, equation 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.model.load import linear_weight


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with frozen W, saving only x and x A^T (rank columns).

    Written by hand for two reasons: an NF4 weight is dequantised when it is needed instead of being kept for backward,
    and the low-rank products are added into the big product's output without a copy of its size.
    """

    @staticmethod
    def forward(ctx, x_TI: Tensor, linear: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        a_RI, b_OR = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        h_TR = x_TI @ a_RI.t()
        y_TO = F.linear(x_TI, linear_weight(linear, x_TI.dtype), linear.bias)
        y_TO.addmm_(h_TR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_TI, h_TR, a_RI, b_OR)
        ctx.linear, ctx.scale = linear, scale
        return y_TO

    @staticmethod
    def backward(ctx, dy_TO: Tensor):
        x_TI, h_TR, a_RI, b_OR = ctx.saved_tensors
        dh_TR = dy_TO @ b_OR
        da_RI = (dh_TR.t() @ x_TI).float().mul_(ctx.scale)
        db_OR = (dy_TO.t() @ h_TR).float().mul_(ctx.scale)
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = dy_TO @ linear_weight(ctx.linear, dy_TO.dtype)
            dx_TI.addmm_(dh_TR, a_RI, alpha=ctx.scale)
        return dx_TI, None, da_RI, db_OR, None


class AdaptedLinear(nn.Module):
    """A frozen linear layer (float or NF4) that something is added to."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def in_features(self) -> int:
        """Columns of the frozen weight."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Rows of the frozen weight."""
        return self.base.out_features


class LoraLinear(AdaptedLinear):
    """A frozen linear layer and its low-rank correction. `active` False gives the base alone."""

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(base)
        self.scale = scale
        self.dropout = dropout
        self.active = True
        a_RI = torch.empty(rank, base.in_features, dtype=torch.float32)
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)  # as PEFT initialises it
        self.lora_A = nn.Parameter(a_RI.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        if not self.active:
            return self.base(x)
        if self.training and self.dropout > 0.0:
            h = F.dropout(x, self.dropout) @ self.lora_A.to(x.dtype).t()
            return self.base(x) + (h @ self.lora_B.to(x.dtype).t()) * self.scale
        x_TI = x.reshape(-1, x.shape[-1])
        y_TO = _LoraProduct.apply(x_TI, self.base, self.lora_A, self.lora_B, self.scale)
        return y_TO.view(*x.shape[:-1], -1)

    def merged_weight(self) -> Tensor:
        """Return W + scale B A (out, in) in float32."""
        return linear_weight(self.base, torch.float32) + self.scale * (self.lora_B @ self.lora_A)
