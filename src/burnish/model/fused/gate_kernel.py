"""What backward makes of a gate in one pass over its five matrices: their gradients, and those of the adapters on either side.

Apart, these are a kernel for the gate and four products that are as thin as an adapter's rank, so that each reads a matrix as
wide as the feed-forward layer once more. T tokens, I the width between, R a rank.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from burnish.model.fused.formulas import BesideGate

TOKENS, COLUMNS, WARPS, STAGES = 32, 256, 8, 2
"""The tile that a program has at once, and how it is launched: measured on an H200 at the 8B shape (docs/log.md)."""
PROGRAMS = 784
"""Programs wanted: some waves of a card of 132 multiprocessors."""
LEAST_RANK = 16
"""The smallest side of a matrix product in Triton."""
AT_ONCE = 256


@triton.jit
def _sum(small, tile, total):
    return tl.dot(tl.trans(small), tile, total)


@triton.jit
def _tile(
    da, g, u, dh_down, h, b_gate, b_up, dh_parts, side_parts, tokens, width, each,
    da_stride, g_stride, u_stride, dh_stride, h_stride, b_gate_stride, b_up_stride, rank_down, rank_gate, rank_up,
    DOWN: tl.constexpr, GATE: tl.constexpr, UP: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    # A program has W columns and `each` tokens, T at a time. dh_parts: (width / W, tokens, ranks); side_parts: (tokens / each,
    # ranks, width), the sums over its own columns and tokens.
    kind = g.dtype.element_ty
    column = tl.program_id(0) * W + tl.arange(0, W)
    wide = column < width
    r_down, r_gate, r_up = tl.arange(0, DOWN), tl.arange(0, GATE), tl.arange(0, UP)
    has_down, has_gate, has_up = r_down < rank_down, r_gate < rank_gate, r_up < rank_up
    b_gate_IR = tl.load(
        b_gate + column[:, None] * b_gate_stride + r_gate[None, :], mask=wide[:, None] & has_gate[None, :], other=0.0
    )
    b_up_IR = tl.load(
        b_up + column[:, None] * b_up_stride + r_up[None, :], mask=wide[:, None] & has_up[None, :], other=0.0
    )
    sum_down = tl.zeros((DOWN, W), tl.float32)
    sum_gate = tl.zeros((GATE, W), tl.float32)
    sum_up = tl.zeros((UP, W), tl.float32)
    ranks = rank_gate + rank_up
    dh_parts += tl.program_id(0).to(tl.int64) * tokens * ranks
    start = tl.program_id(1).to(tl.int64) * each
    for at in range(0, each, T):
        token = start + at + tl.arange(0, T)
        there = token < tl.minimum(start + each, tokens)
        inside = there[:, None] & wide[None, :]
        g_at = g + token[:, None] * g_stride + column[None, :]
        u_at = u + token[:, None] * u_stride + column[None, :]
        da_TI = tl.load(da + token[:, None] * da_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        g_TI = tl.load(g_at, mask=inside, other=0.0).to(tl.float32)
        u_TI = tl.load(u_at, mask=inside, other=0.0).to(tl.float32)
        dh_TR = tl.load(
            dh_down + token[:, None] * dh_stride + r_down[None, :], mask=there[:, None] & has_down[None, :], other=0.0
        )
        h_at = h + token[:, None] * h_stride
        h_gate_TR = tl.load(h_at + r_gate[None, :], mask=there[:, None] & has_gate[None, :], other=0.0)
        h_up_TR = tl.load(h_at + rank_gate + r_up[None, :], mask=there[:, None] & has_up[None, :], other=0.0)
        share = tl.sigmoid(g_TI)
        active = g_TI * share
        a_TI = (active * u_TI).to(kind)
        du_TI = (da_TI * active).to(kind)
        dg_TI = (da_TI * u_TI * (share + active * (1.0 - share))).to(kind)
        tl.store(g_at, dg_TI, mask=inside)
        tl.store(u_at, du_TI, mask=inside)
        sum_down = _sum(dh_TR, a_TI, sum_down)
        sum_gate = _sum(h_gate_TR, dg_TI, sum_gate)
        sum_up = _sum(h_up_TR, du_TI, sum_up)
        dh_at = dh_parts + token[:, None] * ranks
        tl.store(dh_at + r_gate[None, :], tl.dot(dg_TI, b_gate_IR), mask=there[:, None] & has_gate[None, :])
        tl.store(dh_at + rank_gate + r_up[None, :], tl.dot(du_TI, b_up_IR), mask=there[:, None] & has_up[None, :])
    side_parts += tl.program_id(1).to(tl.int64) * (rank_down + ranks) * width
    at_side = side_parts + column[None, :]
    tl.store(at_side + r_down[:, None] * width, sum_down, mask=has_down[:, None] & wide[None, :])
    tl.store(at_side + (rank_down + r_gate)[:, None] * width, sum_gate, mask=has_gate[:, None] & wide[None, :])
    tl.store(at_side + (rank_down + rank_gate + r_up)[:, None] * width, sum_up, mask=has_up[:, None] & wide[None, :])


@triton.jit
def _sum_parts(parts, out, count, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(count):
        total += tl.load(parts + at, mask=inside, other=0.0)
        parts += size
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_side(
    parts, gradient, scale, count, before, rank, ranks, width, row, across, R: tl.constexpr, BLOCK: tl.constexpr
):
    # Adds the sum of parts[:, before : before + rank] (count, ranks, width) to a gradient; row, across: its strides of both.
    column, r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, R)
    inside = (r < rank)[:, None] & (column < width)[None, :]
    total = tl.zeros((R, BLOCK), tl.float32)
    parts += before * width
    for _ in range(count):
        total += tl.load(parts + r[:, None] * width + column[None, :], mask=inside, other=0.0)
        parts += ranks * width
    at = gradient + r[:, None] * row + column[None, :] * across
    tl.store(at, tl.load(at, mask=inside, other=0.0) + scale * total, mask=inside)


@triton.jit
def _add_sides(
    parts, a_down, b_gate, b_up, down_scale, scale, count, rank_down, rank_gate, rank_up, width,
    a_down_stride, b_gate_stride, b_up_stride, DOWN: tl.constexpr, GATE: tl.constexpr, UP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ranks = rank_down + rank_gate + rank_up
    if tl.program_id(1) == 0:
        _add_side(parts, a_down, down_scale, count, 0, rank_down, ranks, width, a_down_stride, 1, DOWN, BLOCK)
    elif tl.program_id(1) == 1:
        _add_side(parts, b_gate, scale, count, rank_down, rank_gate, ranks, width, 1, b_gate_stride, GATE, BLOCK)
    else:
        _add_side(parts, b_up, scale, count, rank_down + rank_gate, rank_up, ranks, width, 1, b_up_stride, UP, BLOCK)


def gate_backward(da_TI: Tensor, g_TI: Tensor, u_TI: Tensor, beside: BesideGate) -> Tensor:
    """Return what `formulas.gate_backward_beside` gives. All in bfloat16 or float16, rows contiguous, ranks up to MOST_BESIDE.

    The products are of rounded numbers, summed in float32, as cuBLAS has them; no sum depends on which program ends first.
    """
    (tokens, width), ranks = g_TI.shape, [beside.dh_down.shape[1], beside.b_gate.shape[1], beside.b_up.shape[1]]
    across = triton.cdiv(width, COLUMNS)
    each = triton.cdiv(triton.cdiv(tokens, max(1, PROGRAMS // across)), TOKENS) * TOKENS
    turns = triton.cdiv(tokens, each)
    dh_parts = torch.empty(across, tokens, ranks[1] + ranks[2], device=g_TI.device, dtype=torch.float32)
    side_parts = torch.empty(turns, sum(ranks), width, device=g_TI.device, dtype=torch.float32)
    dh_TR = torch.empty_like(beside.h)
    down, gate, up = (max(LEAST_RANK, triton.next_power_of_2(rank)) for rank in ranks)
    with torch.cuda.device_of(g_TI):
        _tile[across, turns](
            da_TI, g_TI, u_TI, beside.dh_down, beside.h, beside.b_gate, beside.b_up, dh_parts, side_parts,
            tokens, width, each, da_TI.stride(0), g_TI.stride(0), u_TI.stride(0), beside.dh_down.stride(0),
            beside.h.stride(0), beside.b_gate.stride(0), beside.b_up.stride(0), *ranks,
            DOWN=down, GATE=gate, UP=up, T=TOKENS, W=COLUMNS, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        _sum_parts[triton.cdiv(dh_TR.numel(), AT_ONCE),](dh_parts, dh_TR, across, dh_TR.numel(), BLOCK=AT_ONCE)
        sides = beside.a_down_gradient, beside.b_gate_gradient, beside.b_up_gradient
        _add_sides[triton.cdiv(width, AT_ONCE), 3](
            side_parts, *sides, beside.down_scale, beside.scale, turns, *ranks, width, *(side.stride(0) for side in sides),
            DOWN=down, GATE=gate, UP=up, BLOCK=AT_ONCE,
        )  # fmt: skip
    return dh_TR
