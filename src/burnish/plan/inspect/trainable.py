"""How many numbers each method trains, by rank and by set of targets.

In each layer:

- LoRA: r (in + out) for each target (Hu et al. 2021, arXiv:2106.09685, 4.1).
- DoRA: LoRA's, and a magnitude of `out` numbers for each target (Liu et al. 2024, arXiv:2402.09353, 4.1).
- Houlsby adapters: 2 (2 h m + h + m), a bottleneck of width m with biases after attention and after the feed-forward layer
  (Houlsby et al. 2019, arXiv:1902.00751, 2.1).
- prefix: 2 t k, a key and a value of each of t virtual tokens, k numbers of all key heads (Li and Liang 2021, arXiv:2101.00190).
- (IA)3: a factor for each key, value and feed-forward number (Liu et al. 2022, arXiv:2205.05638, 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.plan.adapters import adapted, lora_parameters
from burnish.plan.architecture import Architecture

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TARGET_SETS: Mapping[str, tuple[str, ...]] = {
    "q, v": ("q_proj", "v_proj"),
    "q, k, v, o": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gate, up, down": ("gate_proj", "up_proj", "down_proj"),
}
"""Sets that papers and tools use, beside all linears. One is left out where a model has no layers of these names."""
MEANING = {
    "lora": "size is the rank; all linears",
    "dora": "size is the rank; all linears",
    "houlsby": "size is the width of the bottleneck",
    "prefix": "size is the number of virtual tokens",
    "ia3": "has no size",
}


def all_linear(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of all linears of a layer."""
    return tuple(dict.fromkeys(linear.name for linear in architecture.linears))


def target_sets(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Return the sets of targets that this model has, `all linear` last."""
    everything = all_linear(architecture)
    known = {name: names for name, names in TARGET_SETS.items() if set(names) <= set(everything)}
    return {**known, "all linear": everything}


def dora_parameters(architecture: Architecture, targets: tuple[str, ...], rank: int) -> int:
    """Numbers that DoRA trains."""
    magnitudes = sum(
        block.count * sum(linear.outputs for linear in adapted(block.linears, targets)) for block in architecture.blocks
    )
    return lora_parameters(architecture, targets, rank) + magnitudes


def houlsby_parameters(architecture: Architecture, bottleneck: int) -> int:
    """Numbers of two bottleneck adapters in each layer; the layer norms, which the paper trains too, are not counted."""
    hidden = architecture.hidden
    return architecture.layers * 2 * (2 * hidden * bottleneck + hidden + bottleneck)


def prefix_parameters(architecture: Architecture, tokens: int) -> int:
    """Numbers of a prefix without the network that some train it through."""
    return architecture.layers * 2 * tokens * architecture.key_value_size


def ia3_parameters(architecture: Architecture) -> int:
    """Numbers of (IA)3: factors of keys, values and what the down projection reads; of experts none."""
    widths = sum(
        block.count * sum(linear.inputs for linear in block.linears if linear.reads == "mlp product")
        for block in architecture.blocks
    )
    return architecture.layers * 2 * architecture.key_value_size + widths


def rank_table(architecture: Architecture) -> list[dict[str, Any]]:
    """Return for each rank the numbers LoRA trains by set of targets, with their share of the model."""
    sets = target_sets(architecture)
    return [
        {
            "rank": rank,
            "parameters": {name: lora_parameters(architecture, names, rank) for name, names in sets.items()},
            "share": {
                name: lora_parameters(architecture, names, rank) / architecture.parameters
                for name, names in sets.items()
            },
        }
        for rank in RANKS
    ]


def method_table(architecture: Architecture) -> list[dict[str, Any]]:
    """Return for each size what every method trains; LoRA and DoRA on all linears."""
    everything = all_linear(architecture)
    return [
        {
            "size": size,
            "lora": lora_parameters(architecture, everything, size),
            "dora": dora_parameters(architecture, everything, size),
            "houlsby": houlsby_parameters(architecture, size),
            "prefix": prefix_parameters(architecture, size),
            "ia3": ia3_parameters(architecture),
        }
        for size in RANKS
    ]
