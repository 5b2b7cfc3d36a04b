"""What a recipe's objective means in numbers: the loss of preferences, and the learning rate that goes with it."""

from __future__ import annotations

from burnish.core.artifacts import PreferencePlan
from burnish.core.recipe import Recipe

RATES = {"sft": 1e-3, "dpo": 5e-5}
"""Peak learning rates of an adapter where the recipe says none. A preference is learned on top of what is there."""
FULL_RATES = {"sft": 2e-5, "dpo": 5e-7}
"""Those of every weight (Taori et al. 2023, "Alpaca"; Tunstall et al. 2023, "Zephyr", arXiv:2310.16944, section 4)."""
ADAFACTOR_RATES = {"sft": 1e-3, "dpo": 5e-5}
"""Shares of a weight's root mean square (Raffel et al. 2020, "T5", arXiv:1910.10683, section 3.1, fine-tune at 1e-3)."""


def learning_rate(recipe: Recipe, because: dict[str, str]) -> float:
    """Return the peak learning rate."""
    asked, kind = recipe.train.learning_rate, recipe.objective.kind
    full, relative = recipe.method.kind == "full", recipe.train.optimizer == "adafactor"
    what = "every weight" if full else "an adapter"
    usual = f"the usual rate of {what} with objective: {kind}" + (", as a share of a weight's size" if relative else "")
    because["train.learning_rate"] = usual if asked is None else "the recipe says so"
    rates = (ADAFACTOR_RATES if relative else FULL_RATES) if full else RATES
    return rates[kind] if asked is None else asked


def preference(recipe: Recipe, *, reference_copy: bool, because: dict[str, str]) -> PreferencePlan | None:
    """Return what is learned from pairs, or None where conversations are learned."""
    asked = recipe.objective
    if asked.kind != "dpo":
        return None
    frozen = "the adapter it goes on from, kept frozen" if reference_copy else "the base, with the adapter off"
    if recipe.method.kind == "full":
        frozen = "the model as training begins, asked for every pair before the first step"
    because["train.preference"] = f"{asked.loss} loss of pairs, beta {asked.beta:g}; the reference is {frozen}"
    return PreferencePlan(kind="dpo", beta=asked.beta, loss=asked.loss, label_smoothing=asked.label_smoothing)
