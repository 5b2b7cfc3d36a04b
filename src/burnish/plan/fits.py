"""Whether a peak of memory fits what is free, and what to do where it does not."""

from __future__ import annotations

from burnish.core.artifacts import Memory
from burnish.core.units import format_bytes


def fits(memory: Memory) -> bool | None:
    """Return whether the peak is within what is free; None where that is not known."""
    return None if memory.available_bytes is None else memory.peak_bytes <= memory.available_bytes


def tell_fits(memory: Memory, kind: str) -> str:
    """Say by how much the peak fits or not; what would lower it, by the kind of method."""
    if memory.available_bytes is None:
        return "how much memory is free could not be found out"
    left = memory.available_bytes - memory.peak_bytes
    free = f"{format_bytes(memory.available_bytes)} are free"
    if left >= 0:
        return f"{free}, {format_bytes(left)} more than the peak"
    less = {"full": "lora or qlora", "lora": "qlora"}.get(kind, "a smaller method.rank")
    return f"{free}, {format_bytes(-left)} less than the peak: use {less}, a smaller base or a smaller train.row_tokens"
