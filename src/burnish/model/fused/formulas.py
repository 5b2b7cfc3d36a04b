"""What stands between the products of a layer, forward and backward: norms, rotations, gates, 8-bit rounding.

Each formula is a pure function of tensors. `Formulas` hands them out as they are, or compiled into one kernel each, which reads
its inputs once where torch's own operations read and write them several times. T tokens, H heads, D size of what is normed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["silu", "gelu_tanh"]
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""The largest value of float8 with 4 bits of exponent (Micikevicius et al. 2022, arXiv:2209.05433, table 1)."""


def norm(x: Tensor, weight_D: Tensor, eps: float, offset: bool) -> tuple[Tensor, Tensor]:
    """Return x / rms(x) * weight over the last dimension, and 1 / rms(x) in float32.

    Zhang and Sennrich 2019, arXiv:1910.07467, equation 4. offset: the weight is stored less 1, and applied before rounding (Gemma).
    """
    exact = _exact(x)
    inverse = torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + eps)
    if offset:
        return (exact * inverse * (1.0 + _exact(weight_D))).to(x.dtype), inverse
    return weight_D * (exact * inverse).to(x.dtype), inverse


def add_norm(x: Tensor, y: Tensor, weight_D: Tensor, eps: float, offset: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x + y, and what `norm` gives of it."""
    total = x + y
    return total, *norm(total, weight_D, eps, offset)


def norm_backward(
    dn: Tensor, x: Tensor, weight_D: Tensor, inverse: Tensor, offset: bool, beside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, plus `beside` (the gradient that reaches x around the norm), and norm(x) again."""
    exact = _exact(x)
    weight = 1.0 + _exact(weight_D) if offset else _exact(weight_D)
    dx_hat = _exact(dn) * weight
    along = (dx_hat * exact).mean(dim=-1, keepdim=True) * inverse.square()
    dx = (dx_hat - exact * along) * inverse
    if beside is not None:
        dx = dx + _exact(beside)
    normed = (exact * inverse * weight).to(x.dtype) if offset else weight_D * (exact * inverse).to(x.dtype)
    return dx.to(x.dtype), normed


def norm_weight_gradient(dn: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient (D,) of a norm's weight, stored less 1 or not, in float32: the sum of dn x / rms(x) over all rows."""
    return (_exact(dn) * (_exact(x) * inverse)).flatten(0, -2).sum(dim=0)


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Return x with the two halves of each head rotated (Su et al. 2021, arXiv:2104.09864, equation 34)."""
    half = x_THD.shape[-1] // 2
    turned = torch.cat([-x_THD[..., half:], x_THD[..., :half]], dim=-1)
    return x_THD * cos_TD[:, None] + turned * sin_TD[:, None]


def rotate_back(d_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Return the gradient of `rotate`'s x: the transposed rotation."""
    half = d_THD.shape[-1] // 2
    turned = d_THD * sin_TD[:, None]
    return d_THD * cos_TD[:, None] + torch.cat([turned[..., half:], -turned[..., :half]], dim=-1)


def heads(qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries (T, heads, D), rotated keys and values (T, key heads, D). sizes: heads, key heads."""
    q, k, v = by_head(qkv_TO, cos_TD.shape[-1], sizes)
    return rotate(q, cos_TD, sin_TD), rotate(k, cos_TD, sin_TD), v.contiguous()


def heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Return the gradient (T, O) of `heads`' joined projections."""
    parts = rotate_back(dq, cos_TD, sin_TD), rotate_back(dk, cos_TD, sin_TD), dv
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def normed_heads(
    qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int], q_weight: Tensor, k_weight: Tensor,
    eps: float, offset: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return what `heads` gives of queries and keys that are normed first, and 1 / rms of each head of both."""
    q, k, v = by_head(qkv_TO, cos_TD.shape[-1], sizes)
    q, q_inverse = norm(q, q_weight, eps, offset)
    k, k_inverse = norm(k, k_weight, eps, offset)
    return rotate(q, cos_TD, sin_TD), rotate(k, cos_TD, sin_TD), v.contiguous(), q_inverse, k_inverse


def normed_heads_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, cos_TD: Tensor, sin_TD: Tensor, qkv_TO: Tensor, sizes: tuple[int, int],
    q_weight: Tensor, k_weight: Tensor, q_inverse: Tensor, k_inverse: Tensor, offset: bool,
) -> Tensor:  # fmt: skip
    """Return the gradient (T, O) of `normed_heads`' joined projections."""
    q, k, _ = by_head(qkv_TO, cos_TD.shape[-1], sizes)
    dq, _ = norm_backward(rotate_back(dq, cos_TD, sin_TD), q, q_weight, q_inverse, offset, None)
    dk, _ = norm_backward(rotate_back(dk, cos_TD, sin_TD), k, k_weight, k_inverse, offset, None)
    return torch.cat([dq.flatten(1), dk.flatten(1), dv.flatten(1)], dim=1)


def gate(g_TI: Tensor, u_TI: Tensor, activation: Activation) -> Tensor:
    """Return act(g) u (Shazeer 2020, arXiv:2002.05202, section 2)."""
    return (_activated(_exact(g_TI), activation) * _exact(u_TI)).to(g_TI.dtype)


def gate_backward(da_TI: Tensor, g_TI: Tensor, u_TI: Tensor, activation: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of g and u, and act(g) u again. May write them over u's, g's and da's own places."""
    da, g, u = _exact(da_TI), _exact(g_TI), _exact(u_TI)
    active = _activated(g, activation)
    if activation == "silu":
        dg = torch.ops.aten.silu_backward(da * u, g)
    else:
        dg = torch.ops.aten.gelu_backward(da * u, g, approximate="tanh")
    return dg.to(g_TI.dtype), (da * active).to(g_TI.dtype), (active * u).to(g_TI.dtype)


def gate_backward_in_place(da_TI: Tensor, g_TI: Tensor, u_TI: Tensor, activation: Activation) -> None:
    """Write `gate_backward`'s three results over g, u and da: backward has no other use of them."""
    dg, du, a = gate_backward(da_TI, g_TI, u_TI, activation)
    g_TI.copy_(dg)
    u_TI.copy_(du)
    da_TI.copy_(a)


def rounded(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Return x as float8 with one scale for each row (T, 1), so that x is about rounded * scale."""
    exact = x_TI.float()
    scale_T1 = exact.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return (exact / scale_T1).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale_T1


def likelihood(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log softmax(logits)[target] of each position in float32, and its gradient softmax - onehot in the logits' dtype.

    May write the gradient over the logits.
    """
    exact = _exact(logits_NV)
    total_N1 = torch.logsumexp(exact, dim=-1, keepdim=True)
    hit = torch.arange(logits_NV.shape[-1], device=logits_NV.device)[None] == targets_N[:, None]
    nats_N = total_N1[:, 0] - exact.gather(-1, targets_N[:, None])[:, 0]
    gradient_NV = torch.exp(exact - total_N1) - hit.to(exact.dtype)
    return nats_N, gradient_NV.to(logits_NV.dtype)


def likelihood_in_place(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the losses of `likelihood`, and write its gradient over the logits."""
    nats_N, gradient_NV = likelihood(logits_NV, targets_N)
    logits_NV.copy_(gradient_NV)
    return nats_N


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _activated(g: Tensor, activation: Activation) -> Tensor:
    return F.silu(g) if activation == "silu" else F.gelu(g, approximate="tanh")


def by_head(qkv_TO: Tensor, size: int, sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return joined projections as queries, keys and values, each (T, heads, size). sizes: heads, key heads."""
    q, k = sizes
    x_THD = qkv_TO.view(qkv_TO.shape[0], q + 2 * k, size)
    return x_THD[:, :q], x_THD[:, q : q + k], x_THD[:, q + k :]


@dataclass(frozen=True, slots=True)
class Formulas:
    """The formulas in one form: as written, or each compiled into a kernel (`compiled`)."""

    norm: Callable[..., tuple[Tensor, Tensor]] = norm
    add_norm: Callable[..., tuple[Tensor, Tensor, Tensor]] = add_norm
    norm_backward: Callable[..., tuple[Tensor, Tensor]] = norm_backward
    heads: Callable[..., tuple[Tensor, Tensor, Tensor]] = heads
    heads_backward: Callable[..., Tensor] = heads_backward
    normed_heads: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = normed_heads
    normed_heads_backward: Callable[..., Tensor] = normed_heads_backward
    gate: Callable[..., Tensor] = gate
    gate_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = gate_backward
    rounded: Callable[..., tuple[Tensor, Tensor]] = rounded
    likelihood: Callable[..., tuple[Tensor, Tensor]] = likelihood
    norm_weight_gradient: Callable[..., Tensor] = norm_weight_gradient


AS_WRITTEN = Formulas()
_gate_backward_in_place = torch.compile(gate_backward_in_place, fullgraph=True)


def _gate_backward(da_TI: Tensor, g_TI: Tensor, u_TI: Tensor, activation: Activation) -> tuple[Tensor, Tensor, Tensor]:
    _gate_backward_in_place(da_TI, g_TI, u_TI, activation)
    return g_TI, u_TI, da_TI


_likelihood_in_place = torch.compile(likelihood_in_place, fullgraph=True)
_norm_compiled = torch.compile(norm, fullgraph=True)
_heads_compiled = torch.compile(heads, fullgraph=True)
_heads_backward_compiled = torch.compile(heads_backward, fullgraph=True)


def _has_kernel(x: Tensor) -> bool:
    """Return whether kernels.py takes it: Triton comes with torch for CUDA alone, and its kernels compute in float32."""
    return x.is_cuda and x.dtype != torch.float64


def _norm(x: Tensor, weight_D: Tensor, eps: float, offset: bool) -> tuple[Tensor, Tensor]:
    if not _has_kernel(x) or x.ndim != 2 or x.stride(1) != 1:
        return _norm_compiled(x, weight_D, eps, offset)
    from burnish.model.fused import kernels

    return (kernels.norm if x.shape[1] <= kernels.WIDEST else _norm_compiled)(x, weight_D, eps, offset)


def _likelihood(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    if not _has_kernel(logits_NV):
        return _likelihood_in_place(logits_NV, targets_N), logits_NV
    from burnish.model.fused import kernels

    return kernels.likelihood(logits_NV, targets_N)


def _heads(qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    if not _has_kernel(qkv_TO):
        return _heads_compiled(qkv_TO, cos_TD, sin_TD, sizes)
    from burnish.model.fused import kernels

    return kernels.heads(qkv_TO, cos_TD, sin_TD, sizes)


def _heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    if not _has_kernel(dq):
        return _heads_backward_compiled(dq, dk, dv, cos_TD, sin_TD)
    from burnish.model.fused import kernels

    return kernels.heads_backward(dq, dk, dv, cos_TD, sin_TD)


_rounded_compiled = torch.compile(rounded, fullgraph=True)


def _rounded(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    from burnish.model.fused import kernels  # Triton comes with torch for CUDA alone

    return kernels.rounded(x_TI) if x_TI.shape[1] <= kernels.WIDEST else _rounded_compiled(x_TI)


COMPILED = Formulas(
    norm=_norm,
    add_norm=torch.compile(add_norm, fullgraph=True),
    norm_backward=torch.compile(norm_backward, fullgraph=True),
    heads=_heads,
    heads_backward=_heads_backward,
    normed_heads=torch.compile(normed_heads, fullgraph=True),
    normed_heads_backward=torch.compile(normed_heads_backward, fullgraph=True),
    gate=torch.compile(gate, fullgraph=True),
    gate_backward=_gate_backward,
    rounded=_rounded,
    likelihood=_likelihood,
    norm_weight_gradient=torch.compile(norm_weight_gradient, fullgraph=True),
)
"""Nothing is compiled before its first call; a second number of tokens compiles a kernel for any number. On a GPU what the compiler
reads twice is a kernel of our own (kernels.py)."""
