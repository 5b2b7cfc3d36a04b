"""The differentiable steps of a layer. Each saves little: what is cheap to make again (a norm, a gate) is made in backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.model.fused.formulas import Activation, Formulas, by_head, rotate_back
from burnish.model.fused.group import AdaptedGroup
from burnish.model.passes import is_recomputing, recomputing


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: its weight, eps, and whether the weight is stored less 1."""

    weight_D: Tensor
    eps: float
    offset: bool

    def trained(self) -> list[Tensor]:
        """Return the weight if it trains, as autograd must see it."""
        return [self.weight_D] if self.weight_D.requires_grad else []

    def gradients(self, dn: Tensor, x: Tensor, inverse: Tensor, formulas: Formulas) -> list[Tensor]:
        """Return the gradient of what `trained` returns."""
        if not self.weight_D.requires_grad:
            return []
        return [formulas.norm_weight_gradient(dn, x, inverse).to(self.weight_D.dtype)]


class _NormedProduct(torch.autograd.Function):
    """(x + y, group(norm(x + y))): the residual stream goes on beside what is read from it. y may be None."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, y_TD: Tensor | None, norm: Norm, group: AdaptedGroup, formulas: Formulas, *trained):
        if y_TD is None:
            n_TD, inverse = formulas.norm(x_TD, norm.weight_D, norm.eps, norm.offset)
            total_TD = x_TD.view_as(x_TD)
        else:
            total_TD, n_TD, inverse = formulas.add_norm(x_TD, y_TD, norm.weight_D, norm.eps, norm.offset)
        kept = group.masks(n_TD)
        out_TO, h_TR = group.product(n_TD, kept)
        ctx.save_for_backward(total_TD, inverse, h_TR, *kept)
        ctx.norm, ctx.group, ctx.formulas, ctx.added = norm, group, formulas, y_TD is not None
        ctx.set_materialize_grads(False)
        return total_TD, *out_TO.split(group.parts, dim=1)

    @staticmethod
    def backward(ctx, beside_TD: Tensor | None, *dy: Tensor):
        x_TD, inverse, h_TR, *kept = ctx.saved_tensors
        group, norm = ctx.group, ctx.norm
        dh_TR = group.low_rank_gradient(dy) if h_TR is not None else None
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1] or norm.weight_D.requires_grad
        if not needed:  # the embeddings are frozen: the first layer's input needs no gradient
            n_TD = _normed(x_TD, norm, inverse, ctx.formulas)
            return None, None, None, None, None, *group.weight_gradients(dy, dh_TR, n_TD, h_TR, kept)
        dn_TD = group.input_gradient(dy, dh_TR, kept)
        dx_TD, n_TD = ctx.formulas.norm_backward(dn_TD, x_TD, norm.weight_D, inverse, norm.offset, beside_TD)
        gradients = group.weight_gradients(dy, dh_TR, n_TD, h_TR, kept)
        of_norm = norm.gradients(dn_TD, x_TD, inverse, ctx.formulas)
        return dx_TD, dx_TD if ctx.added else None, None, None, None, *gradients, *of_norm


def _normed(x_TD: Tensor, norm: Norm, inverse: Tensor, formulas: Formulas) -> Tensor:
    return formulas.norm(x_TD, norm.weight_D, norm.eps, norm.offset)[0]


class _Product(torch.autograd.Function):
    """group(x)."""

    @staticmethod
    def forward(ctx, x_TI: Tensor, group: AdaptedGroup, *trained: Tensor) -> Tensor:
        kept = group.masks(x_TI)
        y_TO, h_TR = group.product(x_TI, kept)
        ctx.save_for_backward(x_TI if h_TR is not None or group.whole else None, h_TR, *kept)
        ctx.group = group
        return y_TO

    @staticmethod
    def backward(ctx, dy_TO: Tensor):
        x_TI, h_TR, *kept = ctx.saved_tensors
        group, dy = ctx.group, (dy_TO,)
        dh_TR = group.low_rank_gradient(dy) if h_TR is not None else None
        gradients = group.weight_gradients(dy, dh_TR, x_TI, h_TR, kept)
        dx_TI = group.input_gradient(dy, dh_TR, kept) if ctx.needs_input_grad[0] else None
        return dx_TI, None, *gradients


class _GatedProduct(torch.autograd.Function):
    """group(act(g) u), keeping g and u; act(g) u, as wide as they are, is made again in backward."""

    @staticmethod
    def forward(
        ctx, g_TI: Tensor, u_TI: Tensor, activation: Activation, group: AdaptedGroup, formulas: Formulas, read: bool, *trained
    ) -> Tensor:  # fmt: skip
        a_TI = formulas.gate(g_TI, u_TI, activation)
        kept = group.masks(a_TI)
        if read or not is_recomputing():
            y_TO, h_TR = group.product(a_TI, kept)
        else:
            y_TO, h_TR = a_TI.new_zeros(1, 1).expand(a_TI.shape[0], sum(group.parts)), group.low_rank(a_TI, kept)
        ctx.save_for_backward(g_TI, u_TI, h_TR, *kept)
        ctx.activation, ctx.group, ctx.formulas = activation, group, formulas
        return y_TO

    @staticmethod
    def backward(ctx, dy_TO: Tensor):
        g_TI, u_TI, h_TR, *kept = ctx.saved_tensors
        group, dy = ctx.group, (dy_TO,)
        dh_TR = group.low_rank_gradient(dy) if h_TR is not None else None
        da_TI = group.input_gradient(dy, dh_TR, kept)
        dg_TI, du_TI, a_TI = ctx.formulas.gate_backward(da_TI, g_TI, u_TI, ctx.activation)
        del da_TI
        gradients = group.weight_gradients(dy, dh_TR, a_TI, h_TR, kept)
        return dg_TI, du_TI, None, None, None, None, *gradients


class _Heads(torch.autograd.Function):
    """Joined projections (T, O) to rotated queries and keys, and values, each (T, heads, D)."""

    @staticmethod
    def forward(ctx, qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int], formulas: Formulas):
        ctx.save_for_backward(cos_TD, sin_TD)
        ctx.formulas = formulas
        return formulas.heads(qkv_TO, cos_TD, sin_TD, sizes)

    @staticmethod
    def backward(ctx, dq: Tensor, dk: Tensor, dv: Tensor):
        cos_TD, sin_TD = ctx.saved_tensors
        return ctx.formulas.heads_backward(dq, dk, dv, cos_TD, sin_TD), None, None, None, None


class _NormedHeads(torch.autograd.Function):
    """As `_Heads`, with queries and keys normed within each head before they are rotated."""

    @staticmethod
    def forward(
        ctx, qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int], q_norm: Norm, k_norm: Norm,
        formulas: Formulas, *trained: Tensor,
    ):  # fmt: skip
        q, k, v, *inverses = formulas.normed_heads(
            qkv_TO, cos_TD, sin_TD, sizes, q_norm.weight_D, k_norm.weight_D, q_norm.eps, q_norm.offset
        )
        ctx.save_for_backward(qkv_TO, cos_TD, sin_TD, *inverses)
        ctx.sizes, ctx.norms, ctx.formulas = sizes, (q_norm, k_norm), formulas
        return q, k, v

    @staticmethod
    def backward(ctx, dq: Tensor, dk: Tensor, dv: Tensor):
        qkv_TO, cos_TD, sin_TD, *inverses = ctx.saved_tensors
        q_norm, k_norm = ctx.norms
        d_TO = ctx.formulas.normed_heads_backward(
            dq, dk, dv, cos_TD, sin_TD, qkv_TO, ctx.sizes, q_norm.weight_D, k_norm.weight_D, *inverses, q_norm.offset
        )
        gradients: list[Tensor] = []
        if q_norm.weight_D.requires_grad:
            q, k, _ = by_head(qkv_TO, cos_TD.shape[-1], ctx.sizes)
            for norm, x, dx, inverse in zip(ctx.norms, (q, k), (dq, dk), inverses, strict=True):
                gradients += norm.gradients(rotate_back(dx, cos_TD, sin_TD), x, inverse, ctx.formulas)
        return d_TO, None, None, None, None, None, None, *gradients


class _PostNorm(torch.autograd.Function):
    """norm(x), keeping x and 1 / rms(x)."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, norm: Norm, formulas: Formulas, *trained: Tensor) -> Tensor:
        n_TD, inverse = formulas.norm(x_TD, norm.weight_D, norm.eps, norm.offset)
        ctx.save_for_backward(x_TD, inverse)
        ctx.norm, ctx.formulas = norm, formulas
        return n_TD

    @staticmethod
    def backward(ctx, dn_TD: Tensor):
        x_TD, inverse = ctx.saved_tensors
        dx_TD, _ = ctx.formulas.norm_backward(dn_TD, x_TD, ctx.norm.weight_D, inverse, ctx.norm.offset, None)
        return dx_TD, None, None, *ctx.norm.gradients(dn_TD, x_TD, inverse, ctx.formulas)


class _InPieces(torch.autograd.Function):
    """run(x) for so many tokens at a time, keeping x alone; backward makes each piece again just before its gradients."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, run: Callable[[Tensor], Tensor], tokens: int, *trained: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD)
        ctx.run, ctx.tokens, ctx.trained = run, tokens, trained
        if is_recomputing():
            return x_TD.new_zeros(1, 1).expand(x_TD.shape)
        out_TD = torch.empty_like(x_TD)
        for x_PD, out_PD in zip(x_TD.split(tokens), out_TD.split(tokens), strict=True):
            out_PD.copy_(run(x_PD))
        return out_TD

    @staticmethod
    def backward(ctx, dout_TD: Tensor):
        (x_TD,) = ctx.saved_tensors
        dx_TD = torch.empty_like(x_TD)
        sums: list[Tensor | None] = []
        for x_PD, dx_PD, dout_PD in zip(*(t.split(ctx.tokens) for t in (x_TD, dx_TD, dout_TD)), strict=True):
            with torch.enable_grad(), recomputing():
                piece_PD = x_PD.detach().requires_grad_()
                out_PD = ctx.run(piece_PD)
            dpiece_PD, *found = torch.autograd.grad(out_PD, [piece_PD, *ctx.trained], dout_PD, allow_unused=True)
            dx_PD.copy_(dpiece_PD)
            given = [gradient for gradient in found if gradient is not None]  # others were added to in place
            if sums and given:
                torch._foreach_add_([each for each in sums if each is not None], given)
            elif not sums:
                sums = list(found)
        return dx_TD, None, None, *sums


def in_pieces(x_TD: Tensor, run: Callable[[Tensor], Tensor], tokens: int, trained: Sequence[Tensor]) -> Tensor:
    """Return run(x), computed for `tokens` rows of x at a time, so that what it makes in between is never there whole.

    `trained`: what of `run` gets gradients. The result (T, D) is added or handed on, and read by no backward. Nothing in `run` is
    random: backward computes it again.
    """
    return _InPieces.apply(x_TD, run, tokens, *trained)


def normed_product(
    x_TD: Tensor, y_TD: Tensor | None, norm: Norm, group: AdaptedGroup, formulas: Formulas
) -> tuple[Tensor, ...]:
    """Return x + y (x where y is None), and the outputs of the group that reads norm(x + y), in its parts."""
    return _NormedProduct.apply(x_TD, y_TD, norm, group, formulas, *group.trained(), *norm.trained())


def product(x_TI: Tensor, group: AdaptedGroup) -> Tensor:
    """Return what the group makes of x."""
    return _Product.apply(x_TI, group, *group.trained())


def gated_product(
    g_TI: Tensor, u_TI: Tensor, activation: Activation, group: AdaptedGroup, formulas: Formulas, *, read: bool
) -> Tensor:
    """Return what the group makes of act(g) u. read: something but a sum reads the result, so that backward needs it too."""
    return _GatedProduct.apply(g_TI, u_TI, activation, group, formulas, read, *group.trained())


def rotated_heads(
    qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int], norms: tuple[Norm, Norm] | None,
    formulas: Formulas,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return queries, keys and values (T, heads, D) of the joined projections. norms: of queries and keys, before they turn."""
    if norms is None:
        return _Heads.apply(qkv_TO, cos_TD, sin_TD, sizes, formulas)
    trained = [*norms[0].trained(), *norms[1].trained()]
    return _NormedHeads.apply(qkv_TO, cos_TD, sin_TD, sizes, *norms, formulas, *trained)


def post_norm(x_TD: Tensor, norm: Norm, formulas: Formulas) -> Tensor:
    """Return norm(x)."""
    return _PostNorm.apply(x_TD, norm, formulas, *norm.trained())
