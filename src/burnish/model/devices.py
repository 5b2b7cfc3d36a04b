"""What is installed beside torch for a device."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def has_triton() -> bool:
    """Return whether Triton is installed, as it is with torch for CUDA on Linux."""
    return find_spec("triton") is not None
