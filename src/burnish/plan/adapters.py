"""Which linears get an adapter, and how many numbers that trains."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.core.errors import Problem, RecipeError, did_you_mean
from burnish.plan.architecture import Architecture, Linear

ALL_LINEAR = "all-linear"


def resolve_targets(architecture: Architecture, targets: Sequence[str], *, source: str) -> tuple[str, ...]:
    """Return the sorted names of the linears that get an adapter. `all-linear` stands for each but the output head.

    Raises RecipeError naming `source` and every unknown name at once.
    """
    known = list(dict.fromkeys(linear.name for linear in architecture.linears))
    unknown = [name for name in targets if name != ALL_LINEAR and name not in known]
    if unknown:
        allowed = f"Known for {architecture.model_type}: {', '.join(known)}, or {ALL_LINEAR}."
        raise RecipeError(
            source,
            [
                Problem("method.targets", name, f"no linear layer has this name. {allowed}{did_you_mean(name, known)}")
                for name in unknown
            ],
        )
    return tuple(sorted(known if ALL_LINEAR in targets else set(targets)))


def adapted(linears: Sequence[Linear], targets: Sequence[str]) -> list[Linear]:
    """Return the linears that get an adapter."""
    return [linear for linear in linears if linear.name in targets]


def lora_parameters(
    architecture: Architecture, targets: Sequence[str], rank: int, *, expert_targets: Sequence[str] = ()
) -> int:
    """Numbers that LoRA trains: A (rank, inputs) and B (outputs, rank) beside each target (Hu et al. 2021, 4.1).

    `expert_targets`: of `gate_up_proj` and `down_proj`, those of every expert too, each expert with an A and B of its own,
    as PEFT does with `target_parameters`. burnish itself trains none of them.
    """
    total = 0
    for block in architecture.blocks:
        total += block.count * sum(_numbers(linear, rank) for linear in adapted(block.linears, targets))
        if block.experts is not None:
            experts = adapted(block.experts.linears, expert_targets)
            total += block.count * block.experts.count * sum(_numbers(linear, rank) for linear in experts)
    return total


def peft_all_linear_parameters(architecture: Architecture, rank: int) -> int:
    """Numbers that PEFT 0.21 trains with `all-linear` on Mixtral, OLMoE and Qwen3-MoE: routers and experts too.

    The fused gate_up_proj of an expert stands for two linears and gets twice the rank (`peft/utils/
    transformers_weight_conversion.py`). burnish's own `all-linear` leaves routers and experts as they are.
    """
    names = [linear.name for linear in architecture.linears]
    total = lora_parameters(architecture, names, rank, expert_targets=("down_proj",))
    total += lora_parameters(architecture, (), 2 * rank, expert_targets=("gate_up_proj",))
    sparse = [(block.count, block.experts) for block in architecture.blocks if block.experts is not None]
    return total + sum(layers * rank * (architecture.hidden + experts.count) for layers, experts in sparse)


def _numbers(linear: Linear, rank: int) -> int:
    return rank * (linear.inputs + linear.outputs)
