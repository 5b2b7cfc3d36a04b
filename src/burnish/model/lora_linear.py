"""One adapted layer: y = W x + scale B A x with W frozen (Hu et al. 2021, arXiv:2106.09685, equation 3).

Beside that its bias may train, and the length of each row of W + scale B A (DoRA: Liu et al. 2024, arXiv:2402.09353, equation 5).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.model.load import linear_weight


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with frozen W, saving only x and x A^T (rank columns). bias: None where it does not train.

    Written by hand for two reasons: an NF4 weight is dequantised when it is needed instead of being kept for backward,
    and the low-rank products are added into the big product's output without a copy of its size.
    """

    @staticmethod
    def forward(
        ctx, x_TI: Tensor, linear: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float, bias_O: Tensor | None
    ) -> Tensor:
        a_RI, b_OR = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        h_TR = x_TI @ a_RI.t()
        added_O = linear.bias if bias_O is None else bias_O.to(x_TI.dtype)
        y_TO = F.linear(x_TI, linear_weight(linear, x_TI.dtype), added_O)
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
        dbias_O = exact_sum(dy_TO) if ctx.needs_input_grad[5] else None
        return dx_TI, None, da_RI, db_OR, None, dbias_O


def exact_sum(dy_TO: Tensor) -> Tensor:
    """Return the gradient (O,) of a bias in float32 (float64 for float64)."""
    return dy_TO.sum(dim=0, dtype=torch.promote_types(dy_TO.dtype, torch.float32))


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
    """A frozen linear layer and its low-rank correction. `active` False gives the base alone.

    bias: float32, where the base's bias trains; lora_magnitude_vector (PEFT's name): the lengths of DoRA, float32.
    """

    def __init__(
        self, base: nn.Linear, *, rank: int, scale: float, dropout: float, generator: torch.Generator, bias: bool = False,
        dora: bool = False, device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(base)
        self.scale = scale
        self.dropout = dropout
        self.active = True
        a_RI = torch.empty(rank, base.in_features, dtype=torch.float32)
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)  # as PEFT initialises it
        self.lora_A = nn.Parameter(a_RI.to(device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        self.bias = trained_bias(base) if bias else None
        self.lora_magnitude_vector = nn.Parameter(self.lengths()) if dora else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        if not self.active:
            return self.base(x)
        if self.lora_magnitude_vector is not None:
            return self._with_lengths(x, self.lora_magnitude_vector)
        if self.training and self.dropout > 0.0:
            y = self.base(x) + self._low_rank(F.dropout(x, self.dropout))
            return y if self.bias is None else y + bias_change(self.base, self.bias, y.dtype)
        x_TI = x.reshape(-1, x.shape[-1])
        y_TO = _LoraProduct.apply(x_TI, self.base, self.lora_A, self.lora_B, self.scale, self.bias)
        return y_TO.view(*x.shape[:-1], -1)

    def _low_rank(self, x: Tensor) -> Tensor:
        return (x @ self.lora_A.to(x.dtype).t() @ self.lora_B.to(x.dtype).t()) * self.scale

    def _with_lengths(self, x: Tensor, lengths_O: Tensor) -> Tensor:
        """Return m (W + scale B A) x / |W + scale B A|, row by row, and the bias; the norm counts as constant (section 4.3)."""
        factor_O = (lengths_O / self.lengths()).to(x.dtype)
        own_O, now_O = self.base.bias, self.base.bias if self.bias is None else self.bias
        y = self.base(x) if own_O is None else self.base(x) - own_O
        if self.training and self.dropout > 0.0:  # as in PEFT: what is scaled reads what dropout left
            left = F.dropout(x, self.dropout)
            kept = self.base(left) if own_O is None else self.base(left) - own_O
            y = y + (factor_O - 1) * kept + factor_O * self._low_rank(left)
        else:
            y = (y + self._low_rank(x)) * factor_O
        return y if now_O is None else y + now_O.to(y.dtype)

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """Return the length (out,) of each row of W + scale B A, in float32."""
        return torch.linalg.vector_norm(self._sum(), dim=1)

    def _sum(self) -> Tensor:
        return linear_weight(self.base, torch.float32) + self.scale * (self.lora_B @ self.lora_A)

    def merged_weight(self) -> Tensor:
        """Return W + scale B A (out, in) in float32; with DoRA its rows have their own lengths."""
        weight_OI = self._sum()
        if self.lora_magnitude_vector is None:
            return weight_OI
        return weight_OI * (self.lora_magnitude_vector / self.lengths())[:, None]


class BiasedModule(nn.Module):
    """A frozen module that adds a bias (a linear layer without adapter, a norm), whose bias trains. `active` False: as it was."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.active = True
        self.bias = trained_bias(base)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the module makes of x, with the bias as it is now."""
        y = self.base(x)
        return y + bias_change(self.base, self.bias, y.dtype) if self.active and self.bias is not None else y


def trained_bias(base: nn.Module) -> nn.Parameter | None:
    """Return a module's bias in float32, to be trained; None where it has none."""
    return None if base.bias is None else nn.Parameter(base.bias.detach().to(torch.float32, copy=True))


def bias_change(base: nn.Module, bias_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much a trained bias differs from the frozen one."""
    return (bias_O - base.bias).to(dtype)
