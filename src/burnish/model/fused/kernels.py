"""Kernels in Triton, where what torch compiles reads its input twice or is launched several times for each weight."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

NF4_BLOCK_BYTES = tl.constexpr(32)
"""Bytes of the 64 weights that share a scale."""
NESTED_BLOCK = tl.constexpr(256)
"""Scales that share a scale of scales."""
UNPACKED_AT_ONCE = 1024
WIDEST = 32768
"""The widest row that a program holds in registers."""
LOGITS_AT_ONCE = 8192
TURNED_AT_ONCE = 32
"""Heads, of one or of several tokens, that a program turns."""


@triton.jit
def _round_rows(x, rounded, scales, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value)), 1e-12) / 448.0
    tl.store(rounded + row * width + column, (value / scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


def rounded(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `formulas.rounded` gives: each row of x (T, I) is read once. I at most WIDEST."""
    tokens, width = x_TI.shape
    out_TI = torch.empty(tokens, width, device=x_TI.device, dtype=torch.float8_e4m3fn)
    scale_T1 = torch.empty(tokens, 1, device=x_TI.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x_TI):  # Triton launches on the current one
        _round_rows[(tokens,)](
            x_TI, out_TI, scale_T1, width, x_TI.stride(0), BLOCK=block, num_warps=16 if block > 8192 else 8
        )
    return out_TI, scale_T1


@triton.jit
def _norm_rows(x, weight, out, inverses, width, stride, eps, OFFSET: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value) / width + eps)
    tl.store(inverses + row, inverse)
    by = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    normed = value * inverse * (1.0 + by) if OFFSET else (value * inverse).to(kind).to(tl.float32) * by
    tl.store(out + row * width + column, normed.to(kind), mask=inside)


def norm(x_TD: Tensor, weight_D: Tensor, eps: float, offset: bool) -> tuple[Tensor, Tensor]:
    """Return what `formulas.norm` gives of rows (T, D), each of which is read once. D at most WIDEST."""
    rows, width = x_TD.shape
    out_TD = torch.empty(rows, width, device=x_TD.device, dtype=x_TD.dtype)
    inverse_T1 = torch.empty(rows, 1, device=x_TD.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x_TD):
        _norm_rows[(rows,)](
            x_TD, weight_D, out_TD, inverse_T1, width, x_TD.stride(0), eps,
            OFFSET=offset, BLOCK=block, num_warps=min(16, max(1, block // 512)),
        )  # fmt: skip
    return out_TD, inverse_T1


@triton.jit
def _unpack(packed, scale_codes, codes, nested, offset, table, out, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    byte = tl.load(packed + place, mask=inside, other=0).to(tl.int32)
    block = place // NF4_BLOCK_BYTES
    code = tl.load(scale_codes + block, mask=inside, other=0).to(tl.int32)
    scale = tl.load(codes + code) * tl.load(nested + block // NESTED_BLOCK, mask=inside, other=0.0) + tl.load(offset)
    high = tl.load(table + (byte >> 4)) * scale
    low = tl.load(table + (byte & 15)) * scale
    both = tl.program_id(0).to(tl.int64) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
    tl.store(out + both, tl.interleave(high, low).to(out.dtype.element_ty), mask=both < 2 * count)


def unpack(weight: Tensor, state, out_OI: Tensor) -> None:
    """Write an NF4 weight with doubly quantised scales (bitsandbytes' QuantState) into `out_OI`, in one pass."""
    count = weight.numel()
    nested = state.state2
    with torch.cuda.device_of(out_OI):
        _unpack[(triton.cdiv(count, UNPACKED_AT_ONCE),)](
            weight,
            state.absmax,
            nested.code,
            nested.absmax,
            state.offset,
            state.code,
            out_OI,
            count,
            BLOCK=UNPACKED_AT_ONCE,
        )


@triton.jit
def _likelihood(logits, targets, nats, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    column = tl.arange(0, BLOCK)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        value = tl.load(logits + start + column, mask=start + column < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, value)
        # A lane that has seen nothing but -inf has no total to scale, and -inf - -inf is no number.
        seen = higher > float("-inf")
        total = tl.where(seen, total * tl.exp(most - higher) + tl.exp(value - higher), 0.0)
        most = higher
    highest = tl.max(most)
    logsumexp = highest + tl.log(tl.sum(tl.where(most > float("-inf"), total * tl.exp(most - highest), 0.0)))
    target = tl.load(targets + row)
    tl.store(nats + row, logsumexp - tl.load(logits + target).to(tl.float32))
    tl.debug_barrier()  # the target's logit is read before any thread writes over it
    for start in range(0, width, BLOCK):
        at = start + column
        value = tl.load(logits + at, mask=at < width, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(value - logsumexp) - tl.where(at == target, 1.0, 0.0)
        tl.store(logits + at, gradient.to(logits.dtype.element_ty), mask=at < width)


def likelihood(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `formulas.likelihood` gives, its gradient written over the logits, of which a row is read from memory once.

    A program goes through a row twice; between, it stays in the cache. Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3.
    """
    rows, width = logits_NV.shape
    nats_N = torch.empty(rows, device=logits_NV.device, dtype=torch.float32)
    with torch.cuda.device_of(logits_NV):
        _likelihood[(rows,)](
            logits_NV, targets_N, nats_N, width, logits_NV.stride(0), BLOCK=LOGITS_AT_ONCE, num_warps=16
        )
    return nats_N, logits_NV


@triton.jit
def _turn_part(
    joined, apart, cos, sin, token, head, place, tokens, width, size, stride, angle_stride,
    HALF: tl.constexpr, TURNS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    # head: of the joined ones; place: of those of its kind
    half = size // 2
    column = tl.arange(0, HALF)[None, :]
    inside = (token < tokens)[:, None] & (column < half)
    at_joined = joined + (token * width + head * size)[:, None] + column
    at_apart = apart + (token * stride + place * size)[:, None] + column
    source, target = (at_apart, at_joined) if BACK else (at_joined, at_apart)
    low = tl.load(source, mask=inside, other=0.0)
    high = tl.load(source + half, mask=inside, other=0.0)
    if TURNS:
        angle = (token * angle_stride)[:, None] + column
        cos_low = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        cos_high = tl.load(cos + angle + half, mask=inside, other=0.0).to(tl.float32)
        sin_low = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        sin_high = tl.load(sin + angle + half, mask=inside, other=0.0).to(tl.float32)
        x, y = low.to(tl.float32), high.to(tl.float32)
        if BACK:
            low = (x * cos_low + y * sin_high).to(low.dtype)
            high = (y * cos_high - x * sin_low).to(high.dtype)
        else:
            low = (x * cos_low - y * sin_low).to(low.dtype)
            high = (y * cos_high + x * sin_high).to(high.dtype)
    tl.store(target, low, mask=inside)
    tl.store(target + half, high, mask=inside)


@triton.jit
def _turn(
    joined, q, k, v, cos, sin, tokens, width, size, q_stride, k_stride, v_stride, angle_stride,
    Q: tl.constexpr, K: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    # A program has ROWS / TOGETHER tokens, and of each TOGETHER neighbouring heads of one kind.
    row = tl.arange(0, ROWS)
    token = tl.program_id(0).to(tl.int64) * (ROWS // TOGETHER) + row // TOGETHER
    first = tl.program_id(1) * TOGETHER
    head = first + row % TOGETHER
    if first < Q:
        _turn_part(
            joined, q, cos, sin, token, head, head, tokens, width, size, q_stride, angle_stride, HALF, True, BACK
        )
    elif first < Q + K:
        _turn_part(
            joined, k, cos, sin, token, head, head - Q, tokens, width, size, k_stride, angle_stride, HALF, True, BACK
        )
    else:
        _turn_part(
            joined,
            v,
            cos,
            sin,
            token,
            head,
            head - (Q + K),
            tokens,
            width,
            size,
            v_stride,
            angle_stride,
            HALF,
            False,
            BACK,
        )


def _turned(joined_TO: Tensor, apart: list[Tensor], cos_TD: Tensor, sin_TD: Tensor, *, back: bool) -> None:
    tokens, size = cos_TD.shape
    heads, key_heads = apart[0].shape[1], apart[1].shape[1]
    together = math.gcd(heads, key_heads, TURNED_AT_ONCE)
    grid = triton.cdiv(tokens, TURNED_AT_ONCE // together), (heads + 2 * key_heads) // together
    with torch.cuda.device_of(joined_TO):
        _turn[grid](
            joined_TO, *apart, cos_TD, sin_TD, tokens, joined_TO.stride(0), size, *(part.stride(0) for part in apart),
            cos_TD.stride(0), Q=heads, K=key_heads, TOGETHER=together, ROWS=TURNED_AT_ONCE,
            HALF=triton.next_power_of_2(size // 2), BACK=back,
        )  # fmt: skip


def heads(qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `formulas.heads` gives, in one launch."""
    size = cos_TD.shape[1]
    q, k, v = (qkv_TO.new_empty(qkv_TO.shape[0], heads, size) for heads in (sizes[0], sizes[1], sizes[1]))
    _turned(qkv_TO, [q, k, v], cos_TD, sin_TD, back=False)
    return q, k, v


def heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Return what `formulas.heads_backward` gives, in one launch."""
    tokens, size = cos_TD.shape
    d_TO = dq.new_empty(tokens, (dq.shape[1] + 2 * dk.shape[1]) * size)
    _turned(d_TO, [_by_token(part) for part in (dq, dk, dv)], cos_TD, sin_TD, back=True)
    return d_TO


def _by_token(x_THD: Tensor) -> Tensor:
    """Return x with the heads of a token beside each other in memory: itself, where they are."""
    return x_THD if x_THD.stride()[1:] == (x_THD.shape[2], 1) else x_THD.contiguous()
