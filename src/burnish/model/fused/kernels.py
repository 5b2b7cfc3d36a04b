"""Two kernels in Triton, where what torch compiles reads its input twice or is launched several times for each weight."""

from __future__ import annotations

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
    with torch.cuda.device(x_TI.device):  # Triton launches on the current one
        _round_rows[(tokens,)](
            x_TI, out_TI, scale_T1, width, x_TI.stride(0), BLOCK=block, num_warps=16 if block > 8192 else 8
        )
    return out_TI, scale_T1


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
    with torch.cuda.device(out_OI.device):
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
