"""Tokens of a step that get their low-rank product together, and how a CPU's decoding tokens are sorted into such parts.

Neighbouring tokens of one adapter are one plain product, tokens of many adapters one batched product. What a GPU does with many
adapters stands in lora_parts_gpu.py. See lora_bank.py for where the matrices lie. Shapes: N tokens of the step, I inputs and O
outputs of a layer, S members of a group times the padded rank, R the padded rank.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from burnish.model.lora_bank import Group, LoraBank, Member, Stack, runs

PADDING_LIMIT = 2.0
"""Batched products may compute so many times the tokens there are; what is beyond becomes products of its own."""
FEW_TOKENS = 2
"""Tokens of an adapter up to which A x is twice as fast as x A^T on a CPU: each row of A is read once, from end to end."""


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
        a_SI = self.stack.matrices(group.offset, self.slot, 1, group.inputs, tall=True)
        return nn.functional.linear(some(x_NI, self.tokens), a_SI)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add one product."""
        rank = self.stack.rank
        b_RO = self.stack.matrices(member.offset, self.slot, 1, member.outputs, tall=True)
        some(y_NO, self.tokens).addmm_(h[:, place * rank : (place + 1) * rank], b_RO)


@dataclass(slots=True)
class BatchedPart:
    """Tokens of adapters in neighbouring slots, as a batch of small products: what a CPU does, which is short of arithmetic.

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
        a_GSI = self.stack.matrices(group.offset, self.first, self.adapters, group.inputs, tall=False)
        x_TI = x_NI[self.tokens] if self.gather is None else x_NI.index_select(0, self.gather)
        x_GTI = x_TI.view(self.adapters, -1, group.inputs)
        if x_GTI.shape[1] <= FEW_TOKENS:
            h_GST = torch.bmm(a_GSI, x_GTI.transpose(1, 2))
            return h_GST.view(self.adapters, 1, -1) if h_GST.shape[2] == 1 else h_GST.transpose(1, 2).contiguous()
        return torch.bmm(x_GTI, a_GSI.transpose(1, 2))

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add a batch of products."""
        rank = self.stack.rank
        b_GRO = self.stack.matrices(member.offset, self.first, self.adapters, member.outputs, tall=False)
        h_GTR = h[..., place * rank : (place + 1) * rank]
        if self.gather is None and y_NO.is_contiguous():
            some(y_NO, self.tokens).view(self.adapters, -1, member.outputs).baddbmm_(h_GTR, b_GRO)
            return
        more_PO = torch.bmm(h_GTR, b_GRO).view(-1, member.outputs)
        if self.gather is None:
            some(y_NO, self.tokens).add_(
                more_PO
            )  # not baddbmm_: into a slice of joined outputs it multiplies one by one
        else:
            assert self.filled is not None
            assert self.back is not None
            y_NO.index_add_(0, self.back, more_PO.index_select(0, self.filled))


def some(values_NX: Tensor, tokens: slice) -> Tensor:
    """Return some of the tokens: all of them as they are."""
    return values_NX if tokens.start == 0 and tokens.stop == values_NX.shape[0] else values_NX[tokens]


def piece_parts(bank: LoraBank, pieces: Sequence[tuple[Hashable | None, slice]]) -> list[Part]:
    """Return a plain part for each piece of a prompt; neighbouring pieces of one adapter are one."""
    joined: list[tuple[Hashable | None, slice]] = []
    for key, tokens in pieces:
        if joined and joined[-1][0] == key and joined[-1][1].stop == tokens.start:
            joined[-1] = (key, slice(joined[-1][1].start, tokens.stop))
        else:
            joined.append((key, tokens))
    parts: list[Part] = []
    for key, tokens in joined:
        if key is not None:
            rank, slot = bank.place(key)
            parts.append(PlainPart(bank.stacks[rank], slot, tokens))
    return parts


def batched_parts(bank: LoraBank, keys: Sequence[Hashable | None]) -> list[Part]:
    """Sort the decoding tokens (one each, already in the order of their places) into parts."""
    places = [bank.place(key) for key in keys]
    parts: list[Part] = []
    for rank, first, end in runs(places):
        if rank:
            counts = _counts([slot for _, slot in places[first:end]])
            parts += _parts_of(bank.stacks[rank], counts, first, bank.device)
    return parts


def _counts(slots: Sequence[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for slot in slots:
        counts[slot] = counts.get(slot, 0) + 1
    return counts


def _parts_of(stack: Stack, counts: dict[int, int], first: int, device: torch.device) -> list[Part]:
    """Cut the tokens of one stack: crowded adapters by themselves where padding would cost more, the rest as one batch."""
    starts: dict[int, int] = {}
    for slot, count in counts.items():
        starts[slot] = first
        first += count
    parts: list[Part] = []
    batched = dict(counts)
    while len(batched) > 1:
        places = (max(batched) - min(batched) + 1) * max(batched.values())
        if places <= PADDING_LIMIT * sum(batched.values()):
            break
        crowded = max(batched, key=lambda slot: batched[slot])
        if batched[crowded] == 1:  # one token each, but far apart
            break
        parts.append(_plain(stack, crowded, starts[crowded], batched.pop(crowded)))
    if len(batched) == 1:
        ((slot, count),) = batched.items()
        parts.append(_plain(stack, slot, starts[slot], count))
    elif batched:
        parts.append(_batch(stack, batched, starts, device))
    return parts


def _plain(stack: Stack, slot: int, start: int, count: int) -> PlainPart:
    return PlainPart(stack, slot, slice(start, start + count))


def _batch(stack: Stack, counts: dict[int, int], starts: dict[int, int], device: torch.device) -> BatchedPart:
    """One batched product over the slots from the lowest to the highest."""
    low, high, most = min(counts), max(counts), max(counts.values())
    begin = min(starts[slot] for slot in counts)
    if len(counts) == high - low + 1 and min(counts.values()) == most:
        end = begin + sum(counts.values())
        if all(starts[slot] == begin + (slot - low) * most for slot in counts):
            return BatchedPart(stack, low, len(counts), slice(begin, end))
    gather: list[int] = []
    filled: list[int] = []
    back: list[int] = []
    for slot in range(low, high + 1):
        count, start = counts.get(slot, 0), starts.get(slot, begin)
        filled += range(len(gather), len(gather) + count)
        back += range(start, start + count)
        gather += [*range(start, start + count), *[begin] * (most - count)]
    gather_P, filled_P, back_P = (torch.tensor(each, device=device) for each in (gather, filled, back))
    return BatchedPart(stack, low, high - low + 1, slice(0, 0), gather_P, filled_P, back_P)
