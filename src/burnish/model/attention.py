"""Attention within a packed row: a sample sees its own prefix and, causally, itself; nothing else.

A packed row is a sequence of segments. A segment that starts a group is the group's prefix; each other segment is the
tail of one sample and names the prefix it continues. transformers calls the function registered here for every layer and
hands it the layout through its keyword arguments; because no mask function is registered under the name, transformers
builds no mask of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from burnish.model.devices import to_device

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
    """The segments of one packed row, in order, without gaps; positions (T,) restart after each prefix.

    `made`: what the kernels of a GPU derive from the segments, made once for all layers.
    """

    segments: tuple[Segment, ...]
    positions_T: Tensor
    made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def on(self, device: torch.device) -> PackedLayout:
        """Return the layout for layers on a device, made once for each."""
        if self.positions_T.device == device:
            return self
        return _made(self, f"on {device}", lambda: PackedLayout(self.segments, self.positions_T.to(device)))


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
    kernel: Kernel | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend within the segments of a packed row.

    query (1, heads, T, head size), key and value (1, key heads, T, head size); returns (1, T, heads, head size). `kernel` None
    takes the one that always works. Attention weights are not dropped, whatever `dropout` says (`attention_dropout`).
    """
    asked = Attending(packed, scaling, sliding_window, softcap)
    q_THD, k_TKD, v_TKD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return attend(q_THD, k_TKD, v_TKD, asked, kernel)[None], None


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending, kernel: Kernel | None = None) -> Tensor:
    """Return what the queries see (T, heads, D), by `kernel` where it fits, else by the one that always works."""
    chosen = kernel if kernel is not None and fits(kernel, q_THD, asked) else _safe_kernel(q_THD, asked)
    return KERNELS[chosen](q_THD, k_TKD, v_TKD, asked)


@dataclass(frozen=True, slots=True)
class Attending:
    """What is asked of a kernel: the row, the scale of the scores, the window, and their cap (cap tanh(score / cap))."""

    packed: PackedLayout
    scale: float
    window: int | None
    softcap: float | None


Kernel = Literal["segments", "masked", "varlen", "blocks", "flex"]


def fits(kernel: Kernel, query: Tensor, asked: Attending) -> bool:
    """Return whether a kernel computes this: float16 or bfloat16 on CUDA for `varlen`, samples of one length for `blocks`, ..."""
    if kernel == "segments":
        return True
    if kernel == "masked":
        return asked.softcap is None
    if query.device.type != "cuda":
        return False
    if kernel == "flex":
        return True
    half = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256
    if kernel == "varlen":
        return half and asked.softcap is None
    length = _made(asked.packed, "one length", lambda: _one_length(asked.packed))
    return half and asked.softcap is None and length is not None and (asked.window or length) >= length


def _one_length(packed: PackedLayout) -> int | None:
    """Return the tokens of each sample where all have as many and none continues a prefix, else None."""
    lengths = {segment.end - segment.start for segment in packed.segments}
    return lengths.pop() if len(lengths) == 1 and not any(segment.seen for segment in packed.segments) else None


def _safe_kernel(query: Tensor, asked: Attending) -> Kernel:
    if query.device.type == "cpu" or asked.softcap is not None:
        return "segments"
    return next(kernel for kernel in ("blocks", "varlen", "masked") if fits(kernel, query, asked))


def _by_segments(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending) -> Tensor:
    by_head = (x_THD.transpose(0, 1) for x_THD in (q_THD, k_TKD, v_TKD))
    return _SegmentAttention.apply(*by_head, asked.packed.segments, asked.scale, asked.window, asked.softcap)


def _masked(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending) -> Tensor:
    groups = q_THD.shape[1] // k_TKD.shape[1]
    k, v = (x_TKD.repeat_interleave(groups, dim=1).transpose(0, 1)[None] for x_TKD in (k_TKD, v_TKD))
    mask_TT = _made(asked.packed, f"mask {asked.window}", lambda: row_mask(asked.packed, q_THD.device, asked.window))
    out = F.scaled_dot_product_attention(q_THD.transpose(0, 1)[None], k, v, attn_mask=mask_TT, scale=asked.scale)
    return out[0].transpose(0, 1)


def _varlen(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending) -> Tensor:
    """FlashAttention over samples of any length (Dao 2023, arXiv:2307.08691). A tail's keys are its prefix and itself."""
    lengths = _made(asked.packed, "lengths", lambda: _lengths(asked.packed, q_THD.device))
    if lengths.keys_N is not None:
        k_TKD, v_TKD = k_TKD.index_select(0, lengths.keys_N), v_TKD.index_select(0, lengths.keys_N)
    window = (-1, 0) if asked.window is None else (asked.window - 1, 0)
    return varlen_attn(
        q_THD, k_TKD, v_TKD, lengths.queries, lengths.seen, lengths.most_queries, lengths.most_seen,
        scale=asked.scale, window_size=window, **_GROUPED,
    )  # fmt: skip


_GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""torch 2.11 takes fewer key heads as they are; later ones ask to be told."""


def _blocks(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending) -> Tensor:
    """Samples of one length as a batch: torch's own choice of kernel, cuDNN's on Hopper."""
    count = len(asked.packed.segments)
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q_THD, k_TKD, v_TKD))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=asked.scale, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


def _flex(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, asked: Attending) -> Tensor:
    """FlexAttention (Dong et al. 2024, arXiv:2412.05496): the row's rule, and the cap of scores, compiled into the kernel."""
    mask = _made(
        asked.packed, f"block mask {asked.window}", lambda: block_mask(asked.packed, q_THD.device, asked.window)
    )
    score = None if asked.softcap is None else _capped(asked.softcap)
    attend = _compiled_flex() if q_THD.device.type == "cuda" else flex_attention
    by_head = (x_THD.transpose(0, 1)[None] for x_THD in (q_THD, k_TKD, v_TKD))
    return attend(*by_head, score_mod=score, block_mask=mask, scale=asked.scale, enable_gqa=True)[0].transpose(0, 1)


@cache
def _capped(cap: float) -> Callable[..., Tensor]:
    """Return the cap as a function: the same one each time, as the kernel is compiled for each."""

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


KERNELS: dict[Kernel, Callable[[Tensor, Tensor, Tensor, Attending], Tensor]] = {
    "segments": _by_segments, "masked": _masked, "varlen": _varlen, "blocks": _blocks, "flex": _flex,
}  # fmt: skip
"""Each takes queries (T, heads, D), keys and values (T, key heads, D) and returns (T, heads, D)."""


class _Lengths(NamedTuple):
    """Where samples begin in the queries and in the keys they see; `keys_N` gathers those keys where prefixes are shared."""

    queries: Tensor
    seen: Tensor
    keys_N: Tensor | None
    most_queries: int
    most_seen: int


def _lengths(packed: PackedLayout, device: torch.device) -> _Lengths:
    own = [segment.end - segment.start for segment in packed.segments]
    seen = [segment.end - segment.start + segment.seen for segment in packed.segments]
    starts = [to_device([0, *accumulate(counts)], device, torch.int32) for counts in (own, seen)]
    keys_N = None
    if any(segment.seen for segment in packed.segments):
        places = (
            place
            for segment in packed.segments
            for span in (segment.prefix, segment.own)
            for place in range(span.start, span.stop)
        )
        keys_N = to_device(list(places), device)
    return _Lengths(*starts, keys_N, max(own), max(seen))


def block_mask(packed: PackedLayout, device: torch.device, window: int | None = None) -> BlockMask:
    """Return the rule of `row_mask` in FlexAttention's form."""
    tokens = packed.positions_T.shape[0]
    start_T, from_T, to_T = (
        torch.cat([torch.full((s.end - s.start,), value(s), dtype=torch.int32) for s in packed.segments]).to(device)
        for value in (lambda s: s.start, lambda s: s.prefix_start, lambda s: s.prefix_end)
    )
    positions_T = packed.positions_T

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (k >= start_T[q]) & (k <= q)
        seen = own | ((k >= from_T[q]) & (k < to_T[q]))
        return seen if window is None else seen & (positions_T[q] - positions_T[k] < window)

    return create_block_mask(allowed, None, None, tokens, tokens, device=device)


def _made(packed: PackedLayout, name: str, make: Callable[[], Any]) -> Any:
    if name not in packed.made:
        packed.made[name] = make()
    return packed.made[name]


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
        softcap: float | None,
    ):
        heads, tokens, size = q_HTD.shape
        out_THD = q_HTD.new_empty(tokens, heads, size)
        weights, capped = [], []
        for segment in segments:
            q, k, v = _of_segment(segment, q_HTD, k_KTD, v_KTD)
            scores_KRS = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
            if softcap is not None:
                tanh_KRS = scores_KRS.div_(softcap).tanh_()
                capped.append(tanh_KRS)
                scores_KRS = tanh_KRS * softcap
            weights_KRS = _hide(scores_KRS, segment, window).softmax(dim=-1)
            out_THD[segment.own] = _heads_last(torch.bmm(weights_KRS, v), heads)
            weights.append(weights_KRS)
        ctx.save_for_backward(q_HTD, k_KTD, v_KTD, *weights, *capped)
        ctx.segments, ctx.scale, ctx.softcap = segments, scale, softcap
        return out_THD

    @staticmethod
    def backward(ctx, dout_THD: Tensor):
        q_HTD, k_KTD, v_KTD, *kept = ctx.saved_tensors
        weights, capped = kept[: len(ctx.segments)], kept[len(ctx.segments) :]
        dq_THD = torch.empty_like(dout_THD)
        dk_KTD, dv_KTD = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (k_KTD, v_KTD))
        for number, (segment, weights_KRS) in enumerate(zip(ctx.segments, weights, strict=True)):
            q, k, v = _of_segment(segment, q_HTD, k_KTD, v_KTD)
            do_KRD = dout_THD[segment.own].transpose(0, 1).reshape(q.shape)
            dv = torch.bmm(weights_KRS.transpose(1, 2), do_KRD)
            dscores = torch.bmm(do_KRD, v.transpose(1, 2)).mul_(weights_KRS)
            dscores.addcmul_(weights_KRS, dscores.sum(dim=-1, keepdim=True), value=-1).mul_(ctx.scale)
            if ctx.softcap is not None:
                dscores.mul_(1.0 - capped[number].square())
            dk = torch.bmm(dscores.transpose(1, 2), q)
            dq_THD[segment.own] = _heads_last(torch.bmm(dscores, k), q_HTD.shape[0])
            for d_KTD, d in ((dk_KTD, dk), (dv_KTD, dv)):
                d_KTD[:, segment.own] += d[:, segment.seen :]
                d_KTD[:, segment.prefix] += d[:, : segment.seen]
        return dq_THD.transpose(0, 1), dk_KTD, dv_KTD, None, None, None, None


def _of_segment(segment: Segment, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (key heads, query heads per key head x own, size), and keys and values (key heads, seen + own, size)."""
    q_KRD = q_HTD[:, segment.own].reshape(k_KTD.shape[0], -1, q_HTD.shape[-1])
    if not segment.seen:
        return q_KRD, k_KTD[:, segment.own], v_KTD[:, segment.own]
    k, v = (torch.cat([x[:, segment.prefix], x[:, segment.own]], dim=1) for x in (k_KTD, v_KTD))
    return q_KRD, k, v


def _hide(scores_KRS: Tensor, segment: Segment, window: int | None) -> Tensor:
    """Write -inf into the scores where a query may not look, and return them."""
    keys = scores_KRS.shape[-1]
    first = segment.seen if window is None else 0  # without a window every query sees the whole prefix
    hidden = _causal(keys - segment.seen, segment.seen, window, scores_KRS.device).logical_not_()[:, first:]
    added = torch.zeros(hidden.shape, dtype=scores_KRS.dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
    scores_KRS.view(scores_KRS.shape[0], -1, keys - segment.seen, keys)[..., first:].add_(added)
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
for _kernel in KERNELS:
    AttentionInterface.register(f"{NAME}_{_kernel}", partial(packed_attention, kernel=_kernel))


def attention_dropout(model: PreTrainedModel) -> float:
    """Return the share of attention weights that a base drops in training by its configuration. Packed rows drop none."""
    config = vars(model.config.get_text_config())
    return max(config.get(name) or 0.0 for name in ("attention_dropout", "attn_pdrop"))


@contextmanager
def packing(model: PreTrainedModel, kernel: Kernel | None = None) -> Iterator[None]:
    """Within the block the model's attention reads packed rows, by `kernel` where it fits; afterwards it is as it was."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME if kernel is None else f"{NAME}_{kernel}")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
