"""Attention within a packed row: a sample sees its own prefix and, causally, itself; nothing else.

A packed row is a sequence of segments. A segment that starts a group is the group's prefix; each other segment is the
tail of one sample and names the prefix it continues. transformers calls the function registered here for every layer and
hands it the layout through its keyword arguments; because no mask function is registered under the name, transformers
builds no mask of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from burnish.core.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "burnish_packed"


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens start..end of a row, which also see the tokens prefix_start..prefix_end before them."""

    start: int
    end: int
    prefix_start: int = 0
    prefix_end: int = 0

    @property
    def own(self) -> slice:
        """Where its tokens lie in the row."""
        return slice(self.start, self.end)

    @property
    def prefix(self) -> slice:
        """Where the prefix lies that its tokens see."""
        return slice(self.prefix_start, self.prefix_end)

    @property
    def seen(self) -> int:
        """Tokens of that prefix."""
        return self.prefix_end - self.prefix_start


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """The segments of one packed row, in order, without gaps; positions (T,) restart after each prefix."""

    segments: tuple[Segment, ...]
    positions_T: Tensor


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedLayout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend within the segments of a packed row.

    query (1, heads, T, head size), key and value (1, key heads, T, head size); returns (1, T, heads, head size).
    Raises BaseModelError for score caps and for dropout of attention weights, which are not computed.
    """
    if softcap is not None or dropout > 0.0:
        raise BaseModelError(
            "this base caps its attention scores or drops attention weights; packed training computes neither."
        )
    if query.device.type == "cpu":
        out_THD = _SegmentAttention.apply(query[0], key[0], value[0], packed.segments, scaling, sliding_window)
        return out_THD[None], None
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    mask_TT = row_mask(packed, query.device, sliding_window)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_TT, scale=scaling)
    return out.transpose(1, 2), None


class _SegmentAttention(torch.autograd.Function):
    """softmax(scale q k^T) v for each segment by itself, on a CPU.

    Written by hand because torch's CPU kernel is two times slower for a few hundred tokens, needs repeated key heads, and
    slices under autograd fill a whole row of zeros each. Query heads that share a key head are rows of one product.
    """

    @staticmethod
    def forward(
        ctx,
        q_HTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
        window: int | None,
    ):
        heads, tokens, size = q_HTD.shape
        out_THD = q_HTD.new_empty(tokens, heads, size)
        weights = []
        for segment in segments:
            q, k, v = _of_segment(segment, q_HTD, k_KTD, v_KTD)
            weights_KRS = _scores(q, k, segment, scale, window).softmax(dim=-1)
            out_THD[segment.own] = _heads_last(torch.bmm(weights_KRS, v), heads)
            weights.append(weights_KRS)
        ctx.save_for_backward(q_HTD, k_KTD, v_KTD, *weights)
        ctx.segments, ctx.scale = segments, scale
        return out_THD

    @staticmethod
    def backward(ctx, dout_THD: Tensor):
        q_HTD, k_KTD, v_KTD, *weights = ctx.saved_tensors
        dq_THD = torch.empty_like(dout_THD)
        dk_KTD, dv_KTD = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (k_KTD, v_KTD))
        for segment, weights_KRS in zip(ctx.segments, weights, strict=True):
            q, k, v = _of_segment(segment, q_HTD, k_KTD, v_KTD)
            do_KRD = dout_THD[segment.own].transpose(0, 1).reshape(q.shape)
            dv = torch.bmm(weights_KRS.transpose(1, 2), do_KRD)
            dscores = torch.bmm(do_KRD, v.transpose(1, 2)).mul_(weights_KRS)
            dscores.addcmul_(weights_KRS, dscores.sum(dim=-1, keepdim=True), value=-1).mul_(ctx.scale)
            dk = torch.bmm(dscores.transpose(1, 2), q)
            dq_THD[segment.own] = _heads_last(torch.bmm(dscores, k), q_HTD.shape[0])
            for d_KTD, d in ((dk_KTD, dk), (dv_KTD, dv)):
                d_KTD[:, segment.own] += d[:, segment.seen :]
                d_KTD[:, segment.prefix] += d[:, : segment.seen]
        return dq_THD.transpose(0, 1), dk_KTD, dv_KTD, None, None, None


def _of_segment(segment: Segment, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (key heads, query heads per key head x own, size), and keys and values (key heads, seen + own, size)."""
    q_KRD = q_HTD[:, segment.own].reshape(k_KTD.shape[0], -1, q_HTD.shape[-1])
    if not segment.seen:
        return q_KRD, k_KTD[:, segment.own], v_KTD[:, segment.own]
    k, v = (torch.cat([x[:, segment.prefix], x[:, segment.own]], dim=1) for x in (k_KTD, v_KTD))
    return q_KRD, k, v


def _scores(q_KRD: Tensor, k_KSD: Tensor, segment: Segment, scale: float, window: int | None) -> Tensor:
    """Return scale q k^T with -inf where a query may not look."""
    scores_KRS = torch.baddbmm(q_KRD.new_empty(()), q_KRD, k_KSD.transpose(1, 2), beta=0, alpha=scale)
    keys = k_KSD.shape[1]
    first = segment.seen if window is None else 0  # without a window every query sees the whole prefix
    hidden = _causal(keys - segment.seen, segment.seen, window, q_KRD.device).logical_not_()[:, first:]
    added = torch.zeros(hidden.shape, dtype=scores_KRS.dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
    scores_KRS.view(k_KSD.shape[0], -1, keys - segment.seen, keys)[..., first:].add_(added)
    return scores_KRS


def _heads_last(x_KRD: Tensor, heads: int) -> Tensor:
    return x_KRD.view(heads, -1, x_KRD.shape[-1]).transpose(0, 1)


def _causal(own: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of seen + own keys each of own queries may see (own, seen + own)."""
    q = torch.arange(seen, seen + own, device=device)[:, None]
    k = torch.arange(seen + own, device=device)[None, :]
    allowed = k <= q
    return allowed if window is None else allowed & (q - k < window)


def row_mask(packed: PackedLayout, device: torch.device, window: int | None = None) -> Tensor:
    """Return which token of a packed row may see which (T, T): the same rule as the segments, as one mask."""
    tokens = packed.positions_T.shape[0]
    mask_TT = torch.zeros(tokens, tokens, dtype=torch.bool, device=device)
    for segment in packed.segments:
        allowed = _causal(segment.end - segment.start, segment.seen, window, device)
        mask_TT[segment.own, segment.prefix] = allowed[:, : segment.seen]
        mask_TT[segment.own, segment.own] = allowed[:, segment.seen :]
    return mask_TT


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packing(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model's attention reads packed rows; afterwards it is as it was."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
