"""The modules of a decoder with their shapes, and where adapters go."""

from __future__ import annotations

from typing import Any

from burnish.plan.architecture import Architecture, Linear


def module_tree(architecture: Architecture, targets: tuple[str, ...], rank: int) -> list[dict[str, Any]]:
    """Return a row for each kind of module: name, shape, numbers, how often, and the shapes of an adapter on it.

    The linears of one layer stand for all layers; `count` says how many there are.
    """
    layers, hidden = architecture.layers, architecture.hidden
    rows = [_row("embed_tokens", [architecture.vocabulary, hidden], 1)]
    for part in ("self_attn", "mlp"):
        for linear in architecture.linears:
            if _part(linear) == part:
                rows.append(_linear_row(linear, part, layers, rank if linear.name in targets else None))
    rows.append(_row("layers.*.norm", [hidden], layers * architecture.hidden_norms))
    if architecture.head_norms:
        rows.append(_row("layers.*.self_attn.q_norm, k_norm", [architecture.head_size], 2 * layers))
    rows.append(_row("norm", [hidden], 1))
    head = _row("lm_head", [architecture.vocabulary, hidden], 1)
    if architecture.tied_head:
        head |= {"parameters": 0, "note": "the embedding, used again"}
    return [*rows, head]


def _part(linear: Linear) -> str:
    return "self_attn" if linear.reads.startswith("attention") else "mlp"


def _row(name: str, shape: list[int], count: int) -> dict[str, Any]:
    size = shape[0] * (shape[1] if len(shape) > 1 else 1)
    return {"module": name, "shape": shape, "count": count, "parameters": count * size, "adapter": None, "note": ""}


def _linear_row(linear: Linear, part: str, layers: int, rank: int | None) -> dict[str, Any]:
    adapter = None
    if rank is not None:
        adapter = {
            "lora_A": [rank, linear.inputs],
            "lora_B": [linear.outputs, rank],
            "parameters": layers * rank * (linear.inputs + linear.outputs),
        }
    return {
        "module": f"layers.*.{part}.{linear.name}",
        "shape": [linear.outputs, linear.inputs],
        "count": layers,
        "parameters": layers * linear.parameters,
        "bias": linear.bias,
        "adapter": adapter,
        "note": "",
    }
