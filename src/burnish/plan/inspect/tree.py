"""The modules of a decoder with their shapes, and where adapters go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burnish.plan.architecture import Architecture, Block, Linear


@dataclass(frozen=True, slots=True)
class Names:
    """What transformers calls the parts of a model type."""

    layers: str = "model.layers"
    attention: str = "self_attn"
    embedding: str = "model.embed_tokens"
    shared_experts: str = "shared_experts"


NAMES = {
    "gpt2": Names("transformer.h", "attn", "transformer.wte"),
    "gpt_neox": Names("gpt_neox.layers", "attention", "gpt_neox.embed_in"),
    "falcon": Names("transformer.h", "self_attention", "transformer.word_embeddings"),
    "qwen2_moe": Names(shared_experts="shared_expert"),
}
"""Those that differ from the usual ones."""


def module_tree(architecture: Architecture, targets: tuple[str, ...], rank: int) -> list[dict[str, Any]]:
    """Return a row for each kind of module: name, shape, numbers, how often, and the shapes of an adapter on it.

    Names are those of transformers, `*` for the number of a layer. The linears of one layer stand for all layers of its kind;
    `count` says how many there are. The numbers of all rows add up to the model's.
    """
    names = NAMES.get(architecture.model_type, Names())
    rows = [_row(names.embedding, [architecture.vocabulary, architecture.hidden], 1)]
    for block in architecture.blocks:
        rows += _block_rows(block, names, targets, rank)
    if architecture.outside:
        rows.append(_row("norm and what else is outside the layers", [architecture.outside], 1))
    head = _row("lm_head", [architecture.vocabulary, architecture.hidden], 1)
    if architecture.tied_head:
        head |= {"parameters": 0, "note": "the embedding, used again"}
    return [*rows, head]


def _block_rows(block: Block, names: Names, targets: tuple[str, ...], rank: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    within = f"{names.layers}.*"
    attention = [linear for linear in block.linears if not linear.reads.startswith("mlp")]
    for linear in [*attention, *(linear for linear in block.linears if linear not in attention)]:
        part = names.attention if linear in attention else "mlp"
        if block.experts is not None and part == "mlp" and linear.name != "shared_expert_gate":
            part = f"mlp.{names.shared_experts}"
        wanted = rank if linear.name in targets else None
        rows.append(_linear_row(linear, f"{within}.{part}.{linear.name}", block.count, wanted))
    if block.experts is not None:
        for linear in block.experts.linears:
            shape = [block.experts.count, linear.outputs, linear.inputs]
            numbers = block.count * block.experts.count * linear.parameters
            expert = _row(f"{within}.mlp.experts.{linear.name}", shape, block.count)
            rows.append({**expert, "parameters": numbers, "note": f"a token uses {block.experts.active}"})
    if block.other:
        rows.append(_row(f"{within}: norms{', router' if block.experts else ''}", [block.other], block.count))
    return rows


def _row(name: str, shape: list[int], count: int) -> dict[str, Any]:
    size = count
    for side in shape:
        size *= side
    return {"module": name, "shape": shape, "count": count, "parameters": size, "adapter": None, "note": ""}


def _linear_row(linear: Linear, name: str, count: int, rank: int | None) -> dict[str, Any]:
    row = _row(name, [linear.outputs, linear.inputs], count)
    row["parameters"] = count * linear.parameters
    if rank is not None:
        row["adapter"] = {
            "lora_A": [rank, linear.inputs],
            "lora_B": [linear.outputs, rank],
            "parameters": count * rank * (linear.inputs + linear.outputs),
        }
    return row
