"""What the loop asks of a way to learn: which packed rows make a step, and the loss of one of them.

The loop knows nothing else of it, so it carries supervised fine-tuning, preferences and what comes later without growing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from torch import Tensor

from burnish.core.artifacts import TrainPlan
from burnish.core.errors import TrainingError
from burnish.core.packing import Length, pack, pack_order, packed_tokens, spread_evenly, step_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Packed(Protocol):
    """One forward pass."""

    @property
    def row_ids(self) -> tuple[str, ...]:
        """The rows of the dataset that are in it."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens it computes, without filler."""
        ...

    @property
    def trained_tokens(self) -> int:
        """Tokens whose prediction counts in the loss."""
        ...

    @property
    def units(self) -> int:
        """What the loss of a step is a mean over: trained tokens, or pairs."""
        ...


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one packed row: a scalar with a gradient, summed over its units; and other sums over them, to be told."""

    total: Tensor
    told: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


P = TypeVar("P", bound=Packed)


@dataclass(frozen=True, slots=True)
class Objective(Generic[P]):
    """`batches(first_step)` yields the packed rows of each step; `longest()` is the one with the most tokens.

    `begin(model)` sees the model as it is before the first step of all, whatever checkpoint the run goes on from.
    """

    batches: Callable[[int], Iterator[list[P]]]
    longest: Callable[[], P]
    loss: Callable[[PreTrainedModel, P], Loss]
    begin: Callable[[PreTrainedModel], None] = lambda model: None


def packed_objective(
    plan: TrainPlan,
    lengths: Sequence[Length],
    order: Sequence[Sequence[int]] | None,
    *,
    lay: Callable[[Sequence[int]], P],
    loss: Callable[[PreTrainedModel, P], Loss],
    begin: Callable[[PreTrainedModel, Iterator[P]], None] | None = None,
) -> Objective[P]:
    """Return the objective whose samples of these lengths are packed, and taken step by step, as the plan says.

    order: sample numbers of all epochs in blocks that are packed by themselves; None for every sample once an epoch, in any
    order. lay: makes one packed row of the samples with these numbers. begin: gets the model as the run begins, and all
    packed rows.

    Its batches are the same for the same plan, samples and order; they raise TrainingError when a sample is too long, or
    the plan counted other steps than there are.
    """

    def packed() -> list[list[int]]:
        try:
            if order is not None:
                return pack_order(lengths, order, plan.row_tokens, plan.seed)
            return pack(lengths, plan.row_tokens, plan.seed)
        except ValueError as error:
            raise TrainingError(f"cannot pack the rows: {error}") from error

    def batches(first_step: int) -> Iterator[list[P]]:
        rows = packed()
        for step in _steps(plan, len(rows), in_order=order is not None)[first_step:]:
            yield [lay(rows[number]) for number in step]

    def longest() -> P:
        return lay(max(packed(), key=lambda row: packed_tokens(lengths, row)))

    if begin is None:
        return Objective(batches, longest, loss)
    return Objective(batches, longest, loss, lambda model: begin(model, (lay(row) for row in packed())))


def _steps(plan: TrainPlan, packed_rows: int, *, in_order: bool) -> list[list[int]]:
    if in_order:
        steps = [list(step) for step in spread_evenly(range(packed_rows), plan.rows_per_step)]
    else:
        steps = list(step_rows(packed_rows, plan.epochs, plan.rows_per_step, plan.seed))
    if len(steps) != plan.steps:
        raise TrainingError(
            f"the plan counts {plan.steps} steps, the rows make {len(steps)}. Plan again with the rows that are trained on."
        )
    return steps


CPU_TOKENS = 32
"""On a CPU the tokens of a packed row are rounded up to a multiple of this. Its bfloat16 products are compiled and kept for
each number of tokens: hundreds of them cost more time and memory than a few tokens of filler."""
GPU_TOKENS = 128
"""On a GPU, for the same reason: rows of few shapes, and of shapes that its products and float8 like."""


def filled_to(plan: TrainPlan) -> int:
    """Return what the tokens of a packed row are rounded up to a multiple of."""
    if plan.device == "cuda":
        return GPU_TOKENS
    return CPU_TOKENS if plan.compute_dtype == "bfloat16" else 1
