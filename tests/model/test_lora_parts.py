"""Pieces of prompts get their low-rank products together where they are short, and the numbers are those of each by itself."""

from __future__ import annotations

import pytest
import torch

from burnish.model.lora_bank import Layout, LoraBank, PackedAdapter
from burnish.model.lora_parts import SHORT_PIECE, BatchedPart, Part, PlainPart, piece_parts

SIZES = {"a": (12, 5), "b": (12, 7)}


def bank_of(ranks: dict[str, int]) -> LoraBank:
    layout = Layout.of([["a", "b"]], SIZES)
    bank = LoraBank(layout, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for key, rank in ranks.items():
        bank.load(key, PackedAdapter(rank, torch.randn(layout.unit * rank, generator=generator)))
    return bank


def computed(bank: LoraBank, parts: list[Part], x_NI: torch.Tensor) -> torch.Tensor:
    """What the parts add to both layers, joined as packed layers join them."""
    (group,) = bank.layout.groups
    y_NO = torch.zeros(len(x_NI), sum(outputs for _, outputs in SIZES.values()))
    for part in parts:
        h, at = part.down(x_NI, group), 0
        for place, member in enumerate(group.members):
            part.up(y_NO[:, at : at + member.outputs], h, place, member)
            at += member.outputs
    return y_NO


@pytest.mark.parametrize(
    ("lengths", "batched", "plain"),
    [
        ([("p", 4), ("q", 4), ("r", 4)], 1, 0),  # neighbours in order: no copy
        ([("r", 4), (None, 2), ("p", 3), ("q", 4)], 1, 0),  # another order, other lengths, the base between
        ([("p", 4), ("q", SHORT_PIECE + 1), ("r", 4)], 1, 1),
        ([("p", 4), ("q", 4), ("p", 4)], 1, 1),  # two prompts of one adapter
        ([("p", 2), ("q", 2), ("w", 3), ("v", 3)], 2, 0),  # two ranks
        ([("p", 5)], 0, 1),
    ],
)
def test_short_pieces_are_one_product(lengths: list[tuple[str | None, int]], batched: int, plain: int) -> None:
    bank = bank_of({"p": 8, "q": 8, "r": 8, "v": 16, "w": 16})
    pieces: list[tuple[str | None, slice]] = []
    at = 1  # a decoding token stands before them
    for key, length in lengths:
        pieces.append((key, slice(at, at + length)))
        at += length
    parts = piece_parts(bank, pieces)
    assert [sum(isinstance(part, kind) for part in parts) for kind in (BatchedPart, PlainPart)] == [batched, plain]
    if lengths[0][0] == "p" and len({length for _, length in lengths}) == 1 and batched and not plain:
        assert all(part.gather is None for part in parts if isinstance(part, BatchedPart))
    x_NI = torch.randn(at, 12)
    alone: list[Part] = [
        PlainPart(bank.stacks[bank.place(key)[0]], bank.place(key)[1], tokens) for key, tokens in pieces if key
    ]
    torch.testing.assert_close(computed(bank, parts, x_NI), computed(bank, alone, x_NI), rtol=1e-5, atol=1e-5)


def test_blocks_of_a_stack_share_few_tensors_and_adapters_from_behind_keep_their_order() -> None:
    layout = Layout.of([[f"{layer}.{leaf}" for leaf in "qkv"] for layer in range(60)], {
        f"{layer}.{leaf}": (16, 8) for layer in range(60) for leaf in "qkv"
    })  # fmt: skip
    bank = LoraBank(layout, torch.float32, torch.device("cpu"))
    for key in range(12):
        bank.load(key, PackedAdapter(8, torch.full((layout.unit * 8,), float(key))))
    blocks = bank.stacks[8].blocks.values()
    assert len(blocks) == 240
    assert 16 <= len({block.untyped_storage().data_ptr() for block in blocks}) <= 40
    bank.bring_forward([7, 11, 9, 5])
    assert [bank.place(key)[1] for key in (7, 11, 9, 5)] == [0, 1, 2, 3]
    assert all(torch.equal(bank.packed(key).row, torch.full_like(bank.packed(key).row, key)) for key in range(12))
