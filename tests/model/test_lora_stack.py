"""Wherever memory runs out while adapters come, go and move, each one keeps its numbers, and nothing is held twice."""

from __future__ import annotations

import random
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.model.lora_bank import Layout, LoraBank, PackedAdapter, padded_rank
from burnish.model.lora_stack import Stack
from burnish.model.memory import OutOfMemory

LAYOUT = Layout.of(
    [[f"{layer}.{leaf}"] for layer in range(6) for leaf in ("a", "b")],
    {f"{layer}.{leaf}": (3, 2) for layer in range(6) for leaf in ("a", "b")},
)
PIECES, UNIT = LAYOUT.pieces, LAYOUT.unit


class Limited:
    """Memory of so many numbers, in place of the system's: what is asked beyond it is not given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, numbers: float = float("inf")) -> None:
        self.numbers, self.taken, self.most = numbers, 0, 0
        monkeypatch.setattr("burnish.model.lora_stack.huge_zeros", self.zeros)

    def zeros(self, numbers: int, dtype: torch.dtype) -> Tensor:
        if self.taken + numbers > self.numbers:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")
        place = np.zeros(numbers, dtype=np.float32)
        assert dtype is torch.float32
        self.taken += numbers
        self.most = max(self.most, self.taken)
        weakref.finalize(place, self._give_back, numbers)
        return torch.from_numpy(place)

    def _give_back(self, numbers: int) -> None:
        self.taken -= numbers


def row(key: int, rank: int = 8) -> Tensor:
    return torch.arange(UNIT * rank, dtype=torch.float32) + 1000 * key


def stack_of(*keys: int) -> Stack:
    stack = Stack(PIECES, 8, torch.float32, torch.device("cpu"))
    for key in keys:
        stack.add(key, row(key))
    return stack


def assert_whole(stack: Stack, *keys: int) -> None:
    """Each adapter has its numbers, in copies and in the views that products read."""
    assert sorted(stack.slots) == sorted(keys) == sorted(stack.keys)  # pyright: ignore[reportArgumentType]
    for key in keys:
        assert torch.equal(stack.row(key), row(key, stack.rank))
        seen = [stack.matrices(offset, stack.slots[key], 1, size, rows=stack.rank).flatten() for offset, size in PIECES]
        assert torch.equal(torch.cat(seen), row(key, stack.rank))
    assert stack.capacity == min(len(block) for block in stack.blocks.values()) >= len(keys)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.55, 0.8, 0.95])
def test_a_stack_that_cannot_grow_is_as_it_was(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """share: of the memory that one more adapter takes, which is there."""
    memory = Limited(monkeypatch)
    stack = stack_of(1, 2, 3, 4)
    assert_whole(stack, 1, 2, 3, 4)
    one, taken = UNIT * 8, memory.taken
    assert taken == 4 * one
    memory.numbers = taken + share * one
    with pytest.raises(OutOfMemory, match="another adapter of rank 8 beside 4"):
        stack.add(5, row(5))
    assert_whole(stack, 1, 2, 3, 4)
    assert (stack.capacity, stack.bytes, memory.taken) == (4, 4 * taken, taken)
    memory.numbers = float("inf")
    stack.add(5, row(5))
    assert_whole(stack, 1, 2, 3, 4, 5)
    assert (stack.capacity, memory.taken) == (8, 8 * one)


def test_a_stack_that_cannot_double_grows_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Limited(monkeypatch)
    stack = stack_of(1, 2, 3, 4)
    memory.numbers = memory.taken + 2.5 * UNIT * 8
    stack.add(5, row(5))
    assert stack.capacity == 5
    assert_whole(stack, 1, 2, 3, 4, 5)


def test_growing_never_holds_everything_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Limited(monkeypatch)
    stack = stack_of(1, 2, 3, 4)
    assert_whole(stack, 1, 2, 3, 4)  # views of all blocks are there now
    stack.add(5, row(5))
    assert memory.taken == 8 * UNIT * 8
    assert memory.most <= (8 + 4 * 2 / 6) * UNIT * 8, "two tensors of six of the old size"


def test_a_stack_that_cannot_shrink_keeps_what_is_there_and_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Limited(monkeypatch)
    stack = stack_of(1, 2, 3, 4)
    memory.numbers = memory.taken
    stack.remove(1)
    stack.remove(2)
    assert_whole(stack, 3, 4)
    assert stack.capacity == 4
    memory.numbers += UNIT * 8
    stack.remove(3)
    assert_whole(stack, 4)
    assert (stack.capacity, memory.taken) == (1, UNIT * 8)


def test_adapters_that_cannot_change_places_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(1, 2, 3)

    def none(what: str, make: object) -> Tensor:
        raise OutOfMemory(f"there is no memory for {what}")

    monkeypatch.setattr("burnish.model.lora_stack.allocated", none)
    with pytest.raises(OutOfMemory):
        stack.bring_forward([3])
    monkeypatch.undo()
    assert_whole(stack, 1, 2, 3)
    assert stack.keys == [1, 2, 3]


def test_an_adapter_in_the_slot_of_another_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Limited(monkeypatch)
    bank = LoraBank(LAYOUT, torch.float32, torch.device("cpu"))
    for key in (1, 2):
        bank.load(key, PackedAdapter(8, row(key)))
    memory.numbers, moves = 0, bank.moves
    bank.exchange(1, 3, PackedAdapter(8, row(3)))
    assert bank.moves == moves
    assert set(bank) == {2, 3}
    assert_whole(bank.stacks[8], 2, 3)


def test_a_bank_that_has_no_memory_for_a_new_rank_has_no_stack_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Limited(monkeypatch, 0)
    bank = LoraBank(LAYOUT, torch.float32, torch.device("cpu"))
    with pytest.raises(OutOfMemory):
        bank.load(1, PackedAdapter(8, row(1)))
    assert (len(bank), bank.bytes, bank.stacks, memory.taken) == (0, 0, {}, 0)


def addresses(bank: LoraBank) -> dict[tuple[int, int], int]:
    return {(rank, at): block.data_ptr() for rank, stack in bank.stacks.items() for at, block in stack.blocks.items()}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 14))
def test_whatever_fails_every_adapter_keeps_its_numbers_and_no_old_block_stays(seed: int, adapters: int) -> None:
    draw = random.Random(seed)
    one = UNIT * 8
    with pytest.MonkeyPatch.context() as monkeypatch:
        memory = Limited(monkeypatch)
        bank = LoraBank(LAYOUT, torch.float32, torch.device("cpu"))
        ranks: dict[int, int] = {}
        for key in range(40):
            memory.numbers = memory.taken + draw.uniform(0, adapters) * one
            action = draw.choice(("load", "load", "unload", "forward", "exchange"))
            rank = padded_rank(draw.choice((8, 16)))
            if action == "load":
                moves, where = bank.moves, addresses(bank)
                try:
                    bank.load(key, PackedAdapter(rank, row(key, rank)))
                    ranks[key] = rank
                except OutOfMemory:
                    assert key not in bank
                kept = where.items() <= addresses(bank).items()
                assert bank.moves > moves or kept, "graphs would read memory that is gone"
            elif action == "unload" and ranks:
                gone = draw.choice(sorted(ranks))
                bank.unload(gone)
                del ranks[gone]
            elif action == "exchange" and rank in ranks.values():
                gone = draw.choice(sorted(each for each in ranks if ranks[each] == rank))
                bank.exchange(gone, key, PackedAdapter(rank, row(key, rank)))
                del ranks[gone]
                ranks[key] = rank
            elif action == "forward" and ranks:
                bank.bring_forward(draw.sample(sorted(ranks), draw.randint(1, len(ranks))))
            assert set(bank) == set(ranks)
            for held in set(ranks.values()):
                assert_whole(bank.stacks[held], *(each for each in ranks if ranks[each] == held))
            assert bank.bytes == 4 * memory.taken, "what is held is what the blocks are"
        for key in ranks:
            bank.unload(key)
        assert memory.taken == 0
