"""Tokens of a step that get their low-rank product together, and how a CPU's decoding tokens are sorted into such parts.

Neighbouring tokens of one adapter are one plain product; tokens of many adapters one batched product with A, then sums of rows
of B. What a GPU does with many adapters stands in lora_parts_gpu.py. See lora_bank.py for where the matrices lie. Shapes: N
tokens of the step, I inputs and O outputs of a layer, M members of a group, S members times the padded rank, R the padded rank; U
units of W outputs, into which the B matrices of a group are cut where it is one product.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from burnish.model.lora_bank import Group, LoraBank, Member, runs
from burnish.model.lora_stack import Stack

PADDING_LIMIT = 2.0
"""Batched products may compute so many times the tokens there are; what is beyond becomes products of its own."""
SHORT_PIECE = 32
"""Tokens of a prompt's piece up to which it is computed together with those of other adapters: alone it is next to no work."""
FEW_TOKENS = 2
"""Tokens of an adapter up to which A x is twice as fast as x A^T on a CPU: each row of A is read once, from end to end."""
SUM = 0
"""What `torch.embedding_bag` calls a sum."""


class Part(Protocol):
    """Tokens of a step that get their low-rank product together."""

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return x A^T for the members of a group, in a form that `up` takes."""
        ...

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add h B^T of the member at `place` of its group to y, in place."""
        ...


@dataclass(slots=True)
class PlainPart:
    """Neighbouring tokens of one adapter."""

    stack: Stack
    slot: int
    tokens: slice

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (T, S)."""
        a_SI = self.stack.matrices(group.offset, self.slot, 1, group.inputs, rows=None)
        return nn.functional.linear(some(x_NI, self.tokens), a_SI)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add one product."""
        rank = self.stack.rank
        b_RO = self.stack.matrices(member.offset, self.slot, 1, member.outputs, rows=None)
        some(y_NO, self.tokens).addmm_(h[:, place * rank : (place + 1) * rank], b_RO)

    def up_together(self, y_NO: Tensor, h: Tensor, group: Group) -> None:
        """Add the products of all members of a group with units to all its outputs, in place."""
        assert group.width is not None
        y_TO, rank = some(y_NO, self.tokens), self.stack.rank
        b_URW = self.stack.matrices(group.members[0].offset, self.slot, 1, group.width, rows=rank)
        if len(group.units) == 1:
            y_TO.addmm_(h, b_URW[0])
        else:
            h_UTR = _of_units(h.view(-1, len(group.members), rank), group.units).transpose(0, 1)
            y_TO.view(y_TO.shape[0], -1, group.width).transpose(0, 1).baddbmm_(h_UTR, b_URW)


@dataclass(slots=True)
class BatchedPart:
    """Tokens of adapters in neighbouring slots, each with its own product: what a CPU does, which is short of arithmetic.

    G adapters, T tokens each.
    tokens: where they lie, when they lie next to each other and each adapter has T of them.
    gather: otherwise, the token of each of the G x T places; places without a token repeat another.
    filled, back: the places that hold a token, and which token.
    """

    stack: Stack
    first: int
    adapters: int
    tokens: slice
    gather: Tensor | None = None
    filled: Tensor | None = None
    back: Tensor | None = None

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (G, T, S)."""
        rows = len(group.members) * self.stack.rank
        a_GSI = self.stack.matrices(group.offset, self.first, self.adapters, group.inputs, rows=rows)
        x_TI = some(x_NI, self.tokens) if self.gather is None else x_NI.index_select(0, self.gather)
        x_GTI = x_TI.view(self.adapters, -1, group.inputs)
        if x_GTI.shape[1] <= FEW_TOKENS:
            h_GST = torch.bmm(a_GSI, x_GTI.transpose(1, 2))
            return h_GST.view(self.adapters, 1, -1) if h_GST.shape[2] == 1 else h_GST.transpose(1, 2).contiguous()
        return torch.bmm(x_GTI, a_GSI.transpose(1, 2))

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add h B^T of one member."""
        rank = self.stack.rank
        self._sum_rows(
            y_NO, h[..., place * rank : (place + 1) * rank].reshape(-1, 1, rank), member.offset, member.outputs
        )

    def up_together(self, y_NO: Tensor, h: Tensor, group: Group) -> None:
        """Add h B^T of all members of a group with units, to all its outputs."""
        assert group.width is not None
        h_PUR = _of_units(h.view(-1, len(group.members), self.stack.rank), group.units)
        self._sum_rows(y_NO, h_PUR, group.members[0].offset, group.width)

    def _sum_rows(self, y_NO: Tensor, h_PUR: Tensor, offset: int, width: int) -> None:
        """Add for each place and unit the sum of R rows of B times their h.

        That is a bag of embeddings, whose kernel reads ahead. As the batch of products that it is too, each of a row, it takes up
        to twice as long: MKL needs as much time to begin a product as to read a small matrix.
        """
        places, units, rank = h_PUR.shape
        b_XW = self.stack.matrices(offset, self.first, self.adapters, width, rows=None)
        rows, begins = _bags(self.adapters, places // self.adapters, units, rank)
        more_XW = torch.embedding_bag(b_XW, rows, begins, mode=SUM, per_sample_weights=h_PUR.reshape(-1))[0]
        self._add(y_NO, more_XW.view(places, units * width))

    def _add(self, y_NO: Tensor, more_PO: Tensor) -> None:
        """Add to the part's tokens what each place gets."""
        if self.gather is None:
            some(y_NO, self.tokens).add_(more_PO)
            return
        assert self.filled is not None
        assert self.back is not None
        y_NO.index_add_(0, self.back, more_PO.index_select(0, self.filled))


@lru_cache(maxsize=32)
def _bags(adapters: int, tokens: int, units: int, rank: int) -> tuple[Tensor, Tensor]:
    """Return the rows of B that the units of each token sum, (G, T, U, R) flat, and where each sum begins."""
    rows_GUR = torch.arange(adapters * units * rank, dtype=torch.int32).view(adapters, 1, units, rank)
    rows = rows_GUR.expand(-1, tokens, -1, -1).reshape(-1)
    return rows, torch.arange(0, len(rows), rank, dtype=torch.int32)


@cache
def _members(units: tuple[int, ...]) -> Tensor:
    return torch.tensor(units)


def _of_units(h_NMR: Tensor, units: tuple[int, ...]) -> Tensor:
    """Return for each unit what its member has: (N, U, R) of (N, M, R)."""
    return h_NMR if h_NMR.shape[1] == len(units) else h_NMR.index_select(1, _members(units))


def some(values_NX: Tensor, tokens: slice) -> Tensor:
    """Return some of the tokens: all of them as they are."""
    return values_NX if tokens.start == 0 and tokens.stop == values_NX.shape[0] else values_NX[tokens]


def piece_parts(bank: LoraBank, pieces: Sequence[tuple[Hashable | None, slice]]) -> list[Part]:
    """Sort pieces of prompts into parts: short ones of several adapters together, every other by itself.

    Neighbouring pieces of one adapter are one.
    """
    joined: list[tuple[Hashable | None, slice]] = []
    for key, tokens in pieces:
        if joined and joined[-1][0] == key and joined[-1][1].stop == tokens.start:
            joined[-1] = (key, slice(joined[-1][1].start, tokens.stop))
        else:
            joined.append((key, tokens))
    parts: list[Part] = []
    short: dict[int, dict[int, slice]] = {}
    for key, tokens in joined:
        if key is None:
            continue
        rank, slot = bank.place(key)
        together = short.setdefault(rank, {})
        if bank.device.type != "cpu" or tokens.stop - tokens.start > SHORT_PIECE or slot in together:
            parts.append(PlainPart(bank.stacks[rank], slot, tokens))
        else:
            together[slot] = tokens
    for rank, together in short.items():
        parts += _parts_of(bank.stacks[rank], dict(sorted(together.items())), bank.device)
    return parts


def batched_parts(bank: LoraBank, keys: Sequence[Hashable | None]) -> list[Part]:
    """Sort the decoding tokens (one each, already in the order of their places) into parts."""
    places = [bank.place(key) for key in keys]
    parts: list[Part] = []
    for rank, first, end in runs(places):
        if rank:
            tokens: dict[int, slice] = {}
            for at, (_, slot) in enumerate(places[first:end], first):
                tokens[slot] = slice(tokens[slot].start if slot in tokens else at, at + 1)
            parts += _parts_of(bank.stacks[rank], tokens, bank.device)
    return parts


def _parts_of(stack: Stack, tokens: dict[int, slice], device: torch.device) -> list[Part]:
    """Cut the tokens of each slot: crowded adapters by themselves where padding would cost more, the rest as one batch."""
    parts: list[Part] = []
    counts = {slot: some.stop - some.start for slot, some in tokens.items()}
    while len(counts) > 1:
        places = (max(counts) - min(counts) + 1) * max(counts.values())
        if places <= PADDING_LIMIT * sum(counts.values()):
            break
        crowded = max(counts, key=lambda slot: counts[slot])
        if counts[crowded] == 1:  # one token each, but far apart
            break
        parts.append(PlainPart(stack, crowded, tokens[crowded]))
        del counts[crowded]
    if len(counts) == 1:
        (slot,) = counts
        parts.append(PlainPart(stack, slot, tokens[slot]))
    elif counts:
        parts.append(_batch(stack, counts, tokens, device))
    return parts


def _batch(stack: Stack, counts: dict[int, int], tokens: dict[int, slice], device: torch.device) -> BatchedPart:
    """One batched product over the slots from the lowest to the highest."""
    low, high, most = min(counts), max(counts), max(counts.values())
    begin = tokens[low].start
    full = len(counts) == high - low + 1 and min(counts.values()) == most
    if full and all(tokens[slot].start == begin + (slot - low) * most for slot in counts):
        return BatchedPart(stack, low, len(counts), slice(begin, begin + len(counts) * most))
    gather: list[int] = []
    filled: list[int] = []
    back: list[int] = []
    for slot in range(low, high + 1):
        here = range(tokens[slot].start, tokens[slot].stop) if slot in counts else range(0)
        filled += range(len(gather), len(gather) + len(here))
        back += here
        gather += [*here, *[begin] * (most - len(here))]
    gather_P, filled_P, back_P = (torch.tensor(each, device=device) for each in (gather, filled, back))
    return BatchedPart(stack, low, high - low + 1, slice(0, 0), gather_P, filled_P, back_P)
