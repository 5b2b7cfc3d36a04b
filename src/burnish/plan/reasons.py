"""A reason for every number of a plan: those that it was made with, and of the rest where they come from."""

from __future__ import annotations

from typing import Any

from burnish.core.artifacts import Plan
from burnish.plan.memory import COMPONENTS

RECIPE = "as the recipe has it, or by default (docs/recipe.md)"
BY_RECIPE = (
    "method.rank", "method.alpha", "method.dropout", "train.seed", "train.epochs", "train.weight_decay",
    "train.max_gradient_norm",
)  # fmt: skip
ADAMW = "AdamW's defaults (Loshchilov and Hutter 2019, arXiv:1711.05101)"
STATED = {
    "train.betas": ADAMW,
    "train.epsilon": ADAMW,
    "tokens.per_epoch": "of the same count as tokens.total, one epoch",
    "tokens.trained": "of tokens.total, those with loss: answers and their end of turn",
    "memory.available_bytes": "free on the device, as far as the limits given allow",
    "memory.limit_bytes": "train.memory_share of memory.available_bytes; more layers are computed again to keep below it",
    "memory.peak_band": "more than any run of docs/plan.md was off by: 14% on a CPU, 8% on a GPU",
    "memory.host_bytes": "pinned memory of the host: activations and weights that a GPU leaves there",
    "memory.by_device": "the peak of each GPU; peak_bytes and components are those of the fullest",
    "cost.usd_per_hour": "the rate of cost.usd; of a machine of your own its electricity",
    "cost.parts": "what the middle of cost.usd is made of",
    "cost.energy_kwh": "the device's watts over time.total",
    "cost.spot_usd": (
        "on spot machines: the hours grow by interruptions an hour, times half of the time between two checkpoints and a restart"
    ),
    "correction": "measured over what formulas say, of a probe or of earlier runs: see the becauses of time and memory",
}


def reasons(plan: Plan) -> dict[str, str]:
    """Return a reason for each number of the plan's JSON, by its key or the key of what holds it; none for what is not there."""
    memory, known, value = plan.memory, plan.because, plan.model_dump()
    found = dict.fromkeys(BY_RECIPE, RECIPE) | STATED
    for key in ("train.feed_forward_again", "train.piece_tokens"):
        found[key] = f"goes with train.checkpointed_layers: {known['train.checkpointed_layers']}"
    found = {key: why for key, why in found.items() if _at(value, key) is not None}
    found |= {f"memory.components.{name}": COMPONENTS[name] for name in memory.components}
    return found | {"time.seconds": known["time.total"]} | known


def _at(value: Any, key: str) -> Any:
    for name in key.split("."):
        value = None if value is None else value[name]
    return value
