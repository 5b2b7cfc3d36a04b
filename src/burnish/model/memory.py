"""How much memory is held, and what is given back."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from burnish.core.errors import ResourceError

T = TypeVar("T")

HUGE_PAGE = 2**21
"""Bytes of a huge page of x86 and of ARM with small pages of 4 KiB."""


def trim_heap() -> None:
    """Give what the C heap holds but nothing uses back to the system; some 60 ms for a heap of 2 GB.

    glibc keeps freed blocks between those in use, and activations of many sizes leave more such holes with every step. A
    stage that follows another in the same process would add its own memory to them. Nothing to do without malloc_trim(3).
    """
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim():
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def huge_zeros(numbers: int, dtype: torch.dtype) -> Tensor:
    """Return zeros (numbers,) on the CPU, in huge pages but for the rest of the last one where Linux has some to give.

    What each step reads from end to end comes faster so. torch's own huge pages (THP_MEM_ALLOC_ENABLE) begin anywhere within one
    and take memory that small pages hold already: they held 56 of 149 MiB. The mapping ends with the tensor.
    Where no mapping is to be had torch looks for memory of its own, and raises RuntimeError when that is not there either.
    """
    size = numbers * dtype.itemsize
    if size < HUGE_PAGE or sys.platform != "linux":
        return torch.zeros(numbers, dtype=dtype)
    try:
        mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:  # a limit of the process; torch asks for less, which may lie in a hole of the heap
        return torch.zeros(numbers, dtype=dtype)
    start = -torch.frombuffer(mapping, dtype=torch.uint8).data_ptr() % HUGE_PAGE
    with suppress(OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE_PAGE * HUGE_PAGE)
    return torch.frombuffer(mapping, dtype=dtype, count=numbers, offset=start)


class MemoryPeak:
    """The most memory seen so far, of several GPUs that of the fullest. Looked at after a forward pass, with activations held."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.process = psutil.Process()
        self.rss_bytes = 0
        self.device_bytes = 0

    def look(self) -> int:
        """Take the resident memory of the process and the most that the device has held; return the one that can run short."""
        resident = self.process.memory_info().rss
        self.rss_bytes = max(self.rss_bytes, resident)
        if self.device.type != "cuda":
            return resident
        self.device_bytes = max(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
        return self.device_bytes

    def again(self) -> None:
        """Give back what nothing uses, and begin anew."""
        trim_heap()
        self.rss_bytes = self.device_bytes = 0
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)


class OutOfMemory(ResourceError):
    """There is no memory for something that could be done without."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out: on a GPU by its class, on a CPU by torch's allocator's words."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def allocated(what: str, make: Callable[[], T]) -> T:
    """Return what `make` gives. Raises OutOfMemory that names it (`what`) where memory runs out."""
    try:
        return make()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        says = " ".join(str(error).split())[:160]
    # Only here have the frames of the failed call, and the tensors that they held, been let go of.
    raise OutOfMemory(f"there is no memory for {what} ({says or 'MemoryError'})")
