"""What a GPU does with decoding tokens of many adapters: one part for each padded rank, of shapes that a CUDA graph can replay.

A part's shape is what must not change between two replays; which token has which adapter is told by numbers in a tensor.
Tokens of one adapter alone are a plain product. Otherwise each adapter's tokens are cut into tiles, which kernels of Triton
multiply (the grouped products of Chen et al. 2023, "Punica", arXiv:2310.18547); where Triton is not installed, all tokens are
multiplied with all adapters in use, of which each token keeps its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from burnish.model.lora_bank import Group, LoraBank, Member
from burnish.model.lora_parts import Part, PlainPart
from burnish.model.lora_stack import Stack

TILE = 16
"""Tokens of a tile: the least that tensor cores multiply."""
LEAST_TILES = 8

Way = Literal["tiled", "masked"]


class PartShape(NamedTuple):
    """What of a part is the same in each replay. `size`: the slot (plain), adapters (masked) or tiles (tiled)."""

    kind: Literal["plain", "masked", "tiled"]
    rank: int
    size: int

    def count(self, rows: int) -> int:
        """Return how many numbers tell a step's assignment."""
        return {"plain": 0, "masked": rows, "tiled": self.size * (TILE + 1)}[self.kind]


def bucket(count: int, least: int = 1) -> int:
    """Round up to one of four sizes in each octave, and to a multiple of `least`: few shapes, at most a quarter too much."""
    step = max(least, 1 << max(0, (count - 1).bit_length() - 3))
    return max(least, -(-count // step) * step)


def part_shapes(bank: LoraBank, keys: Sequence[Hashable | None], way: Way) -> list[PartShape]:
    """Return the shapes of the parts of decoding tokens with these adapters."""
    places = [bank.place(key) for key in keys]
    if places and places[0][0] and len(set(places)) == 1:
        return [PartShape("plain", *places[0])]
    shapes: list[PartShape] = []
    for rank in sorted({rank for rank, _ in places if rank}):
        if way == "tiled":
            shapes.append(PartShape("tiled", rank, bucket(len(_tiles(places, rank)), LEAST_TILES)))
        else:
            used = 1 + max(slot for found, slot in places if found == rank)
            shapes.append(PartShape("masked", rank, min(bucket(used), bank.stacks[rank].capacity)))
    return shapes


def part_numbers(bank: LoraBank, keys: Sequence[Hashable | None], shapes: Sequence[PartShape], rows: int) -> list[int]:
    """Return the numbers that `parts_from` takes: which adapter each of `rows` tokens has; rows beyond the keys have none."""
    places = [bank.place(key) for key in keys]
    numbers: list[int] = []
    for shape in shapes:
        if shape.kind == "masked":
            numbers += [slot if rank == shape.rank else -1 for rank, slot in places] + [-1] * (rows - len(places))
        elif shape.kind == "tiled":
            tiles = _tiles(places, shape.rank)
            empty = shape.size - len(tiles)
            numbers += [slot for slot, _ in tiles] + [-1] * empty
            for _, tokens in tiles:
                numbers += tokens + [-1] * (TILE - len(tokens))
            numbers += [-1] * (TILE * empty)
    return numbers


def parts_from(bank: LoraBank, shapes: Sequence[PartShape], numbers_X: Tensor, rows: int) -> list[Part]:
    """Return the parts of a step. Runs on the device alone, so that a graph can hold it."""
    parts: list[Part] = []
    at = 0
    for shape in shapes:
        stack, some_X = bank.stacks[shape.rank], numbers_X[at : at + shape.count(rows)]
        at += shape.count(rows)
        if shape.kind == "plain":
            parts.append(PlainPart(stack, shape.size, slice(0, rows)))
        elif shape.kind == "masked":
            others_NG = some_X[:, None] != torch.arange(shape.size, device=numbers_X.device)
            parts.append(MaskedPart(stack, shape.size, slice(0, rows), others_NG))
        else:
            parts.append(TiledPart(stack, some_X[: shape.size], some_X[shape.size :].view(shape.size, TILE)))
    return parts


def gpu_parts(bank: LoraBank, keys: Sequence[Hashable | None], way: Way) -> list[Part]:
    """Return the parts of decoding tokens that lie first in a step."""
    shapes = part_shapes(bank, keys, way)
    numbers = torch.tensor(part_numbers(bank, keys, shapes, len(keys)), dtype=torch.int64)
    return parts_from(bank, shapes, numbers.to(bank.device), len(keys))


def _tiles(places: Sequence[tuple[int, int]], rank: int) -> list[tuple[int, list[int]]]:
    """Return slot and tokens (TILE at most) of each tile of a rank."""
    tokens_of: dict[int, list[int]] = {}
    for token, (found, slot) in enumerate(places):
        if found == rank:
            tokens_of.setdefault(slot, []).append(token)
    return [
        (slot, tokens[at : at + TILE])
        for slot, tokens in sorted(tokens_of.items())
        for at in range(0, len(tokens), TILE)
    ]


@dataclass(slots=True)
class MaskedPart:
    """All decoding tokens times the adapters of the first slots, of which each token keeps its own.

    A GPU is short of launches and of bandwidth, not of arithmetic: two large products and a mask are faster there than many
    small ones, and read each adapter once. others_NG: True where the adapter is not the token's.
    """

    stack: Stack
    adapters: int
    tokens: slice
    others_NG: Tensor

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (members, N, adapters x rank): zero but where the adapter is the token's."""
        members, rank = len(group.members), self.stack.rank
        a_SI = self.stack.matrices(group.offset, 0, self.adapters, group.inputs, rows=None)
        h_NGMR = nn.functional.linear(x_NI[self.tokens], a_SI).view(-1, self.adapters, members, rank)
        h_NGMR.masked_fill_(
            self.others_NG[:, :, None, None], 0.0
        )  # not a product: what overflows elsewhere stays there
        return h_NGMR.permute(2, 0, 1, 3).reshape(members, -1, self.adapters * rank)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add one product over the ranks of all adapters."""
        b_SO = self.stack.matrices(member.offset, 0, self.adapters, member.outputs, rows=None)
        y_NO[self.tokens].addmm_(h[place], b_SO)


@dataclass(slots=True)
class TiledPart:
    """Tiles of tokens, each with one adapter. slot_T: -1 where a tile is empty; token_TP: -1 where a place is."""

    stack: Stack
    slot_T: Tensor
    token_TP: Tensor

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return float32 (splits, N, S): the sum over splits is the product; rows of other tokens hold anything."""
        from burnish.model.tiled_product import down

        a_XI = self.stack.matrices(group.offset, 0, self.stack.capacity, group.inputs, rows=None)
        return down(x_NI, a_XI, len(group.members) * self.stack.rank, self.slot_T, self.token_TP)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add the products of all tiles."""
        from burnish.model.tiled_product import up

        b_XO = self.stack.matrices(member.offset, 0, self.stack.capacity, member.outputs, rows=None)
        up(y_NO, h, place * self.stack.rank, b_XO, self.stack.rank, self.slot_T, self.token_TP)
