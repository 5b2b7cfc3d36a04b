"""What is installed beside torch for a device, and numbers on their way to and from one without the host waiting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Return whether Triton is installed, as it is with torch for CUDA on Linux."""
    return find_spec("triton") is not None


def to_device(numbers: Sequence[int], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return whole numbers as a tensor on a device.

    A GPU takes them from pinned memory once it is done with what it was asked for before; torch's own way waits for all of that.
    """
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def to_host(values: Tensor) -> Tensor:
    """Return a tensor in the host's memory: of a GPU's the copy is asked for, and there when the GPU has come to it."""
    if values.device.type != "cuda":
        return values
    held = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return held.copy_(values.detach(), non_blocking=True)
