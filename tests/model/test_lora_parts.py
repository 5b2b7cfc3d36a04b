"""Pieces of prompts get their low-rank products together where they are short, and the numbers are those of each by itself."""

from __future__ import annotations

import pytest
import torch

from burnish.core.artifacts import MethodPlan
from burnish.model.lora_bank import Layout, LoraBank, PackedAdapter, pack
from burnish.model.lora_parts import SHORT_PIECE, BatchedPart, Part, PlainPart, piece_parts

SIZES = {"a": (12, 6), "b": (12, 4), "c": (12, 2)}


def bank_of(ranks: dict[str, int], *, joined: bool) -> LoraBank:
    layout = Layout.of([[*SIZES]], SIZES, joined=[joined])
    (group,) = layout.groups
    assert (group.width, group.units) == ((2, (0, 0, 0, 1, 1, 2)) if joined else (None, ()))
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
        if group.width is not None:
            assert isinstance(part, (PlainPart, BatchedPart))
            part.up_together(y_NO, h, group)
            continue
        for place, member in enumerate(group.members):
            part.up(y_NO[:, at : at + member.outputs], h, place, member)
            at += member.outputs
    return y_NO


@pytest.mark.parametrize("joined", [False, True], ids=["layer by layer", "as one product"])
@pytest.mark.parametrize(
    ("lengths", "batched", "plain"),
    [
        ([("p", 4), ("q", 4), ("r", 4)], 1, 0),  # neighbours in order: no copy
        ([("r", 4), (None, 2), ("p", 3), ("q", 4)], 1, 0),  # another order, other lengths, the base between
        ([("p", 4), ("q", SHORT_PIECE + 1), ("r", 4)], 1, 1),
        ([("p", 4), ("q", 4), ("p", 4)], 1, 1),  # two prompts of one adapter
        ([("p", 2), ("q", 2), ("w", 3), ("v", 3)], 2, 0),  # two ranks
        ([("p", 5)], 0, 1),
        ([("p", 1), ("q", 1), ("r", 1)], 1, 0),  # one token each, as in decoding
    ],
)
def test_short_pieces_are_one_product(
    lengths: list[tuple[str | None, int]], batched: int, plain: int, joined: bool
) -> None:
    bank = bank_of({"p": 8, "q": 8, "r": 8, "v": 16, "w": 16}, joined=joined)
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


def test_an_adapter_gives_the_same_products_however_its_matrices_lie() -> None:
    draw = torch.Generator().manual_seed(1)
    tensors = {f"{name}.lora_A": torch.randn(3, inputs, generator=draw) for name, (inputs, _) in SIZES.items()}
    tensors |= {f"{name}.lora_B": torch.randn(outputs, 3, generator=draw) for name, (_, outputs) in SIZES.items()}
    method = MethodPlan(
        kind="lora", rank=3, alpha=6.0, dropout=0.0, targets=("all-linear",), quantisation="none", double_quantisation=False
    )  # fmt: skip
    x_NI = torch.randn(4, 12, generator=draw)
    expected = torch.cat([2 * x_NI @ tensors[f"{n}.lora_A"].t() @ tensors[f"{n}.lora_B"].t() for n in SIZES], dim=1)
    for joined in (False, True):
        layout = Layout.of([[*SIZES]], SIZES, joined=[joined])
        bank = LoraBank(layout, torch.float32, torch.device("cpu"))
        bank.load("p", pack(layout, method, tensors, torch.float32))
        got = computed(bank, piece_parts(bank, [("p", slice(0, 4))]), x_NI)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_layers_whose_outputs_have_no_wide_unit_stay_apart() -> None:
    (group,) = Layout.of([["a", "b"]], {"a": (4, 576), "b": (4, 577)}, joined=[True]).groups
    assert (group.width, group.units) == (None, ())


def test_blocks_of_a_stack_share_few_tensors_and_adapters_from_behind_keep_their_order() -> None:
    layout = Layout.of([[f"{layer}.{leaf}" for leaf in "qkv"] for layer in range(60)], {
        f"{layer}.{leaf}": (16, 8) for layer in range(60) for leaf in "qkv"
    })  # fmt: skip
    bank = LoraBank(layout, torch.float32, torch.device("cpu"))
    for key in range(12):
        bank.load(key, PackedAdapter(8, torch.full((layout.unit * 8,), float(key))))
    blocks = bank.stacks[8].blocks.values()
    assert len(blocks) == 240
    assert 6 <= len({block.untyped_storage().data_ptr() for block in blocks}) <= 10
    bank.bring_forward([7, 11, 9, 5])
    assert [bank.place(key)[1] for key in (7, 11, 9, 5)] == [0, 1, 2, 3]
    assert all(torch.equal(bank.packed(key).row, torch.full_like(bank.packed(key).row, key)) for key in range(12))
