"""The precision ladder: bytes of a base in fp32, bf16, int8, NF4 and NF4 with double quantisation.

`footprint` is what transformers' get_memory_footprint counts (parameters and buffers); `constants` is what stands beside the
quantised weights and is not counted there: a float32 scale for each row with int8, the blocks' scales and tables with NF4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from burnish.plan.architecture import Architecture
from burnish.plan.memory import NF4_TABLE_BYTES, quantisation_constant_bytes, weight_bytes

SEEDS_LADDER = {"fp32": 32.3, "int8": 9.0, "nf4+dq": 5.6}
"""GB that a published course reads for Llama 3.1 8B. Its exact byte counts do not follow from the model's shape."""
SEEDS_MODEL = 8_030_261_248
"""Parameters of Llama 3.1 8B, beside which these numbers are shown."""


class Rung(NamedTuple):
    """One precision: bytes predicted and why, and bytes measured by loading, where weights are there."""

    name: str
    footprint: int
    constants: int
    because: str
    measured_footprint: int | None = None
    measured_constants: int | None = None


Measured = tuple[int, int]
"""Bytes of footprint and of constants, by loading."""


def int8_weight_bytes(architecture: Architecture) -> int:
    """Bytes with the linears as bitsandbytes' int8, the rest bfloat16 (Dettmers et al. 2022, LLM.int8())."""
    rest = architecture.parameters - architecture.linear_weights + architecture.scalar_buffers
    return architecture.linear_weights + 2 * rest + architecture.buffer_bytes


def int8_constant_bytes(architecture: Architecture) -> int:
    """Bytes of int8's scales: a float32 for each row of each linear."""
    return 4 * sum(block.count * sum(linear.outputs for linear in block.linears) for block in architecture.blocks)


def nf4_constant_bytes(architecture: Architecture) -> int:
    """Bytes beside NF4 without double quantisation: a float32 scale for 64 weights, and the 16 values in each layer."""
    tables = NF4_TABLE_BYTES * sum(block.count * len(block.linears) for block in architecture.blocks)
    return quantisation_constant_bytes(architecture, double_quantisation=False) + tables


BECAUSE: Mapping[str, str] = {
    "fp32": "4 bytes a number, and the rotary buffers",
    "bf16": "2 bytes a number; the rotary buffers stay float32",
    "int8": "1 byte a weight of the layers' linears, 2 for the rest; beside them a float32 scale a row",
    "nf4": "half a byte a weight of the layers' linears, 2 for the rest; beside them a float32 scale for 64 weights and "
    "a table of 64 bytes a linear",
    "nf4+dq": "as nf4, with the scales as 8 bits, a float32 for 256 of them, and tables of 1,092 bytes a linear",
}
_PREDICT: Mapping[str, Callable[[Architecture], Measured]] = {
    "fp32": lambda a: (weight_bytes(a, "none", "float32"), 0),
    "bf16": lambda a: (weight_bytes(a, "none", "bfloat16"), 0),
    "int8": lambda a: (int8_weight_bytes(a), int8_constant_bytes(a)),
    "nf4": lambda a: (weight_bytes(a, "nf4", "bfloat16"), nf4_constant_bytes(a)),
    "nf4+dq": lambda a: (weight_bytes(a, "nf4", "bfloat16"), quantisation_constant_bytes(a, double_quantisation=True)),
}
RUNGS = tuple(_PREDICT)


def ladder(architecture: Architecture, measured: Mapping[str, Measured] | None = None) -> list[Rung]:
    """Return the rungs, with what was measured beside what arithmetic says."""
    rungs: list[Rung] = []
    for name, predict in _PREDICT.items():
        footprint, constants = predict(architecture)
        found = (measured or {}).get(name, (None, None))
        rungs.append(Rung(name, footprint, constants, BECAUSE[name], *found))
    return rungs
