"""What the process holds, and what it gives back."""

from __future__ import annotations

import sys

import psutil
import pytest
import torch

from burnish.model.memory import trim_heap

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
