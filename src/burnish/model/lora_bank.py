"""Matrices of many LoRA adapters of one base, stacked so that a step reads each adapter it needs once and nothing else.

An adapter travels as one flat row of numbers: for each group of layers that read the same input its A matrices (members x
rank, inputs), then the B matrix (rank, outputs) of each member, scaled as its method says. Where the group is one product,
each B is cut into units of one width, (units, rank, width), so that the products of all members are one batch. See lora_stack.py
for how the pieces of all adapters of one padded rank lie in memory. The adapters in use are kept next to each other (the
gathered products of Chen et al. 2023, "Punica", arXiv:2310.18547, and Sheng et al. 2023, "S-LoRA", arXiv:2311.03285, without
kernels of their own).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.lora_stack import Stack

LEAST_RANK = 8
"""Ranks are padded with zeros to the next power of two from here on: few stacks, and products of friendly sizes."""

MOST_UNITS = 16
"""Units that the B matrices of a group are cut into at most: each is a product of its own within the batch."""


@dataclass(frozen=True, slots=True)
class Member:
    """One adapted layer: its name, its size, and where its B lies in a row, in numbers for each unit of rank."""

    name: str
    outputs: int
    offset: int


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that read the same input. `offset` as in Member: where the A matrices of all members begin.

    width: outputs of each unit that the B matrices of all members are cut into, which lie in one block; None where each B is a
    block of its own. units: the member of each.
    """

    inputs: int
    members: tuple[Member, ...]
    offset: int
    width: int | None = None
    units: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where the matrices of every layer lie in an adapter's row; `unit` numbers for each unit of rank."""

    groups: tuple[Group, ...]
    unit: int

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Offset and size of each piece, for each unit of rank, in the order of the row."""
        found: list[tuple[int, int]] = []
        for group in self.groups:
            found.append((group.offset, group.inputs * len(group.members)))
            if group.width is None:
                found += [(member.offset, member.outputs) for member in group.members]
            else:
                found.append((group.members[0].offset, group.width * len(group.units)))
        return found

    @classmethod
    def of(
        cls, groups: Sequence[Sequence[str]], sizes: Mapping[str, tuple[int, int]], *, joined: Sequence[bool] = ()
    ) -> Layout:
        """Lay out groups of layer names; `sizes` are the (inputs, outputs) of each. joined: which groups are one product."""
        made: list[Group] = []
        at = 0
        for number, names in enumerate(groups):
            inputs, start = sizes[names[0]][0], at
            at += inputs * len(names)
            members: list[Member] = []
            for name in names:
                members.append(Member(name, sizes[name][1], at))
                at += sizes[name][1]
            width = gcd(*(member.outputs for member in members))
            units = [place for place, member in enumerate(members) for _ in range(member.outputs // width)]
            if joined and joined[number] and len(units) <= MOST_UNITS:
                made.append(Group(inputs, tuple(members), start, width, tuple(units)))
            else:
                made.append(Group(inputs, tuple(members), start))
        return cls(tuple(made), at)


@dataclass(frozen=True, slots=True, eq=False)
class PackedAdapter:
    """An adapter as one row of a stack, on the CPU or the device. `rank` is the padded one."""

    rank: int
    row: Tensor

    @property
    def bytes(self) -> int:
        """Memory of the row."""
        return self.row.numel() * self.row.element_size()


def padded_rank(rank: int) -> int:
    """Return the rank of the stack that an adapter of this rank goes to."""
    return max(LEAST_RANK, 1 << (rank - 1).bit_length())


def pack(layout: Layout, method: MethodPlan, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> PackedAdapter:
    """Return an adapter (matrices as `read_adapter` gives them) as a row. Layers without matrices get zeros."""
    rank, padded = method.rank, padded_rank(method.rank)
    scale = method.scale
    row = torch.zeros(layout.unit * padded, dtype=dtype)
    for group in layout.groups:
        size = len(group.members) * padded * group.inputs
        a_MRI = row[group.offset * padded :][:size].view(len(group.members), padded, group.inputs)
        for place, member in enumerate(group.members):
            if f"{member.name}.lora_A" not in tensors:
                continue
            a_MRI[place, :rank] = tensors[f"{member.name}.lora_A"]
            width = group.width or member.outputs
            b_URW = row[member.offset * padded :][: padded * member.outputs].view(-1, padded, width)
            b_RO = tensors[f"{member.name}.lora_B"].t() * scale
            b_URW[:, :rank] = b_RO.view(rank, -1, width).transpose(0, 1)
    return PackedAdapter(padded, row)


class LoraBank:
    """The adapters at hand, by key. Belongs to the thread that runs the model.

    `moves` counts how often matrices went to another place in memory, which ends what a CUDA graph knows of them.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self.dtype = dtype
        self.device = device
        self.stacks: dict[int, Stack] = {}
        self.moves = 0
        self._rank_of: dict[Hashable, int] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rank_of

    def __len__(self) -> int:
        return len(self._rank_of)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rank_of)

    @property
    def bytes(self) -> int:
        """Memory of all slots, used or not."""
        return sum(stack.bytes for stack in self.stacks.values())

    def load(self, key: Hashable, adapter: PackedAdapter) -> None:
        """Put an adapter into a slot of its own. Raises BaseModelError when the key has one already, and OutOfMemory.

        After an error the bank holds what it held.
        """
        self._check_new(key)
        stack = self.stacks.get(adapter.rank) or Stack(self.layout.pieces, adapter.rank, self.dtype, self.device)
        moves = stack.moves
        try:
            stack.add(key, adapter.row)
        finally:
            self.moves += stack.moves - moves
        self.stacks[adapter.rank] = stack
        self._rank_of[key] = adapter.rank

    def exchange(self, old: Hashable, key: Hashable, adapter: PackedAdapter) -> None:
        """Put an adapter into the slot of another one of its padded rank, which leaves. Raises BaseModelError as `load` does."""
        self._check_new(key)
        self.stacks[adapter.rank].exchange(old, key, adapter.row)
        self._rank_of[key] = self._rank_of.pop(old)

    def _check_new(self, key: Hashable) -> None:
        if key in self._rank_of:
            raise BaseModelError(f"an adapter is loaded as {key!r} already")

    def unload(self, key: Hashable) -> None:
        """Free an adapter's slot."""
        rank = self._rank_of.pop(key)
        stack = self.stacks[rank]
        moves = stack.moves
        stack.remove(key)
        self.moves += stack.moves - moves
        if not stack.keys:
            del self.stacks[rank]

    def clear(self) -> None:
        """Forget every adapter. Takes no memory and asks nothing of the device, which may be what failed."""
        self.stacks.clear()
        self._rank_of.clear()
        self.moves += 1

    def packed(self, key: Hashable) -> PackedAdapter:
        """Return a copy on the CPU of an adapter, from which it can be loaded again. Raises OutOfMemory."""
        rank = self._rank_of[key]
        return PackedAdapter(rank, self.stacks[rank].row(key))

    def place(self, key: Hashable | None) -> tuple[int, int]:
        """Return (padded rank, slot) of an adapter; (0, 0) for the base. Sorting by it brings neighbours together."""
        if key is None:
            return 0, 0
        rank = self._rank_of[key]
        return rank, self.stacks[rank].slots[key]

    def bring_forward(self, keys: Iterable[Hashable | None]) -> None:
        """Let the adapters of a step lie next to each other in each stack."""
        by_rank: dict[int, list[Hashable]] = {}
        for key in keys:
            if key is not None:
                by_rank.setdefault(self._rank_of[key], []).append(key)
        for rank, wanted in by_rank.items():
            self.stacks[rank].bring_forward(wanted)


def runs(places: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Cut a sorted list of places into (rank, first, end) of equal ranks."""
    borders = [0, *(i for i in range(1, len(places)) if places[i][0] != places[i - 1][0]), len(places)]
    return [(places[a][0], a, b) for a, b in pairwise(borders) if a < b]
