"""Triton's products of tiles equal masked products of everything: on a GPU, or on a CPU with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest
import torch

from burnish.model.lora_bank import Layout, LoraBank, PackedAdapter
from burnish.model.lora_parts_gpu import part_numbers, part_shapes, parts_from

pytestmark = pytest.mark.gpu
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
HALF = (
    torch.float16 if INTERPRETED else torch.bfloat16
)  # the interpreter multiplies bfloat16 as if it were whole numbers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (HALF, 2e-2)])
@pytest.mark.parametrize(("rank", "inputs"), [(8, 72), (16, 2100), (128, 130)])
def test_tiles_of_tokens_get_the_products_of_their_adapters(
    rank: int, inputs: int, dtype: torch.dtype, tolerance: float
) -> None:
    layout = Layout.of(
        [["q", "k", "v"], ["o"]], {"q": (inputs, 96), "k": (inputs, 40), "v": (inputs, 40), "o": (56, 300)}
    )
    bank = LoraBank(layout, dtype, DEVICE)
    draw = torch.Generator().manual_seed(rank)
    for name in "abcde":
        bank.load(name, PackedAdapter(rank, torch.randn(layout.unit * rank, generator=draw).to(dtype)))
    bank.load("other", PackedAdapter(64, torch.randn(layout.unit * 64, generator=draw).to(dtype)))
    keys = [*["a"] * 19, "b", None, "other", "c", "b", *["d"] * 16, None]
    rows = 44  # four more than there are tokens
    for group in layout.groups:
        x_NI = torch.randn(rows + 3, group.inputs, generator=draw).to(dtype).to(DEVICE)
        found = {}
        for way in ("masked", "tiled"):
            shapes = [shape for shape in part_shapes(bank, keys, way) if shape.rank == rank]
            assert [shape.kind for shape in shapes] == [way]
            numbers_X = torch.tensor(part_numbers(bank, keys, shapes, rows), device=DEVICE)
            (part,) = parts_from(bank, shapes, numbers_X, rows)
            h = part.down(x_NI, group)
            for place, member in enumerate(group.members):
                y_NO = torch.ones(rows + 3, member.outputs, dtype=dtype, device=DEVICE)
                part.up(y_NO, h, place, member)
                found[way, place] = y_NO.float()
        for place in range(len(group.members)):
            want = found["masked", place]
            scale = want.abs().max()
            torch.testing.assert_close(found["tiled", place] / scale, want / scale, rtol=0, atol=tolerance)
            assert (want[20] == 1).all()
            assert (want[0] != 1).any()
