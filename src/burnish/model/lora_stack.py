"""Adapters of one padded rank in memory: a block for each piece of them, with the pieces of all adapters one under the other.

So the A (or B) matrices of neighbouring adapters are one batch of matrices, and one tall matrix, without a copy or a table of
pointers. Blocks of neighbouring layers lie in one tensor, large enough for huge pages even where few adapters are loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from burnish.model.memory import OutOfMemory, allocated, huge_zeros

TENSORS = 8
"""Tensors that the blocks of a stack lie in, about. More adapters are moved to larger ones one tensor after the other."""

MOST_VIEWS = 16384
"""Views of a stack that are kept."""


def _neighbours(pieces: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the offsets of the pieces in the order of the row, cut into lists whose blocks share a tensor."""
    found: list[list[int]] = []
    numbers = unit = sum(size for _, size in pieces)
    for offset, size in pieces:
        if numbers * TENSORS >= unit:
            found.append([])
            numbers = 0
        found[-1].append(offset)
        numbers += size
    return found


class Stack:
    """Adapters of one padded rank. Slots 0 to `used` hold adapters; there may be room for more.

    blocks: by the offset of a piece in the layout, (slots, numbers of the piece). capacity: slots of the smallest block; others
    have more only where memory ran out while they moved. moves: how often blocks went to another place.
    """

    def __init__(self, pieces: Sequence[tuple[int, int]], rank: int, dtype: torch.dtype, device: torch.device) -> None:
        """pieces: offset and size of each, for each unit of rank, in the order of an adapter's row."""
        self.rank = rank
        self.keys: list[Hashable] = []
        self.slots: dict[Hashable, int] = {}
        self.capacity = 0
        self.moves = 0
        self._views: dict[tuple[int, int, int, int | None], Tensor] = {}
        self._neighbours = _neighbours(pieces)
        self.blocks = {offset: torch.empty((0, size * rank), dtype=dtype, device=device) for offset, size in pieces}

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
        """Put an adapter into the next slot. Raises OutOfMemory; then every adapter is where it was, and `key` is not there."""
        if len(self.keys) == self.capacity:
            self._grow()
        self._put(key, len(self.keys), row)
        self.keys.append(key)

    def exchange(self, old: Hashable, key: Hashable, row: Tensor) -> None:
        """Put an adapter into the slot of another one: nothing else moves, and no memory is needed."""
        slot = self.slots.pop(old)
        self._put(key, slot, row)
        self.keys[slot] = key

    def _put(self, key: Hashable, slot: int, row: Tensor) -> None:
        for offset, block in self.blocks.items():
            block[slot].copy_(row[offset * self.rank :][: block.shape[1]], non_blocking=True)
        self.slots[key] = slot

    def row(self, key: Hashable) -> Tensor:
        """Return a copy on the CPU of an adapter as the row that was added. Raises OutOfMemory."""
        slot = self.slots[key]
        return allocated(
            "a copy of an adapter", lambda: torch.cat([block[slot].cpu() for block in self.blocks.values()])
        )

    def remove(self, key: Hashable) -> None:
        """Free a slot: the last adapter moves into it, and the memory shrinks when half of it is unused.

        Shrinking needs memory for a part of what is kept. Where there is none, blocks stay as large as they are.
        """
        slot, last = self.slots.pop(key), self.keys.pop()
        if slot < len(self.keys):
            for block in self.blocks.values():
                block[slot].copy_(block[len(self.keys)])
            self.keys[slot], self.slots[last] = last, slot
        if 2 * len(self.keys) <= max(map(len, self.blocks.values())):
            with suppress(OutOfMemory):
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
        """Exchange two slots. The memory for it is taken first: an adapter of which one half has moved would answer wrong."""
        if one == other:
            return
        blocks = self.blocks.values()
        largest = max(blocks, key=lambda block: block.shape[1])
        kept = allocated("an adapter that moves", lambda: largest.new_empty(largest.shape[1]))
        for block in blocks:
            part = kept[: block.shape[1]].copy_(block[one])
            block[one].copy_(block[other])
            block[other].copy_(part)
        self.keys[one], self.keys[other] = self.keys[other], self.keys[one]
        self.slots[self.keys[one]], self.slots[self.keys[other]] = one, other

    def _grow(self) -> None:
        """Make room for another adapter: twice the slots or, where there is no memory for that, one more. Raises OutOfMemory."""
        for slots in dict.fromkeys((max(1, 2 * self.capacity), self.capacity + 1)):
            with suppress(OutOfMemory):
                self._resize(slots)
                return
        raise OutOfMemory(f"there is no memory for another adapter of rank {self.rank} beside {len(self.keys)}")

    def _resize(self, slots: int) -> None:
        """Move to blocks of another size, one tensor after the other: at no time is everything in memory twice.

        Views are dropped first, so that an old block ends when its tensor has moved; the last one waits until the next has moved,
        too. Raises OutOfMemory. What has grown by then goes back: the last tensor to its old blocks, which lets go of twice the
        memory that the one before it needs. What has shrunk stays: every adapter is whole in the first `capacity` slots.
        """
        before = self.capacity
        last: dict[int, Tensor] = {}
        self._views.clear()
        self.moves += 1
        try:
            for offsets in self._neighbours:
                last = self._move(offsets, slots)
        except OutOfMemory:
            if slots > before:
                self.blocks |= last
                with suppress(OutOfMemory):  # taken by others meanwhile: a block stays larger than it need be
                    for offsets in reversed(self._neighbours):
                        self._move(offsets, before)
            raise
        finally:
            self.capacity = min(map(len, self.blocks.values()))

    def _move(self, offsets: Sequence[int], slots: int) -> dict[int, Tensor]:
        """Move the blocks of one tensor to one of another size; return the old ones. Raises OutOfMemory before a change."""
        old = {offset: self.blocks[offset] for offset in offsets}
        if len(old[offsets[0]]) == slots:
            return old
        sizes = [slots * block.shape[1] for block in old.values()]
        together = self._zeros(sum(sizes))
        for (offset, block), part in zip(old.items(), together.split(sizes), strict=True):
            moved = part.view(slots, block.shape[1])
            moved[: len(self.keys)] = block[: len(self.keys)]
            self.blocks[offset] = moved
        return old

    def _zeros(self, numbers: int) -> Tensor:
        """Return memory for some blocks: zeros, since a GPU multiplies empty slots too. Raises OutOfMemory."""
        like = next(iter(self.blocks.values()))
        if like.device.type == "cpu":
            return allocated("adapters", lambda: huge_zeros(numbers, like.dtype))
        return allocated("adapters", lambda: like.new_zeros(numbers))
