"""What the process holds, and what it gives back."""

from __future__ import annotations

import gc
import mmap
import sys
import weakref
from pathlib import Path

import psutil
import pytest
import torch

from burnish.model.memory import HUGE_PAGE, OutOfMemory, allocated, huge_zeros, is_out_of_memory, trim_heap

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has malloc_trim")
def test_freed_blocks_between_used_ones_go_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [torch.ones(16 * 1024) for _ in range(4000)]  # 64 KiB each: from the heap, not mapped one by one
    kept = blocks[::20]
    del blocks
    held = process.memory_info().rss
    trim_heap()
    assert held - process.memory_info().rss > 150 * MIB
    assert all(block[0] == 1 for block in kept)


def huge_bytes() -> int:
    """Bytes of this process in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def gives_huge_pages() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


@pytest.mark.skipif(not gives_huge_pages(), reason="this system gives no huge pages")
def test_large_zeros_lie_in_huge_pages_and_go_back_to_the_system() -> None:
    huge = huge_bytes()
    zeros = huge_zeros(10 * HUGE_PAGE + 5, torch.float16)
    assert zeros.shape == (10 * HUGE_PAGE + 5,)
    assert zeros.dtype == torch.float16
    assert not zeros.any()
    zeros.fill_(2)
    assert huge_bytes() - huge >= 15 * HUGE_PAGE, "of 20 whole ones"
    part = zeros[-5:]
    del zeros
    assert part.sum() == 10, "memory stays while a view of it does"
    del part
    assert huge_bytes() - huge < 2 * HUGE_PAGE


def test_small_zeros_take_no_huge_page() -> None:
    before = huge_zeros(7, torch.float32)
    assert torch.equal(before, torch.zeros(7))


def test_zeros_are_torchs_own_where_no_mapping_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    zeros = huge_zeros(HUGE_PAGE, torch.float32)
    assert torch.equal(zeros, torch.zeros(HUGE_PAGE))


def test_what_cannot_be_allocated_is_told_and_lets_go_of_what_the_call_had() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def make() -> torch.Tensor:
        some = torch.zeros(1000)
        held.append(weakref.ref(some))
        return torch.cat([some, torch.empty(1 << 60, dtype=torch.uint8)])

    with pytest.raises(OutOfMemory, match=r"no memory for a test \(.*can't allocate memory") as caught:
        allocated("a test", make)
    gc.collect()
    assert held[0]() is None, "an error that somebody keeps would keep it"
    assert is_out_of_memory(MemoryError())
    assert caught.value.__context__ is None
    with pytest.raises(RuntimeError, match="shape"):
        allocated("a test", lambda: torch.zeros(2).view(3))
