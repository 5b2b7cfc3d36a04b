"""A run within its memory: the longest row tried first, more layers computed again where memory is short. No number changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from burnish.core.artifacts import Plan, TrainPlan
from burnish.core.errors import ResourceError
from burnish.core.events import Emit, Note
from burnish.core.units import format_bytes
from burnish.model.memory import MemoryPeak, is_out_of_memory
from burnish.model.recompute import Recomputation
from burnish.train.objective import Objective, P

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


def planned_layers(model: PreTrainedModel, numbers: TrainPlan) -> Recomputation:
    """Return what layers give way as the plan says: computed again, in pieces, kept by the host."""
    return Recomputation(
        model, numbers.checkpointed_layers, numbers.feed_forward_again or 0, offloaded=numbers.offloaded_layers or 0,
        piece_tokens=numbers.piece_tokens,
    )  # fmt: skip


class Room:
    """The memory that a plan may fill, and the layers that give way.

    Recomputation changes when activations are there, not what a step computes: its rows, tokens and gradients stay as planned.
    """

    def __init__(self, plan: Plan, layers: Recomputation, peak: MemoryPeak, emit: Emit) -> None:
        self.layers, self.peak, self.emit = layers, peak, emit
        limit, memory = plan.memory.limit_bytes, plan.memory.components
        # What torch allocates is looked at on a GPU; CUDA itself and the allocator's holes come on top.
        beside = memory.get("context", 0) + memory.get("allocator", 0) if plan.train.device == "cuda" else 0
        self.limit = None if limit is None else max(0, limit - beside)

    def hold_longest(self, model: PreTrainedModel, objective: Objective[P]) -> None:
        """Hold the activations of the longest row once before the first step; more layers give way while it holds too much.

        If memory is short, this says so in the first minute; and the heap of a CPU, grown for the longest row, has room for
        the shorter ones (without it, it ends up to a fifth larger). Raises ResourceError when it does not fit at all.
        """

        def hold() -> int:
            held = objective.loss(model, objective.longest())
            found = self.peak.look()
            del held
            return found

        self.peak.again()
        found = self.within(hold)
        while self.limit is not None and found > self.limit:
            says = f"the longest row brings {format_bytes(found)}, more than the {format_bytes(self.limit)} that may be filled"
            if not self._grow(says):
                self.emit(Note("train", f"{says}; every layer is computed again already"))
                return
            found = self.within(hold)

    def within(self, work: Callable[[], T], restart: Callable[[], bool] = lambda: True) -> T:
        """Return what `work` gives; where memory runs out it is done again with more layers computed again.

        restart: takes back what the work has done so far; False when it cannot. Raises ResourceError when nothing is left to give.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                says = " ".join(str(error).split())[:160]
            # Only here have the tensors that the failed call held been let go of.
            if not restart() or not self._grow(f"memory ran out ({says})"):
                raise ResourceError(
                    f"memory ran out in training, with {self.layers.whole} layers computed again whole: {says} "
                    "Use qlora, a smaller base or a smaller train.row_tokens. The last checkpoint is kept."
                )

    def _grow(self, says: str) -> bool:
        if not self.layers.grow():
            return False
        self.peak.again()
        now = f"{self.layers.whole} whole and {self.layers.feed_forward} by their feed-forward half"
        if self.layers.offloaded:
            now += f", of which the host keeps what {self.layers.offloaded} leave"
        self.emit(Note("train", f"{says}; layers computed again from now on: {now}"))
        return True
