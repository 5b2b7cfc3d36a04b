"""Low-rank products of tiles of tokens, each tile with an adapter of its own, in Triton.

Each adapter's matrices are read once for up to 16 tokens. Sums over many inputs are cut into splits, so that few tiles occupy
the whole card; the splits are added in a fixed order, so that answers do not depend on who finishes first. Shapes: T tiles of P
places, N tokens, I inputs, O outputs, S rows of an adapter's A, R rows of its B.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT_INPUTS = 1024
"""Inputs that one program sums; more are cut into splits."""
MOST_SPLITS = 8


@triton.jit
def _down(x, a, h, slots, tokens, inputs, rows, x_stride, count, per_split,
          P: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_I: tl.constexpr):  # fmt: skip
    tile, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + tile)
    if slot >= 0:
        token = tl.load(tokens + tile * P + tl.arange(0, P))
        row = block * BLOCK_S + tl.arange(0, BLOCK_S)
        end = tl.minimum((split + 1) * per_split, inputs)
        total = tl.zeros((P, BLOCK_S), dtype=tl.float32)
        for start in range(split * per_split, end, BLOCK_I):
            column = start + tl.arange(0, BLOCK_I)
            x_PI = tl.load(
                x + token[:, None] * x_stride + column[None, :],
                mask=(token[:, None] >= 0) & (column[None, :] < end), other=0.0,
            )  # fmt: skip
            a_IS = tl.load(
                a + (slot * rows + row[None, :]) * inputs + column[:, None],
                mask=(row[None, :] < rows) & (column[:, None] < end), other=0.0,
            )  # fmt: skip
            total = tl.dot(x_PI, a_IS, total, input_precision="ieee")
        tl.store(
            h + (split * count + token[:, None]) * rows + row[None, :],
            total, mask=(token[:, None] >= 0) & (row[None, :] < rows),
        )  # fmt: skip


@triton.jit
def _up(y, h, b, slots, tokens, outputs, rank, rows, first, splits, y_stride, count,
        P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr):  # fmt: skip
    tile, block = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + tile)
    if slot >= 0:
        token = tl.load(tokens + tile * P + tl.arange(0, P))
        column = block * BLOCK_O + tl.arange(0, BLOCK_O)
        total = tl.zeros((P, BLOCK_O), dtype=tl.float32)
        for start in range(0, rank, BLOCK_R):
            row = start + tl.arange(0, BLOCK_R)
            h_PR = tl.zeros((P, BLOCK_R), dtype=tl.float32)
            for split in range(splits):
                h_PR += tl.load(
                    h + (split * count + token[:, None]) * rows + first + row[None, :],
                    mask=(token[:, None] >= 0) & (row[None, :] < rank), other=0.0,
                )  # fmt: skip
            b_RO = tl.load(
                b + (slot * rank + row[:, None]) * outputs + column[None, :],
                mask=(row[:, None] < rank) & (column[None, :] < outputs), other=0.0,
            )  # fmt: skip
            total = tl.dot(h_PR.to(b_RO.dtype), b_RO, total, input_precision="ieee")
        place = y + token[:, None] * y_stride + column[None, :]
        inside = (token[:, None] >= 0) & (column[None, :] < outputs)
        before = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, (before + total).to(y.dtype.element_ty), mask=inside)


def down(x_NI: Tensor, a_XI: Tensor, rows: int, slot_T: Tensor, token_TP: Tensor) -> Tensor:
    """Return x A^T of each token with its tile's adapter, float32 (splits, N, rows); rows of other tokens hold anything.

    a_XI: the A matrices of all slots one under the other, `rows` of each.
    """
    count, inputs = x_NI.shape
    splits = max(1, min(MOST_SPLITS, inputs // SPLIT_INPUTS))
    wide = min(64, max(16, triton.next_power_of_2(rows)))
    deep = 128 if x_NI.element_size() == 2 else 32
    per_split = triton.cdiv(triton.cdiv(inputs, splits), deep) * deep
    h_KNS = torch.empty(splits, count, rows, dtype=torch.float32, device=x_NI.device)
    _down[(len(slot_T), splits, triton.cdiv(rows, wide))](
        x_NI, a_XI, h_KNS, slot_T, token_TP, inputs, rows, x_NI.stride(0), count, per_split,
        P=token_TP.shape[1], BLOCK_S=wide, BLOCK_I=deep,
    )  # fmt: skip
    return h_KNS


def up(y_NO: Tensor, h_KNS: Tensor, first: int, b_XO: Tensor, rank: int, slot_T: Tensor, token_TP: Tensor) -> None:
    """Add h B to y for each token with its tile's adapter; h's columns from `first` on, its splits added up.

    b_XO: the B matrices of all slots one under the other, `rank` rows of each.
    """
    splits, count, rows = h_KNS.shape
    outputs = y_NO.shape[1]
    wide = 256 if y_NO.element_size() == 2 else 64
    deep = min(64, max(16, triton.next_power_of_2(rank)))
    _up[(len(slot_T), triton.cdiv(outputs, wide))](
        y_NO, h_KNS, b_XO, slot_T, token_TP, outputs, rank, rows, first, splits, y_NO.stride(0), count,
        P=token_TP.shape[1], BLOCK_R=deep, BLOCK_O=wide,
    )  # fmt: skip
