"""Bytes of an optimizer's states and of gradients, tensor by tensor.

States depend on shapes and not on numbers alone: Adafactor keeps a row and a column of a matrix, bitsandbytes leaves small
tensors in 32 bits and pages large ones, Muon takes matrices of layers only. Held against the optimizers themselves in
tests/plan/test_optimizers.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from burnish.plan.adapters import adapted
from burnish.plan.architecture import Architecture, Block

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon", "adafactor", "sgd"]
"""torch's AdamW, Muon (for matrices of layers; AdamW for the rest), Adafactor and SGD without momentum, bitsandbytes' others."""
SINGLE = 4
STATE_BLOCK = 256
"""8-bit states that share one float32 scale (Dettmers et al. 2022, arXiv:2110.02861, section 2.1)."""
SMALLEST_8BIT = 4096
"""Tensors of fewer numbers keep 32-bit states (bitsandbytes, `min_8bit_size`)."""
SMALLEST_PAGED = 100_000
"""Tensors of fewer numbers keep their states on the device (bitsandbytes, `get_state_buffer`)."""
CODE_BYTES = 2 * 256 * SINGLE
"""The signed and the unsigned code of 8-bit states, which all tensors share."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """`count` trained tensors of one shape.

    "matrix": of a layer's linear, which Muon takes. "embedding": a table that tokens or positions are looked up in, which keeps
    32-bit states beside 8-bit ones (bitsandbytes' StableEmbedding, transformers' Trainer).
    """

    count: int
    shape: tuple[int, ...]
    role: Literal["matrix", "embedding", "other"] = "other"

    @property
    def numbers(self) -> int:
        """Numbers of one of them."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of states on the device, and of those that are paged: in the host's memory, brought in while they are used."""

    device: int
    host: int = 0


def lora_tensors(architecture: Architecture, targets: Sequence[str], rank: int) -> tuple[Tensors, ...]:
    """Return A (rank, inputs) and B (outputs, rank) of every target."""
    return tuple(
        Tensors(block.count, shape, "matrix")
        for block in architecture.blocks
        for linear in adapted(block.linears, targets)
        for shape in ((rank, linear.inputs), (linear.outputs, rank))
    )


def bias_tensors(
    architecture: Architecture, targets: Sequence[str], which: Literal["all", "lora_only"]
) -> tuple[Tensors, ...]:
    """Return the biases that train beside adapters: of the targets, or of all linears and norms but the output head."""
    found: list[Tensors] = []
    for block in architecture.blocks:
        chosen = block.linears if which == "all" else adapted(block.linears, targets)
        found += [Tensors(block.count, (linear.outputs,)) for linear in chosen if linear.bias]
    if which == "all" and not architecture.rms_norms:
        found.append(Tensors(architecture.layers * architecture.hidden_norms + 1, (architecture.hidden,)))
    return tuple(found)


def length_tensors(architecture: Architecture, targets: Sequence[str]) -> tuple[Tensors, ...]:
    """Return the lengths that DoRA trains, one for each output of a target."""
    return tuple(
        Tensors(block.count, (linear.outputs,))
        for block in architecture.blocks
        for linear in adapted(block.linears, targets)
    )


def all_tensors(architecture: Architecture) -> tuple[Tensors, ...]:
    """Return every parameter of the model. A tied head is the embedding and counts once."""
    return outside_tensors(architecture) + layer_tensors(architecture)


def outside_tensors(architecture: Architecture) -> tuple[Tensors, ...]:
    """Return the parameters that are not in a layer: embedding, head, last norm."""
    hidden, outside = architecture.hidden, architecture.outside
    table = (architecture.vocabulary, hidden)
    found = [Tensors(1, table, "embedding"), Tensors(0 if architecture.tied_head else 1, table)]
    norms = min(_norm_numbers(architecture), outside)
    rest = outside - norms
    found.append(Tensors(norms // hidden, (hidden,)))
    if rest >= hidden and rest % hidden == 0:
        found.append(Tensors(1, (rest // hidden, hidden), "embedding"))  # learned positions
    else:
        found.append(Tensors(1, (rest,)))  # the head's bias
    return tuple(each for each in found if each.count and each.numbers)


def layer_tensors(architecture: Architecture) -> tuple[Tensors, ...]:
    """Return the parameters of all layers."""
    found = [each for block in architecture.blocks for each in _layer_tensors(architecture, block)]
    return tuple(each for each in found if each.count and each.numbers)


def _norm_numbers(architecture: Architecture) -> int:
    return architecture.hidden * (1 if architecture.rms_norms else 2)


def _layer_tensors(architecture: Architecture, block: Block) -> list[Tensors]:
    hidden, count = architecture.hidden, block.count
    found = [Tensors(count, (linear.outputs, linear.inputs), "matrix") for linear in block.linears]
    found += [Tensors(count, (linear.outputs,)) for linear in block.linears if linear.bias]
    rest, norms = block.other, architecture.hidden_norms * _norm_numbers(architecture)
    if norms <= rest:
        found.append(Tensors(count * (norms // hidden), (hidden,)))
        rest -= norms
    if block.experts is not None:
        experts = block.experts
        found += [Tensors(count, (experts.count, each.outputs, each.inputs)) for each in experts.linears]
        found += [Tensors(count, (experts.count, each.outputs)) for each in experts.linears if each.bias]
        if rest >= experts.count * hidden:
            found.append(Tensors(count, (experts.count, hidden)))  # the router
            rest -= experts.count * hidden
    return [*found, Tensors(count, (rest,))]


def state_bytes(optimizer: Optimizer, tensors: Sequence[Tensors], item: int, *, pages: bool = True) -> StateBytes:
    """Return the bytes of the states between two steps.

    item: bytes of a trained number and of its gradient, in which torch's AdamW, Muon and Adafactor keep their states;
    those of bitsandbytes are 8 or 32 bits whatever it is. pages: a CPU has no host beside it, so there nothing is paged. A
    counter of steps for each tensor is left out.
    """
    device, host, coded = 0, 0, False
    for each in tensors:
        own, paged = _states(optimizer, each, item)
        device, host = device + each.count * own, host + each.count * paged
        coded |= optimizer in ("adamw_8bit", "paged_adamw_8bit") and not _is_32bit(each)
    found = StateBytes(device + (CODE_BYTES if coded else 0), host)
    return found if pages else StateBytes(found.device + found.host)


def _is_32bit(each: Tensors) -> bool:
    return each.numbers < SMALLEST_8BIT or each.role == "embedding"


def _states(optimizer: Optimizer, each: Tensors, item: int) -> tuple[int, int]:
    """Return the bytes of one tensor's states on the device and in the host's memory."""
    numbers, paged = each.numbers, each.numbers >= SMALLEST_PAGED
    match optimizer:
        case "sgd":
            return 0, 0
        case "adamw":
            return 2 * item * numbers, 0
        case "muon":
            return (1 if each.role == "matrix" else 2) * item * numbers, 0
        case "adafactor":
            if len(each.shape) < 2:
                return item * numbers, 0
            *outer, rows, columns = each.shape
            return item * math.prod(outer) * (rows + columns), 0
        case "paged_adamw":
            states, scales = 2 * SINGLE * numbers, 0
        case "adamw_8bit" | "paged_adamw_8bit":
            small = _is_32bit(each)
            states = 2 * numbers * (SINGLE if small else 1)
            scales = 0 if small else 2 * SINGLE * math.ceil(numbers / STATE_BLOCK)
            paged = paged and optimizer == "paged_adamw_8bit"
    return (scales, states) if paged else (states + scales, 0)


def gradient_bytes(tensors: Sequence[Tensors], item: int, *, layers: int, in_backward: bool = False) -> int:
    """Return the bytes of gradients at their most.

    in_backward: each tensor is stepped and its gradient freed as soon as it is there (LOMO, arXiv:2306.09782, section 3.1), so
    at most one layer's exist, whose backward gives them together, or that of one tensor outside. layers: of the model.
    """
    if not in_backward:
        return item * sum(each.count * each.numbers for each in tensors)
    inside = sum(each.count * each.numbers for each in tensors if each.role == "matrix")
    outside = max((each.numbers for each in tensors if each.role != "matrix"), default=0)
    return item * max(math.ceil(inside / max(1, layers)), outside)
