"""The longest context and the largest known model that fit where a plan runs."""

from __future__ import annotations

from collections.abc import Callable

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.recipe_train import Method
from burnish.core.units import format_bytes
from burnish.plan.activations import Workload, is_fused, moved_bytes
from burnish.plan.adapters import ALL_LINEAR, resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import KnownModel, known_models
from burnish.plan.hardware import Hardware
from burnish.plan.host import host_of
from burnish.plan.memory import training_components
from burnish.plan.refused import why_refused
from burnish.plan.solve import Inputs
from burnish.plan.time import rates

SHORTEST_CONTEXT = 64
BESIDE = ("prepared", "rows", "calibration")
"""Components of a plan that do not depend on how long its rows are."""


def largest_context(inputs: Inputs, plan: Plan, machine: Hardware) -> tuple[int, str] | None:
    """Return the longest row that training could hold, and why; None without a limit.

    Every layer is computed again; what they keep goes to the host's memory where the row fits no other way, the recipe allows
    it and the host holds it. At most the model's own context; 0 when not even a short row fits.
    """
    available, device = plan.memory.available_bytes, plan.train.device
    if available is None:
        return None
    architecture, dtype, asked = read_architecture(inputs.config), plan.train.compute_dtype, inputs.recipe.train
    host = host_of(machine, rates(machine, device), fused=is_fused(architecture, plan.method))
    beside = sum(plan.memory.components.get(name, 0) for name in BESIDE)

    def holds(tokens: int, offloaded: int) -> bool:
        work = Workload(tokens, tokens * tokens, tokens)
        parts = training_components(
            architecture, plan.method, device=device, dtype=dtype, work=work, checkpointed_layers=architecture.layers,
            offloaded_layers=offloaded, streamed_layers=plan.train.streamed_layers or 0,
            reference_copy="reference" in plan.memory.components, optimizer=asked.optimizer,
            optimizer_in_backward=asked.optimizer_in_backward,
        )  # fmt: skip
        return beside + sum(parts.values()) <= available and (
            host.bytes is None or on_host(tokens, offloaded) <= host.bytes
        )

    def on_host(tokens: int, offloaded: int) -> int:
        work = Workload(tokens, tokens * tokens, tokens)
        return moved_bytes(architecture, dtype, work, whole=architecture.layers, halves=0, offloaded=offloaded)[0]

    ways = [0] if device == "cpu" or asked.activation_offload == "never" else [0, architecture.layers]
    found = {
        offloaded: _longest(lambda tokens, way=offloaded: holds(tokens, way), architecture.context)
        for offloaded in ways
    }
    offloaded = max(found, key=lambda way: (found[way], -way))
    tokens = found[offloaded]
    how = "with every layer recomputed"
    if offloaded:
        how = f"{how}, what they keep in the host's memory ({format_bytes(on_host(tokens, offloaded))}),"
    if tokens == architecture.context:
        return tokens, f"the model's own context; it fits {how.removesuffix(',')}"
    if tokens == 0:
        return 0, f"{format_bytes(available)} hold no row at all, with every layer recomputed and {plan.method.kind}"
    return tokens, f"{format_bytes(available)} hold it {how} and {plan.method.kind}; nothing longer"


def _longest(holds: Callable[[int], bool], most: int) -> int:
    """Return the longest row that is held, to SHORTEST_CONTEXT tokens; 0 for none, `most` at most."""
    if holds(most):
        return most
    low, high = 0, most
    while high - low > SHORTEST_CONTEXT:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def largest_model(plan: Plan, available: int | None) -> tuple[KnownModel, str] | None:
    """Return the largest known model that qlora fits, of this plan's rank, rows as long as here, every layer recomputed.

    A plan that trains every weight has no rank; the recipe's default is taken. Bases that a run refuses are passed over.
    """
    if available is None:
        return None
    tokens = plan.train.row_tokens
    work, rank = Workload(tokens, tokens * tokens, tokens), plan.method.rank or int(Method.model_fields["rank"].default)
    trainable = (model for model in known_models() if why_refused(model.config) is None)
    for model in sorted(trainable, key=lambda model: -model.parameters):
        architecture = read_architecture(model.config, source=model.name)
        method = MethodPlan(
            kind="qlora", rank=rank, alpha=2.0 * rank, dropout=0.0, quantisation="nf4", double_quantisation=True,
            targets=resolve_targets(architecture, (ALL_LINEAR,), source=model.name),
        )  # fmt: skip
        found = training_components(
            architecture, method, device=plan.train.device, dtype=plan.train.compute_dtype, work=work,
            checkpointed_layers=architecture.layers,
        )  # fmt: skip
        peak = sum(found.values())
        if peak <= available:
            return model, f"qlora of rank {rank} on rows of {tokens:,} tokens peaks at {format_bytes(peak)}"
    return None
