"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): pairs, and the loss of one packed row of them.

The reference is the model as training begins, computed on the same weights: the base with the adapter off, or with a frozen
copy of the adapter that training goes on from. Each packed row asks it once; later epochs take what was kept. Where every weight
trains, all rows ask before the first step: a frozen copy would hold the weights twice for the whole run, and compute as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.artifacts import PreferencePlan, TrainPlan
from burnish.core.errors import TrainingError
from burnish.core.rows import TokenPair
from burnish.model.preference_loss import pair_rewards, preference_losses
from burnish.train.objective import Loss, Objective, filled_to, packed_objective
from burnish.train.pairs import PackedPairs, lay_pairs, log_probabilities, pair_lengths, reference_log_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def objective(
    plan: TrainPlan,
    pairs: Sequence[TokenPair],
    order: Sequence[Sequence[int]] | None = None,
    *,
    start: Mapping[str, Tensor] | None = None,
    beforehand: bool = False,
) -> Objective[PackedPairs]:
    """Return what the loop needs to learn the preferences of `pairs`. order: see `packed_objective`.

    start: the weights of the adapter that training goes on from (`adapter_copy`), which are the reference then; None where
    it begins with a fresh one, and the base is. beforehand: every row asks the reference before the first step.
    """
    numbers = plan.preference
    if numbers is None:
        raise TrainingError("the plan is not one of preference pairs. Plan again with objective: dpo.")
    device = torch.device(plan.device)
    kept: dict[tuple[str, ...], Tensor] = {}

    def lay(members: Sequence[int]) -> PackedPairs:
        return lay_pairs([pairs[number] for number in members], device, multiple_of=filled_to(plan))

    def reference(model: PreTrainedModel, row: PackedPairs) -> Tensor:
        if row.row_ids not in kept:
            kept[row.row_ids] = reference_log_probabilities(model, row, start)
        return kept[row.row_ids]

    def ask_all(model: PreTrainedModel, rows: Iterator[PackedPairs]) -> None:
        for row in rows:
            reference(model, row)

    def loss_of(model: PreTrainedModel, row: PackedPairs) -> Loss:
        return loss(numbers, row, reference(model, row), log_probabilities(model, row))

    begin = ask_all if beforehand else None
    return packed_objective(plan, pair_lengths(pairs), order, lay=lay, loss=loss_of, begin=begin)


def loss(numbers: PreferencePlan, row: PackedPairs, reference_2P: Tensor, policy_2P: Tensor) -> Loss:
    """Return the summed loss of the pairs of one packed row, and the sums of their rewards."""
    losses_P = preference_losses(
        policy_2P, reference_2P, row.lengths_2P, kind=numbers.loss, beta=numbers.beta, smoothing=numbers.label_smoothing
    )
    rewards = pair_rewards(policy_2P, reference_2P, beta=numbers.beta)._asdict()
    return Loss(losses_P.sum(), {f"reward_{name}": mean * row.units for name, mean in rewards.items()})
