"""What a recipe says about what is learned from a row: its answer, or to prefer one answer to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from burnish.core.errors import Problem
from burnish.core.section import Section

PreferenceLoss = Literal["sigmoid", "ipo", "hinge"]
OF_PAIRS = ("beta", "loss", "label_smoothing")
"""Keys that only an objective of preference pairs has."""
PAIR_METRICS = ("preference_accuracy", "reward_accuracy")
"""Metrics of a gate that only preference pairs have, both between 0 and 1."""


class Objective(Section):
    """What is learned from a row. `objective: dpo` is short for `objective: {kind: dpo}`."""

    kind: Literal["sft", "dpo"] = Field(
        "sft",
        description="`sft` learns the answers of conversations; `dpo` learns from pairs (prompt, chosen, rejected) to prefer "
        "the chosen answer, and must not stray far from the model it starts as (docs/methods/dpo.md).",
    )
    beta: float = Field(
        0.1,
        gt=0.0,
        le=100.0,
        description="With dpo: how strongly straying is held back; smaller strays further. Typical: 0.05 to 0.5.",
    )
    loss: PreferenceLoss = Field(
        "sigmoid", description="With dpo: the loss of a pair: DPO's own, IPO's squared one, or SLiC's hinge."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="With dpo and the sigmoid loss: the share of pairs whose two answers are taken to be swapped.",
    )

    @property
    def pairs(self) -> bool:
        """Whether a row is a preference pair."""
        return self.kind == "dpo"


def objective_section(value: Any) -> Any:
    """Read `objective: dpo` as a section."""
    return {"kind": value} if isinstance(value, str) else value


def objective_problems(objective: Objective, gate: Mapping[str, float]) -> list[Problem]:
    """Return what does not go together in the keys about the objective: each key may be right by itself."""
    if objective.pairs:
        if objective.label_smoothing and objective.loss != "sigmoid":
            advice = f"only the sigmoid loss has it, not {objective.loss}. Leave it out."
            return [Problem("objective.label_smoothing", f"{objective.label_smoothing:g}", advice)]
        return []
    values = objective.model_dump()
    said = {key: values[key] for key in OF_PAIRS if key in objective.model_fields_set}
    of_dpo = "belongs to preference pairs. Set objective.kind to dpo, or leave it out."
    problems = [Problem(f"objective.{key}", str(value), of_dpo) for key, value in said.items()]
    return problems + [Problem(f"gate.{name}", f"{gate[name]:g}", of_dpo) for name in PAIR_METRICS if name in gate]
