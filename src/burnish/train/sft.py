"""Supervised fine-tuning: conversations, and the loss of one packed row of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.artifacts import TrainPlan
from burnish.core.errors import TrainingError
from burnish.core.rows import TokenRow
from burnish.model.losses import logits_of, target_loss
from burnish.train.objective import Loss, Objective, filled_to, packed_objective
from burnish.train.pack import PackedRow, lengths_of, pack_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def objective(
    plan: TrainPlan, rows: Sequence[TokenRow], order: Sequence[Sequence[int]] | None = None
) -> Objective[PackedRow]:
    """Return what the loop needs to learn the answers of `rows`. order: see `packed_objective`.

    Raises TrainingError when no token has a loss.
    """
    if not any(any(row.mask[1:]) for row in rows):
        raise TrainingError(
            f"none of the {len(rows)} rows has a token with loss, so there is nothing to learn. "
            "A row needs an answer of the assistant that fits the context."
        )
    device = torch.device(plan.device)

    def lay(numbers: Sequence[int]) -> PackedRow:
        return pack_row([rows[number] for number in numbers], device, multiple_of=filled_to(plan))

    return packed_objective(plan, lengths_of(rows), order, lay=lay, loss=lambda model, row: Loss(loss(model, row)))


def loss(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """Return the summed loss of one packed row in nats. The caller divides by the trained tokens of the whole step."""
    hidden_BTD = model.base_model(
        input_ids=row.ids_T[None], position_ids=row.layout.positions_T[None], use_cache=False, packed=row.layout
    ).last_hidden_state
    head_VD = model.get_output_embeddings().weight
    return target_loss(hidden_BTD.squeeze(0), head_VD, row.targets_N, at_N=row.at_N, logits=logits_of(model))
