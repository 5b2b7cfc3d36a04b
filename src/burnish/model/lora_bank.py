"""Matrices of many LoRA adapters of one base, stacked so that a step reads each adapter it needs once and nothing else.

An adapter travels as one flat row of numbers: for each group of layers that read the same input its A matrices (members x
rank, inputs), then the B matrix (rank, outputs) of each member, scaled as its method says. Where the group is one product,
each B is cut into units of one width, (units, rank, width), so that the products of all members are one batch. In memory there
is a block for each piece (the A matrices; each B, or all units), with the pieces of all adapters of one padded rank one under
the other. So the A (or B) matrices of neighbouring adapters are one batch of matrices, and one tall matrix, without a copy or a
table of pointers. Blocks of neighbouring layers lie in one tensor, large enough for huge pages even where few adapters are
loaded. The adapters in use are kept next to each other (the gathered products of Chen et al. 2023, "Punica",
arXiv:2310.18547, and Sheng et al. 2023, "S-LoRA", arXiv:2311.03285, without kernels of their own).
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
from burnish.model.memory import huge_zeros

LEAST_RANK = 8
"""Ranks are padded with zeros to the next power of two from here on: few stacks, and products of friendly sizes."""

TENSORS = 8
"""Tensors that the blocks of a stack lie in, about. More adapters are moved to larger ones one tensor after the other."""

MOST_UNITS = 16
"""Units that the B matrices of a group are cut into at most: each is a product of its own within the batch."""

MOST_VIEWS = 16384
"""Views of a stack that are kept."""


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


def _neighbours(layout: Layout) -> list[list[int]]:
    """Return the offsets of the pieces in the order of the row, cut into lists whose blocks share a tensor."""
    found: list[list[int]] = []
    numbers = layout.unit
    for offset, size in layout.pieces:
        if numbers * TENSORS >= layout.unit:
            found.append([])
            numbers = 0
        found[-1].append(offset)
        numbers += size
    return found


class Stack:
    """Adapters of one padded rank. Slots 0 to `used` hold adapters; there may be room for more.

    blocks: by the offset of a piece in the layout, (slots, numbers of the piece).
    """

    def __init__(self, layout: Layout, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rank = rank
        self.keys: list[Hashable] = []
        self.slots: dict[Hashable, int] = {}
        self.capacity = 0
        self._views: dict[tuple[int, int, int, int | None], Tensor] = {}
        self._neighbours = _neighbours(layout)
        self.blocks = {
            offset: torch.empty((0, size * rank), dtype=dtype, device=device) for offset, size in layout.pieces
        }

    @property
    def bytes(self) -> int:
        """Memory of all slots, used or not."""
        return sum(block.numel() * block.element_size() for block in self.blocks.values())

    def matrices(self, offset: int, first: int, count: int, columns: int, *, rows: int | None) -> Tensor:
        """Return a piece of `count` neighbouring adapters as a batch of matrices (..., rows, columns), or as one (rows None).

        Views are kept until the stack changes: making them costs as much as launching a kernel.
        """
        key = (offset, first, count, rows)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            some = self.blocks[offset].narrow(0, first, count)
            found = self._views[key] = some.view(-1, columns) if rows is None else some.view(-1, rows, columns)
        return found

    def add(self, key: Hashable, row: Tensor) -> None:
        """Put an adapter into the next slot."""
        if len(self.keys) == self.capacity:
            self._resize(max(1, 2 * self.capacity))
        self.slots[key] = slot = len(self.keys)
        for offset, block in self.blocks.items():
            block[slot].copy_(row[offset * self.rank :][: block.shape[1]], non_blocking=True)
        self.keys.append(key)

    def row(self, key: Hashable) -> Tensor:
        """Return a copy of an adapter as the row that was added."""
        return torch.cat([block[self.slots[key]] for block in self.blocks.values()])

    def remove(self, key: Hashable) -> None:
        """Free a slot: the last adapter moves into it, and the memory shrinks when half of it is unused."""
        self._swap(self.slots[key], len(self.keys) - 1)
        self.keys.pop()
        del self.slots[key]
        if 2 * len(self.keys) <= self.capacity:
            self._resize(len(self.keys))

    def bring_forward(self, keys: Iterable[Hashable]) -> int:
        """Let the given adapters have the first slots; returns how many they are. Those that come from behind keep their order."""
        wanted = dict.fromkeys(keys)
        misplaced = [self.slots[key] for key in wanted if self.slots[key] >= len(wanted)]
        free = (slot for slot in range(len(wanted)) if self.keys[slot] not in wanted)
        for source, target in zip(misplaced, free, strict=True):
            self._swap(source, target)
        return len(wanted)

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        for block in self.blocks.values():
            kept = block[one].clone()
            block[one] = block[other]
            block[other] = kept
        self.keys[one], self.keys[other] = self.keys[other], self.keys[one]
        self.slots[self.keys[one]], self.slots[self.keys[other]] = one, other

    def _resize(self, slots: int) -> None:
        """Move to blocks of another size, some after the others: at no time is everything in memory twice."""
        for offsets in self._neighbours:
            old = [self.blocks[offset] for offset in offsets]
            sizes = [slots * block.shape[1] for block in old]
            together = self._zeros(sum(sizes))
            for offset, block, part in zip(offsets, old, together.split(sizes), strict=True):
                moved = part.view(slots, block.shape[1])
                moved[: len(self.keys)] = block[: len(self.keys)]
                self.blocks[offset] = moved
        self.capacity = slots
        self._views.clear()

    def _zeros(self, numbers: int) -> Tensor:
        """Return memory for some blocks: zeros, since a GPU multiplies empty slots too."""
        like = next(iter(self.blocks.values()))
        return huge_zeros(numbers, like.dtype) if like.device.type == "cpu" else like.new_zeros(numbers)


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
        """Put an adapter into a slot. Raises BaseModelError when the key has one already."""
        if key in self._rank_of:
            raise BaseModelError(f"an adapter is loaded as {key!r} already")
        if adapter.rank not in self.stacks:
            self.stacks[adapter.rank] = Stack(self.layout, adapter.rank, self.dtype, self.device)
        stack = self.stacks[adapter.rank]
        capacity = stack.capacity
        stack.add(key, adapter.row)
        self.moves += stack.capacity != capacity
        self._rank_of[key] = adapter.rank

    def unload(self, key: Hashable) -> None:
        """Free an adapter's slot."""
        rank = self._rank_of.pop(key)
        stack = self.stacks[rank]
        capacity = stack.capacity
        stack.remove(key)
        self.moves += stack.capacity != capacity
        if not stack.keys:
            del self.stacks[rank]

    def packed(self, key: Hashable) -> PackedAdapter:
        """Return a copy of an adapter's row, from which it can be loaded again."""
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
