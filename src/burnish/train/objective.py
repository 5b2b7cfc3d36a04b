"""What the loop asks of a way to learn: which packed rows make a step, and the loss of one of them.

The loop knows nothing else of it, so it carries supervised fine-tuning, preferences and what comes later without growing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from torch import Tensor

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
    told: Mapping[str, float] = field(default_factory=dict[str, float])


P = TypeVar("P", bound=Packed)


@dataclass(frozen=True, slots=True)
class Objective(Generic[P]):
    """`batches(first_step)` yields the packed rows of each step; `longest()` is the one with the most tokens."""

    batches: Callable[[int], Iterator[list[P]]]
    longest: Callable[[], P]
    loss: Callable[[PreTrainedModel, P], Loss]
