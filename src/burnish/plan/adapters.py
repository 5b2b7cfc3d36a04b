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
    known = [linear.name for linear in architecture.linears]
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


def adapted(architecture: Architecture, targets: Sequence[str]) -> list[Linear]:
    """Return the linears of one layer that get an adapter."""
    return [linear for linear in architecture.linears if linear.name in targets]


def lora_parameters(architecture: Architecture, targets: Sequence[str], rank: int) -> int:
    """Numbers that LoRA trains: A (rank, inputs) and B (outputs, rank) beside each target (Hu et al. 2021, 4.1)."""
    return architecture.layers * sum(
        rank * (linear.inputs + linear.outputs) for linear in adapted(architecture, targets)
    )
