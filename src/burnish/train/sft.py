"""Supervised fine-tuning: which packed rows make a step, and the loss of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.artifacts import TrainPlan
from burnish.core.errors import TrainingError
from burnish.core.packing import packed_tokens, spread_evenly, step_rows
from burnish.core.rows import TokenRow
from burnish.model.losses import target_loss
from burnish.train.objective import Loss, Objective
from burnish.train.pack import PackedRow, lengths_of, pack_indices, pack_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_TOKENS = 32
"""On a CPU the tokens of a packed row are rounded up to a multiple of this. Its bfloat16 products are compiled and kept for
each number of tokens: hundreds of them cost more time and memory than a few tokens of filler."""
GPU_TOKENS = 128
"""On a GPU, for the same reason: rows of few shapes, and of shapes that its products and float8 like."""


def objective(
    plan: TrainPlan,
    rows: Sequence[TokenRow],
    order: Sequence[Sequence[int]] | None = None,
) -> Objective[PackedRow]:
    """Return what the loop needs to learn the answers of `rows`. order: see `batches`."""
    device = torch.device(plan.device)
    return Objective(
        batches=lambda first_step: batches(plan, rows, first_step=first_step, device=device, order=order),
        longest=lambda: longest(plan, rows, device=device, order=order),
        loss=lambda model, row: Loss(loss(model, row)),
    )


def batches(
    plan: TrainPlan,
    rows: Sequence[TokenRow],
    *,
    first_step: int,
    device: torch.device,
    order: Sequence[Sequence[int]] | None = None,
) -> Iterator[list[PackedRow]]:
    """Yield the packed rows of each step from `first_step` (counted from 0) on: the same for the same plan, rows and order.

    order: row numbers of all epochs in blocks that are packed by themselves; None for every row once an epoch, in any order.
    Raises TrainingError when no token has a loss, a row is too long, or the plan counted other steps than there are.
    """
    packed = _packed(plan, rows, order)
    if order is None:
        steps = list(step_rows(len(packed), plan.epochs, plan.rows_per_step, plan.seed))
    else:
        steps = [list(step) for step in spread_evenly(range(len(packed)), plan.rows_per_step)]
    if len(steps) != plan.steps:
        raise TrainingError(
            f"the plan counts {plan.steps} steps, the rows make {len(steps)}. Plan again with the rows that are trained on."
        )
    for step in steps[first_step:]:
        yield [_row(plan, [rows[index] for index in packed[number]], device) for number in step]


def longest(
    plan: TrainPlan,
    rows: Sequence[TokenRow],
    *,
    device: torch.device,
    order: Sequence[Sequence[int]] | None = None,
) -> PackedRow:
    """Return the packed row with the most tokens. Raises TrainingError as `batches` does."""
    lengths = lengths_of(rows)
    row = max(_packed(plan, rows, order), key=lambda members: packed_tokens(lengths, members))
    return _row(plan, [rows[index] for index in row], device)


def _row(plan: TrainPlan, rows: Sequence[TokenRow], device: torch.device) -> PackedRow:
    if device.type == "cuda":
        return pack_row(rows, device, multiple_of=GPU_TOKENS)
    return pack_row(rows, device, multiple_of=CPU_TOKENS if plan.compute_dtype == "bfloat16" else 1)


def _packed(plan: TrainPlan, rows: Sequence[TokenRow], order: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    if not any(any(row.mask[1:]) for row in rows):
        raise TrainingError(
            f"none of the {len(rows)} rows has a token with loss, so there is nothing to learn. "
            "A row needs an answer of the assistant that fits the context."
        )
    return pack_indices(rows, plan.row_tokens, plan.seed, order)


def loss(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """Return the summed loss of one packed row in nats. The caller divides by the trained tokens of the whole step."""
    hidden_BTD = model.base_model(
        input_ids=row.ids_T[None], position_ids=row.layout.positions_T[None], use_cache=False, packed=row.layout
    ).last_hidden_state
    return target_loss(hidden_BTD.squeeze(0), model.get_output_embeddings().weight, row.targets_N, at_N=row.at_N)
