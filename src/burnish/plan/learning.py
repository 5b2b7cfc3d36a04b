"""What a recipe's objective means in numbers: the loss of preferences, and the learning rate that goes with it."""

from __future__ import annotations

from burnish.core.artifacts import PreferencePlan
from burnish.core.recipe import Recipe

RATES = {"sft": 1e-3, "dpo": 5e-5}
"""Peak learning rates of an adapter where the recipe says none. A preference is learned on top of what is there."""


def learning_rate(recipe: Recipe, because: dict[str, str]) -> float:
    """Return the peak learning rate."""
    asked, kind = recipe.train.learning_rate, recipe.objective.kind
    usual = f"the usual rate of an adapter with objective: {kind}"
    because["train.learning_rate"] = usual if asked is None else "the recipe says so"
    return RATES[kind] if asked is None else asked


def preference(recipe: Recipe, *, reference_copy: bool, because: dict[str, str]) -> PreferencePlan | None:
    """Return what is learned from pairs, or None where conversations are learned."""
    asked = recipe.objective
    if asked.kind != "dpo":
        return None
    frozen = "the adapter it goes on from, kept frozen" if reference_copy else "the base, with the adapter off"
    because["train.preference"] = f"{asked.loss} loss of pairs, beta {asked.beta:g}; the reference is {frozen}"
    return PreferencePlan(kind="dpo", beta=asked.beta, loss=asked.loss, label_smoothing=asked.label_smoothing)
