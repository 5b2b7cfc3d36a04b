"""Losses on hidden states, so that logits exist only where a token is predicted, and only for a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 128
"""Positions whose logits exist at once: 128 x 49,152 float32 are 24 MiB, which the heap of a CPU still keeps for the next."""


@dataclass(frozen=True, slots=True)
class LossForm:
    """How losses are computed: positions whose logits exist at once, and the formula of a chunk's losses and gradient."""

    chunk: int
    likelihood: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def likelihood(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log softmax(logits)[target] of each position, and its gradient softmax - onehot. A CPU's fastest way."""
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    targets_N1 = targets_N[:, None]
    log_p_NV = torch.log_softmax(logits_NV, dim=-1)  # eight times faster on a CPU than logsumexp
    nats_N = -log_p_NV.gather(-1, targets_N1)[:, 0]
    softmax_NV = log_p_NV.exp_()
    softmax_NV.scatter_add_(-1, targets_N1, torch.full_like(targets_N1, -1, dtype=softmax_NV.dtype))
    return nats_N, softmax_NV


_USUAL = LossForm(CHUNK, likelihood)
_form: ContextVar[LossForm] = ContextVar("loss form", default=_USUAL)


@contextmanager
def losses_as(form: LossForm) -> Iterator[None]:
    """Within the block losses are computed in this form."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


@dataclass(frozen=True, slots=True)
class Logits:
    """How a base makes logits of hidden states h: cap tanh(scale (h W^T + bias) / cap); None for what it does without.

    A bias of the head: Phi, GPT-J. A scale: Granite, Cohere. A cap: Gemma 2.
    """

    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def raw(self, hidden_CD: Tensor, head_VD: Tensor) -> Tensor:
        """Return the logits (C, V) before they are capped."""
        logits_CV = hidden_CD @ head_VD.t()
        if self.bias_V is not None:
            logits_CV = logits_CV + self.bias_V
        return logits_CV if self.scale == 1.0 else logits_CV * self.scale


AS_PRODUCTS = Logits()


def logits_of(model: PreTrainedModel) -> Logits:
    """Return how a model makes its logits; model/probe.py holds it against the model itself."""
    config = vars(model.config.get_text_config())
    scale = (config.get("logit_scale") or 1.0) / (config.get("logits_scaling") or 1.0)
    return Logits(model.get_output_embeddings().bias, scale, config.get("final_logit_softcapping"))


class _SummedLoss(torch.autograd.Function):
    """Sum of -log softmax(h W^T)[target] over positions, with the gradients of h and of what trains of W and bias made in forward.

    d loss / d h = (softmax - onehot) W and d loss / d W = (softmax - onehot)^T h: computing them while the logits are there
    costs one product less than computing the logits again (as in Liger, Hsu et al. 2024, arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx,
        hidden_TD: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        at_N: Tensor | None,
        form: LossForm,
        logits: Logits,
        bias_V: Tensor | None,
    ) -> Tensor:
        # bias_V: the one of `logits`, so that autograd sees it.
        gradient_TD = torch.zeros_like(hidden_TD) if ctx.needs_input_grad[0] else None
        exact = torch.promote_types(head_VD.dtype, torch.float32)
        gradient_VD = torch.zeros_like(head_VD, dtype=exact) if ctx.needs_input_grad[1] else None
        gradient_V = torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and ctx.needs_input_grad[6] else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_TD.device)
        for start in range(0, targets_N.shape[0], form.chunk):
            part = slice(start, start + form.chunk)
            hidden_CD = hidden_TD[part] if at_N is None else hidden_TD.index_select(0, at_N[part])
            nats, dlogits_CV = _likelihood(form, logits.raw(hidden_CD, head_VD), targets_N[part], logits)
            total += nats.sum(dtype=torch.float64)
            if gradient_V is not None:
                gradient_V += dlogits_CV.sum(0)
            if gradient_VD is not None:
                add_product(gradient_VD, dlogits_CV.to(head_VD.dtype).t(), hidden_CD)
            if gradient_TD is not None:
                gradient_CD = dlogits_CV.to(head_VD.dtype) @ head_VD
                if at_N is None:
                    gradient_TD[part] = gradient_CD
                else:
                    gradient_TD.index_add_(0, at_N[part], gradient_CD)
            del dlogits_CV  # before the next chunk's logits are made
        ctx.save_for_backward(gradient_TD, gradient_VD, gradient_V)
        return total.to(torch.promote_types(hidden_TD.dtype, torch.float32))

    @staticmethod
    def backward(ctx, scale: Tensor):
        gradient_TD, gradient_VD, gradient_V = ctx.saved_tensors
        hidden = None if gradient_TD is None else gradient_TD * scale.to(gradient_TD.dtype)
        head, bias = (  # nobody reads them again
            None if made is None else made.mul_(scale.to(made.dtype)) for made in (gradient_VD, gradient_V)
        )
        return hidden, head, None, None, None, None, bias


class _LossOfEach(torch.autograd.Function):
    """As `_SummedLoss`, summed for each answer by itself, for a head that does not train.

    What an answer's loss weighs is known in backward alone, where it scales the gradients of the answer's own positions.
    """

    @staticmethod
    def forward(
        ctx, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, owners_N: Tensor, answers: int, form: LossForm, logits: Logits
    ) -> Tensor:  # fmt: skip
        gradient_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        sums_A = torch.zeros(answers, dtype=torch.float64, device=hidden_ND.device)
        for start in range(0, targets_N.shape[0], form.chunk):
            part = slice(start, start + form.chunk)
            nats_C, dlogits_CV = _likelihood(form, logits.raw(hidden_ND[part], head_VD), targets_N[part], logits)
            sums_A.index_add_(0, owners_N[part], nats_C.double())
            if gradient_ND is not None:
                torch.mm(dlogits_CV.to(head_VD.dtype), head_VD, out=gradient_ND[part])
            del dlogits_CV  # before the next chunk's logits are made
        ctx.save_for_backward(gradient_ND, owners_N)
        return sums_A.to(torch.promote_types(hidden_ND.dtype, torch.float32))

    @staticmethod
    def backward(ctx, scale_A: Tensor):
        gradient_ND, owners_N = ctx.saved_tensors
        scale_N = scale_A.index_select(0, owners_N)
        return gradient_ND * scale_N[:, None].to(gradient_ND.dtype), None, None, None, None, None, None


def _likelihood(form: LossForm, logits_CV: Tensor, targets_C: Tensor, logits: Logits) -> tuple[Tensor, Tensor]:
    """Return the losses of a chunk and the gradient of h W^T + bias; d cap tanh(x / cap) / dx = 1 - tanh^2."""
    if logits.cap is None:
        nats, dlogits_CV = form.likelihood(logits_CV, targets_C)
    else:
        tanh_CV = _exact(logits_CV).div_(logits.cap).tanh_()
        nats, dlogits_CV = form.likelihood(tanh_CV * logits.cap, targets_C)
        dlogits_CV.mul_(1.0 - tanh_CV.square_())
    return nats, dlogits_CV if logits.scale == 1.0 else dlogits_CV.mul_(logits.scale)


def _exact(x: Tensor) -> Tensor:
    """Return a copy in float32, or float64 as it is copied."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, of matrices or batches of them, in float32 (float64 for float64)."""
    if left.device.type == "cuda" and left.dtype in (torch.bfloat16, torch.float16):
        multiply = torch.mm if left.ndim == 2 else torch.bmm
        return multiply(left, right, out_dtype=torch.float32)
    return (left @ right).to(torch.promote_types(left.dtype, torch.float32))


def add_product(onto: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a float32 (float64) tensor."""
    if onto.dtype == left.dtype:
        onto.addmm_(left, right)
    else:
        onto.add_(exact_product(left, right))


def target_loss(
    hidden_TD: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    chunk: int | None = None,
    *,
    at_N: Tensor | None = None,
    logits: Logits = AS_PRODUCTS,
) -> Tensor:
    """Return the summed negative log-likelihood in nats of `targets_N` under softmax(hidden head^T).

    T hidden states of size D, V vocabulary; target n is predicted at place at_N[n] (n where at_N is None).
    Logits are in the dtype of `hidden`, their softmax in float32 (float64 for float64), the sum in float64. chunk: positions
    whose logits exist at once. logits: how the base makes them of hidden states and head.
    """
    form = _form.get() if chunk is None else replace(_form.get(), chunk=chunk)
    return _SummedLoss.apply(hidden_TD, head_VD, targets_N, at_N, form, logits, logits.bias_V)


def answer_losses(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    owners_N: Tensor,
    answers: int,
    *,
    logits: Logits = AS_PRODUCTS,
) -> Tensor:
    """Return `target_loss` of each of several answers (answers,), for a head that does not train: target n belongs to owners_N[n].

    As many operations as for one answer with all the targets.
    """
    return _LossOfEach.apply(hidden_ND, head_VD, targets_N, owners_N, answers, _form.get(), logits)


def target_losses(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk: int | None = None, *, logits: Logits = AS_PRODUCTS
) -> Tensor:
    """Return the negative log-likelihood in nats of each of `targets_N` (N,), for a head that trains.

    What each weighs in the loss is not known in forward, so logits are made again in backward, a chunk at a time.
    """
    size = _form.get().chunk if chunk is None else chunk
    parts = zip(hidden_ND.split(size), targets_N.split(size), strict=True)
    return torch.cat(
        [checkpoint(_losses, part, head_VD, targets, logits, use_reentrant=False) for part, targets in parts]
    )


def _losses(hidden_CD: Tensor, head_VD: Tensor, targets_C: Tensor, logits: Logits) -> Tensor:
    logits_CV = logits.raw(hidden_CD, head_VD)
    if logits.cap is not None:
        logits_CV = torch.tanh(_exact(logits_CV) / logits.cap) * logits.cap
    return F.cross_entropy(
        logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)), targets_C, reduction="none"
    )
